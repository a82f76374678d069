"""`proard profile`: measure the blocks of a run's space on this device, and how well they predict students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proard.common.errors import UserError
from proard.common.paths import path_of
from proard.evaluation.latency.execution import Execution
from proard.evaluation.latency.limits import TABLE
from proard.evaluation.latency.profiling import profile_supernet
from proard.evaluation.latency.table import LatencyTable
from proard.runs.components import supernet_for
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run


@dataclass(frozen=True)
class Profile:
    """A table, and where it is.

    Attributes:
        run: that it is for.
        path: of the file.
        table: with the whole students that were measured, and the error of their predictions.
        distinct: different blocks of the space; the table has as many entries, or fewer and interpolates.
    """

    run: Path
    path: Path
    table: LatencyTable
    distinct: int


def profile(
    run: str | Path | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    runtime: str = "eager",
    threads: int | None = None,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
    seconds: float = 0.1,
    most_blocks: int = 400,
    students: tuple[int, int] = (8, 12),
    quiet: bool = False,
) -> Profile:
    """Measure every distinct block of the run's space, and whole students, and write the table.

    Weights are random: they do not change how long a network takes, so the run need not be trained.

    Args:
        run: the run directory; default the newest in ``runs/``.
        batch_size: images at once.
        dtype: float32, bfloat16 or float16.
        runtime: eager, export or onnxruntime.
        threads: inside an operator; default what PyTorch chooses.
        out: the file to write; default ``latency.json`` in the run directory.
        device: auto, cpu, cuda ...
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.
        seconds: to time each block for; a whole student three times as long.
        most_blocks: where there are more, so many are measured, spread evenly over kinds and sizes; others are
            interpolated by a regression on layers, multiply-adds and bytes.
        students: how many whole students to fit the overhead on, and how many others to test the predictions with.
        quiet: no progress bar.

    Raises:
        UserError: no run, a value out of range, a missing package, or a file that cannot be written.
    """
    execution = Execution(batch_size, dtype, runtime, threads, device).resolved()
    directory = Run.find(run, data_root, data)
    config = directory.config()
    meter = EnergyMeter(config.energy, directory.energy, "profile")
    supernet = supernet_for(config, directory.images(config))
    path = directory.path / TABLE if out is None else path_of(out)
    if not path.parent.is_dir():  # refused now rather than after the measurements
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    with meter:
        table, distinct = profile_supernet(
            supernet, execution, seconds=seconds, most_blocks=most_blocks, students=students, quiet=quiet
        )
    table.save(path)
    return Profile(directory.path, path, table, distinct)
