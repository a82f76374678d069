"""Whether what a page shows has the shape of what a command really printed or wrote: the same words, other numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from documented.pages import Fault

NUMBER = re.compile(r"(?<![A-Za-z_])[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?:[KMG]i?B?|[mun]?s|B)?(?![A-Za-z_])")


def shape(line: str) -> str:
    """The line with every number, also one with a unit such as 1.2M or 5ms, as ``#``, and single spaces."""
    return " ".join(re.sub(r"-{3,}", "---", NUMBER.sub("#", line)).split())


def check_lines(shown: Iterable[str], printed: str, where: str = "") -> None:
    """Every line that is shown must have been printed; ``...`` stands for anything, alone for any lines.

    Raises:
        Fault: the first line that was not; its message begins with ``where``.
    """
    real = {shape(line) for line in printed.splitlines()}
    for line in shown:
        wanted = re.escape(shape(line)).replace(r"\.\.\.", ".*").replace("…", ".*")
        if not any(re.fullmatch(wanted, candidate) for candidate in real):
            raise Fault(
                f"{where}shows '{line.strip()}', but no such line is printed:\n{printed.rstrip() or '(nothing)'}"
            )


def check_json(text: str, folder: Path) -> None:
    """All keys that are shown must be in one JSON file (or line of a .jsonl) below a folder.

    Raises:
        Fault: broken JSON, or no such file; names the keys that the nearest one lacks.
    """
    try:
        shown = set(_keys(json.loads(text)))
    except ValueError as error:
        raise Fault(f"not valid JSON: {error}") from None
    lacking = {path: shown - written for path, written in _written(folder)}
    if not lacking:
        raise Fault("shows JSON, but no command of the page wrote any")
    nearest = min(lacking, key=lambda path: len(lacking[path]))
    if lacking[nearest]:
        raise Fault(f"shows keys that no file has; nearest is {nearest}, without {', '.join(sorted(lacking[nearest]))}")


def _keys(value: Any) -> Iterator[str]:
    """Names at any depth; those that are not identifiers are values themselves, such as a block's layers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.isidentifier():
                yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _written(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        text = path.read_text(encoding="utf-8")
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            yield path.relative_to(folder), set(_keys(json.loads(part)))
