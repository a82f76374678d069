"""The house: which rooms `proard/` has, and that every import goes downwards."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "proard"

# From the bottom to the top. A room imports from the levels below its own, and from itself.
LEVELS = (
    {"common"},
    {"attacks", "config", "supernet"},
    {"objectives", "evaluation", "data", "samplers"},
    {"export"},
    {"runs"},
    {"training", "search"},
    {"report"},
    {"commands"},
    {"__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def modules(package: Path) -> dict[str, Path]:
    """Every file by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path) -> Iterator[tuple[str, str, int]]:
    """Who imports what, and in which line; also inside functions, and for types alone."""
    known = modules(package)
    for importer, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                module = node.module or ""
                # `from room import file` is an import of the file, `from file import name` one of that file.
                names = [f"{module}.{a.name}" if f"{module}.{a.name}" in known else module for a in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] == package.name:
                    yield importer, name, node.lineno


def room(module: str) -> str:
    """The room of a dotted name; the package itself is its front door."""
    return module.split(".")[1] if "." in module else "__init__"


def upward_imports(package: Path) -> list[str]:
    """Imports from a room of the same level or of one above."""
    return [
        f"{importer}:{line} imports {name}"
        for importer, name, line in imports(package)
        if room(importer) != room(name) and LEVEL[room(name)] >= LEVEL[room(importer)]
    ]


def circle(package: Path) -> list[str]:
    """Files that import each other in a circle, if there is one."""
    graph: dict[str, set[str]] = {name: set() for name in modules(package)}
    for importer, name, _ in imports(package):
        if name in graph and name != importer:
            graph[importer].add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_rooms():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(LEVEL) - {"__init__", "__main__"}
    assert len(folders) <= 14
    assert len(LEVELS) <= 10
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


def test_every_import_goes_down():
    assert upward_imports(PACKAGE) == []


def test_no_circle():
    assert circle(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("common/files.py", "from proard.supernet import Architecture"),
        ("supernet/space.py", "from proard.config import Config"),
        ("evaluation/accuracy.py", "import proard.data.sets"),
        ("training/trainer.py", "def late():\n    from proard.commands import train"),
        ("search/labels.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from proard import extract"),
    ],
)
def test_an_arrow_that_is_turned_round_is_seen(tmp_path, file, line):
    shutil.copytree(PACKAGE, tmp_path / "proard", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "proard" / file
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    assert len(upward_imports(tmp_path / "proard")) == 1


def test_a_circle_is_seen(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "proard", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "proard" / "training" / "state.py"
    text = f"{changed.read_text(encoding='utf-8')}\ndef late():\n    from proard.training import trainer\n"
    changed.write_text(text, encoding="utf-8")
    assert circle(tmp_path / "proard")
