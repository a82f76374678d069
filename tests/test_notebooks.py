"""The notebooks of docs/: they run, and what is committed in them is what a run gives."""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = [ROOT / "docs" / name for name in ("quickstart.ipynb", "supernet.ipynb")]
SECONDS = 180  # of processor time, with one thread: what it takes on a machine that does nothing else
MOST_BYTES = 400_000
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?[KMG]?\b")

Output = dict[str, Any]


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def text(value: str | Sequence[str]) -> str:
    """Files keep texts as lists of lines."""
    return value if isinstance(value, str) else "".join(value)


def texts(cell: Any) -> list[str]:
    """All that is written in a cell's outputs, whatever shows it."""
    found = []
    for output in cell["outputs"]:
        found.append(text(output.get("text", "")))
        found += [text(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def kinds(cell: Any) -> list[tuple[str, ...]]:
    """What a cell's outputs are, in order."""
    return [(o["output_type"], o.get("name", ""), *sorted(o.get("data", ()))) for o in cell["outputs"]]


def said(cell: Any) -> set[str]:
    """The different lines of a cell's plain texts, without their numbers, which differ between processors.

    Of what is shown as a picture or as HTML, the plain text is left out: a student found by a search may have more or
    fewer decisions.
    """
    plain = [text(o.get("text", "")) for o in cell["outputs"]]
    plain += [text(o["data"]["text/plain"]) for o in cell["outputs"] if set(o.get("data", ())) == {"text/plain"}]
    lines = (NUMBER.sub("#", line).strip() for part in plain for line in part.splitlines())
    return {re.sub(r"#( #)+", "#", line) for line in lines}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def committed(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_cell_was_run_once_in_order(committed: Any) -> None:
    code = cells(committed, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shows = re.compile(r"\bprint\(|\bdisplay\(|plt\.subplots|^\w+(\[0\])?$(?![\s\S])", re.MULTILINE)
    sources = {id(cell): text(cell["source"]) for cell in code}
    printing = [c for c in code if shows.search(sources[id(c)]) and not re.search(r"^def train", sources[id(c)], re.M)]
    assert len(printing) > len(code) / 2
    for cell in printing:
        assert cell["outputs"], text(cell["source"])


def test_outputs_are_quiet_and_of_no_machine(path: Path, committed: Any) -> None:
    assert path.stat().st_size < MOST_BYTES
    for cell in cells(committed, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", text(output["text"])
        for written in texts(cell):
            assert not re.search(r"(?<![\w<.])/(?!FLOP)\w+/|[A-Z]:\\|0x[0-9a-f]{6}|Warning", written), written
            assert "%|" not in written  # a progress bar
    assert committed["metadata"].keys() == {"kernelspec", "language_info"}
    assert not any(cell["metadata"] for cell in committed["cells"])


def test_links_lead_somewhere(path: Path, committed: Any) -> None:
    links = [link for c in cells(committed, "markdown") for link in re.findall(r"\]\(([^)\s]+)\)", text(c["source"]))]
    assert links
    for link in links:
        assert link.startswith("https://") or (path.parent / link).is_file(), link


def script() -> ModuleType:
    """scripts/notebooks.py, which is in no package."""
    place = ROOT / "scripts" / "notebooks.py"
    specification = importlib.util.spec_from_file_location("notebooks", place)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.documentation
def test_it_runs_and_says_what_is_committed(path: Path, committed: Any, tmp_path: Path) -> None:
    """A cell that fails, an assertion in it too, fails this test."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    executed = script().execute(path, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert 5 < after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    for old, new in zip(cells(committed, "code"), cells(executed, "code"), strict=True):
        assert kinds(new) == kinds(old), text(old["source"])
        assert said(new) == said(old), text(old["source"])


@pytest.mark.documentation
def test_a_cell_that_fails_is_an_error(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra dev")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2, 'as it should'")])
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    with pytest.raises(Exception, match="as it should"):
        script().execute(tmp_path / "wrong.ipynb", tmp_path)


@pytest.mark.documentation
def test_the_kernel_is_of_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kernel is installed under the usual name."""
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra dev")
    kernels = tmp_path / "kernels" / "python3"
    kernels.mkdir(parents=True)
    wrong = {"argv": ["false"], "display_name": "wrong", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(wrong))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.executable)")])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(notebook, tmp_path / "who.ipynb")
    executed = script().execute(tmp_path / "who.ipynb", tmp_path)
    assert executed.cells[0].outputs[0].text.strip() == sys.executable
