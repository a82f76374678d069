"""What every tracker is, and the numbers in a row of metrics.jsonl."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from proard.common.errors import UserError
from proard.common.registry import Registry
from proard.config import Config

PLACES = ("kind", "phase", "epoch", "step", "steps")  # of a row: where in the training it is, no result


class Tracker(ABC):
    """Receives the rows of one run, in order, each once; in one process after the other if the run is resumed.

    Arguments of ``__init__`` are the options that a configuration may set. An exception of any method ends the tracking
    in this process with a warning, never the training.

    Attributes:
        package: that must be installed, which is also the name of proard's extra; None for none.
        state: what a later process needs to go on, such as the number of the run on a server; plain values, kept in the
            run's ``trackers.json``.
    """

    package: ClassVar[str | None] = None
    state: dict[str, Any]

    @abstractmethod
    def start(self, run: Path, config: Config) -> None:
        """Begin in the run's directory, with its resolved configuration, or go on where ``state`` says."""

    @abstractmethod
    def log(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl; `scalars` gives its numbers."""

    def finish(self, complete: bool) -> None:  # noqa: B027 (nothing, unless something is open)
        """The last row of this process was logged; not ``complete`` if the training was interrupted or failed."""

    def require_package(self, where: str) -> None:
        """Check that what the tracker needs is installed.

        Raises:
            UserError: names the package and the extra.
        """
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            raise UserError(f"{where} needs the package '{self.package}'; pip install 'proard[{self.package}]'")


trackers: Registry[Tracker] = Registry("tracker")


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by ``PHASE/NAME`` (of training), ``PHASE/validation/NAME`` and so on; unknown ones left out.

    Validated students are by name: ``PHASE/validation/largest/robust``. Accuracies are in [0, 1]. Lists, such as the
    bins of what was sampled, have no place in a curve and are left out.
    """
    prefix = row["phase"] if row["kind"] == "epoch" else f"{row['phase']}/{row['kind']}"
    found: dict[str, float | None] = {}
    for name, value in row.items():
        if name == "students":
            for student, result in value.items():
                found |= {f"{prefix}/{student}/{accuracy}": result[accuracy] for accuracy in ("clean", "robust")}
        elif name == "compute":
            found |= {f"{prefix}/compute/{purpose}": amount for purpose, amount in value.items()}
        elif name not in PLACES and isinstance(value, int | float):
            found[f"{prefix}/{name}"] = value
    return {name: float(value) for name, value in found.items() if value is not None}
