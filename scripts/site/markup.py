"""Text of docstrings and options as Markdown."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """Code in single quotes; angle brackets outside of code are text, not tags."""
    pieces = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in pieces)


def table_row(*cells: str) -> str:
    """A row of a table; bars inside of cells do not end them."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
