"""What goes wrong when a student is written in a format."""

from __future__ import annotations

from proard.common.errors import Stopped


class ExportError(Stopped):
    """A format could not be written, or what was written does not compute what the student computes."""


def one_line(error: BaseException) -> str:
    """The first line of a message, for errors of exporters, which are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
