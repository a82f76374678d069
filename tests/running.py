"""The command line in this process."""

from __future__ import annotations

import pytest

from proard.commands.cli import main


def command(*arguments: str) -> int:
    """The exit code of ``proard ARGUMENTS``."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)
