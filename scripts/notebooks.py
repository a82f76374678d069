"""Run the notebooks of ``docs/`` and write their outputs into them: ``python scripts/notebooks.py [NOTEBOOK]...``

They run from top to bottom, each in a fresh kernel of this interpreter, whatever other kernels are installed, with
one thread, so that another run differs as little as it can. What changes with every run and says nothing (times of
execution, the kernel's version) is left out. Needs ``proard[dev]``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = (ROOT / "docs" / "quickstart.ipynb", ROOT / "docs" / "supernet.ipynb")
TIMEOUT = 900  # seconds for one cell, on a machine that is busy with other things


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels of the interpreter that runs this."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start one; no folder of installed kernels is looked at."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh run in ``folder``.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    # The first import of matplotlib in an environment looks through all fonts, and says so: not in a notebook.
    import matplotlib.font_manager  # noqa: F401

    notebook = nbformat.read(path, as_version=4)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    NotebookClient(
        notebook,
        kernel_manager_class=OwnKernelManager,
        timeout=TIMEOUT,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env=environment, cwd=str(folder))
    return cleaned(notebook)


def cleaned(notebook: Any) -> Any:
    """Without what differs from run to run; texts that came in pieces are joined."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        joined: list[Any] = []
        for output in cell.outputs:
            is_text = output.output_type == "stream"
            if is_text and joined and joined[-1].output_type == "stream" and joined[-1].name == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
            if "metadata" in output:
                output.metadata = {}
        cell.outputs = joined
    return notebook


def main(arguments: list[str]) -> None:
    """Write the outputs of all notebooks, or of those that are named."""
    for path in map(Path, arguments or map(str, NOTEBOOKS)):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
