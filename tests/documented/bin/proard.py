"""What the package proard is in the programs of the documentation, under test: the same, with short work.

This folder comes first in PYTHONPATH, so that ``python -m proard`` runs this file, also under torchrun, and ``import
proard`` finds it. Both hand over to the package itself.
"""

import os
import sys
from pathlib import Path

here = Path(__file__).resolve().parent


def elsewhere(place: str) -> bool:
    return Path(place).resolve() != here


sys.path[:] = [*filter(elsewhere, sys.path), str(here.parent.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(elsewhere, os.environ["PYTHONPATH"].split(os.pathsep)))
sys.modules.pop("proard", None)  # this file, where it is imported

from documented.shortening import main, short_work  # noqa: E402

if __name__ == "__main__":
    main(sys.argv[1:])
else:
    short_work().__enter__()
