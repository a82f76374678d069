"""The `report` command: one HTML page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from proard.common.errors import UserError
from proard.common.files import atomic_write
from proard.common.paths import path_of
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run, read_metrics

PAGE = "report.html"


def write_report(
    run: str | Path | None = None,
    out: str | Path | None = None,
    *,
    quiet: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
) -> Path:
    """Write a page with all that is in a run directory, and some test images attacked.

    Args:
        run: the run directory; default the newest.
        out: the file; default ``report.html`` in the run directory.
        quiet: no progress bar.
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.

    Returns:
        The file.

    Raises:
        UserError: no run, one that was never trained, no folder for ``out``, or plotly is not installed.
        OSError: the file cannot be written; an older one stays as it was.
    """
    directory = Run.find(run, data_root, data)
    if not directory.checkpoint.is_file() and not any(
        r.get("kind") == "epoch" for r in read_metrics(directory.metrics)
    ):
        raise UserError(
            f"run {directory.path}: was never trained; 'proard train --resume --run {directory.path}' does it"
        )
    path = directory.path / PAGE if out is None else path_of(out)
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; give a file, such as {path / PAGE}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: no folder {path.parent}; make it first")
    if find_spec("plotly") is None:
        raise UserError("the report needs the package 'plotly'; pip install 'proard[report]'")

    meter = EnergyMeter(directory.config().energy, directory.energy, "report")

    from proard.report.page import page  # torch, and all that it reads a run with
    from proard.report.run_contents import RunContents

    with meter:
        text = page(RunContents(directory), quiet)
    atomic_write(path, text)
    return path
