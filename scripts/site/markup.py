"""Text of docstrings and options as Markdown."""

from __future__ import annotations

import re

BAR = re.compile(r"\|(?=[^`]*(?:`[^`]*`[^`]*)*$)")  # outside of code


def plain(text: str) -> str:
    """Code in single quotes; angle brackets outside of code are text, not tags."""
    pieces = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in pieces)


def table_row(*cells: str) -> str:
    """A row of a table; bars in the text of a cell do not end it, and those in code do not anyway."""
    return f"| {' | '.join(BAR.sub('&#124;', cell) for cell in cells)} |"
