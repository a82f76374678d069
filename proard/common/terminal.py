"""What a person sees: lines and tables that fit, and a little colour where there is a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

import typer

WIDTH = 80  # columns, where there is no terminal to ask
LABEL = re.compile(
    r"(?:[a-z]+|runs on): +| {9}(?=\S)"
)  # what many lines begin with, such as "next:    ", or a line below it
STYLES: dict[str, dict[str, Any]] = {"next": {"fg": "cyan", "bold": True}, "warning": {"fg": "yellow"}}
OTHER_LABELS: dict[str, Any] = {"dim": True}
LEAST_KEY = 12  # columns that a folded name keeps, at least
GAPS = ("  ", " ")  # between columns: the narrow one where everything then fits beside each other


def width() -> int:
    """Columns to print on: the terminal's; 80 where standard output is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def styled(text: str, stream: TextIO | None = None, **style: Any) -> str:
    """The text in a style of `typer.style`, if the stream is a terminal that shows it and NO_COLOR is not set.

    Args:
        text: without line breaks.
        stream: where it will be printed; default standard output.
        style: such as ``fg="red"`` or ``bold=True``.
    """
    shown = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return typer.style(text, **style) if shown else text


def say(line: str, fold: bool = False) -> None:
    """Print a line; a label that it begins with (``next:``, ``front:``) is set apart by a style.

    Args:
        line: of any length. Paths, and commands to be copied, stay in one piece.
        fold: break it between words where it does not fit, indented below what follows the label.
    """
    label = LABEL.match(line)
    indent = " " * (label.end() if label else 0)
    lines = fold_text(line, indent) if fold else [line]
    if label and label[0].strip():
        style = STYLES.get(line.split(":")[0], OTHER_LABELS)
        lines[0] = styled(label[0].rstrip(), **style) + lines[0][len(label[0].rstrip()) :]
    print("\n".join(lines))


def warn(text: str) -> None:
    """Print one line on standard error, in yellow where there is colour."""
    print(styled(text, sys.stderr, fg="yellow"), file=sys.stderr)


def fold_text(text: str, indent: str = "") -> list[str]:
    """A text as lines that fit; no word is broken.

    Args:
        text: its line breaks are taken for spaces.
        indent: of every line but the first.
    """
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width(), subsequent_indent=indent, **options) or [""]


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Aligned columns below a header. Columns that do not fit follow in a further table, by the same first column.

    Args:
        rows: values by the name of their column; every row names its columns in the same order, and may lack some. The
            first column is the key: where a name in it is so long that no other column fits beside it, it is folded.
            No other value is ever broken.

    Returns:
        Lines, with an empty one between tables; none for no rows.
    """
    if not rows:
        return []
    key, *others = dict.fromkeys(name for row in rows for name in row)
    values = {name: max(len(row.get(name, "")) for row in rows) for name in others}
    widths = {name: max(len(name), values[name]) for name in others}
    longest = max([len(key), *(len(row.get(key, "")) for row in rows)])
    room = width() - max([len(GAPS[0]) + w for w in widths.values()], default=0)
    widths[key] = min(longest, max(room, LEAST_KEY))
    lines: list[str] = []
    groups, gap = _groups(key, others, widths, values, GAPS[0]), GAPS[0]
    if len(groups) > 1 and len(close := _groups(key, others, widths, values, GAPS[1])) == 1:
        groups, gap = close, GAPS[1]
    for group in groups:
        lines += [""] if lines else []
        (head,) = _row({name: name for name in group}, group, widths, gap)
        if len(head) > width():  # the last name, which then moves to the left; its values have room
            head = head[: -len(group[-1])].rstrip().ljust(width() - len(group[-1])) + group[-1]
        lines.append(head)
        for row in rows:
            lines += _row(row, group, widths, gap)
    return lines


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the lines of `table`, headers bold where there is colour."""
    before = ""
    for line in table(rows):
        print(styled(line, bold=True) if line and not before else line)
        before = line


def _groups(
    key: str, others: Sequence[str], widths: Mapping[str, int], values: Mapping[str, int], gap: str
) -> list[list[str]]:
    """As many columns as fit beside the key, again and again; at least one each time.

    The name of the last one may stick out, if it can move to the left above its values.
    """
    groups = [[key]]
    for name in others:
        last = groups[-1][-1]
        start = sum(widths[column] + len(gap) for column in groups[-1])
        beyond = max(start + widths[name] - width(), 0)
        moves = start + values[name] <= width() and beyond <= widths[last] - len(last)
        if beyond and len(groups[-1]) > 1 and not moves:
            groups.append([key])
        groups[-1].append(name)
    return groups


def _row(row: Mapping[str, str], group: Sequence[str], widths: Mapping[str, int], gap: str) -> list[str]:
    """One line, or more where the key is folded."""
    key, *others = group
    folded = textwrap.wrap(row.get(key, ""), widths[key]) or [""]
    cells = [folded[0].ljust(widths[key]), *(row.get(name, "").ljust(widths[name]) for name in others)]
    return [gap.join(cells).rstrip(), *folded[1:]]


def duration(seconds: float) -> str:
    """A time for people: ``45 s``, ``2 min 30 s``, ``21 min``, ``3 h 5 min``, ``2 days 4 h``."""
    for (name, size), (smaller, part) in pairwise((("day", 86400), ("h", 3600), ("min", 60), ("s", 1))):
        count, rest = divmod(max(round(seconds / part), 1), size // part)
        if count >= 10:
            count, rest = round(seconds / size), 0
        if count:
            name += "s" if name == "day" and count > 1 else ""
            return f"{count} {name} {rest} {smaller}" if rest else f"{count} {name}"
    return f"{rest} s"
