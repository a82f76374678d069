"""`proard train`: prepare a run, train it, and leave it in its directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from proard.common.device import keep_freed_memory
from proard.common.distributed import first_one_first, from_first, process_group, rank
from proard.common.errors import UserError
from proard.common.files import RunLock
from proard.config import Config, load_config, parse_config
from proard.data import Loaded, given_arrays, in_memory
from proard.export.named import is_named
from proard.runs.checkpoint import check_unchanged, load_checkpoint
from proard.runs.energy import EnergyMeter
from proard.runs.resolve import resolve
from proard.runs.run import Run
from proard.runs.trackers import Tracking
from proard.runs.trackers import build as build_trackers
from proard.training.trainer import Trainer


def train(
    config: str | Path | dict[str, Any] | Config | None = None,
    *,
    run: str | Path | None = None,
    overrides: Sequence[str] = (),
    scale_epochs: float | None = None,
    resume: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
    quiet: bool = False,
    before: Callable[[Trainer], None] | None = None,
) -> Path:
    """Train a supernet, or in `mode: student` one fixed network.

    Args:
        config: a file, the name of a packaged configuration, plain values, or a `Config`; may be left out with
            ``resume``.
        run: the directory to make (default ``runs/<config>-<time>``), or with ``resume`` to continue (default the
            newest).
        overrides: such as ``phases.1.epochs=2``.
        scale_epochs: makes every phase this many times as long, at least one epoch each.
        resume: continue an interrupted run; its configuration must not have changed.
        data_root: where the images are on this machine; default where the configuration says.
        data: arrays or tensors in the place of the set that the configuration names: training images, their labels,
            test images, their labels, and optionally the names of the classes. Images are uint8, or floats in [0, 1],
            of the shape (N, H, W), (N, H, W, C) or (N, C, H, W); labels are whole numbers from 0. They are not kept:
            whatever reads them later has to be given them again.
        quiet: plain lines instead of a progress bar.
        before: called by every process of a job when all is ready, before the first step: to say what will be done.

    Returns:
        The run directory.

    Raises:
        UserError: wrong input; nothing was written.
        Interrupted: Ctrl-C or SIGTERM; the run was saved.
    """
    with process_group(), ExitStack() as stack:
        given = given_arrays(data)
        prepared = _prepared(config, run, overrides, scale_epochs, resume, given) if rank() == 0 else None
        path, settings = from_first(prepared)  # type: ignore[misc]  # which is not None on the first rank
        directory = Run(path, data_root, given)
        if rank() == 0 and run is None and not resume:
            stack.callback(directory.remove_if_empty)  # where what follows is refused
        meter = EnergyMeter(settings.energy, directory.energy, "train") if rank() == 0 else None
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        keep_freed_memory()
        with first_one_first():
            state = load_checkpoint(directory.checkpoint) if resume and directory.checkpoint.exists() else None
            images = directory.images(settings)
            trainer = Trainer(settings, images, directory, quiet, fresh=state is None)
        if meter is not None:
            if not resume:
                directory.make()
            stack.enter_context(RunLock(directory.path))
            if not resume:
                directory.create(settings)
            stack.enter_context(meter)
        if state is not None:
            trainer.load(state)
        elif rank() == 0:
            directory.metrics.unlink(missing_ok=True)  # of a run killed before its first checkpoint
        if meter is not None:
            tracking = stack.enter_context(Tracking(directory, settings, build_trackers(settings)))
            trainer.after_save = lambda: _saved(meter, tracking)
        if before is not None:
            before(trainer)
        trainer.fit()
    return directory.path


def _saved(meter: EnergyMeter, tracking: Tracking) -> None:
    """What is done after every checkpoint."""
    meter.save()
    tracking.follow()


def _prepared(
    config: str | Path | dict[str, Any] | Config | None,
    run: str | Path | None,
    overrides: Sequence[str],
    scale_epochs: float | None,
    resume: bool,
    given: Loaded | None,
) -> tuple[Path, Config]:
    """The run directory and the resolved configuration, with what can be refused before the images are read."""
    if run is not None and not resume and is_named(run):
        raise UserError(f"run {run}: is the name of something to read; give a directory to --run")
    directory = Run.find(run) if resume else Run(run) if run is not None else None
    if resume and directory is not None and config is None:
        settings = directory.config() if not overrides else load_config(directory.config_file, overrides)
    elif config is None:
        raise UserError("train needs --config NAME|PATH; 'proard configs' lists the packaged ones")
    else:
        if given is not None and isinstance(config, dict) and isinstance(section := config.get("data", {}), dict):
            config = {**config, "data": {"name": "arrays", **section}}
        settings = _settings(config, overrides)
    if given is not None:
        settings = settings.model_copy(update={"data": in_memory(settings.data, given)})
    if scale_epochs is not None:
        settings = settings.scaled(scale_epochs)
    settings = resolve(settings)
    build_trackers(settings)  # refuses those that are not installed
    if directory is None:
        directory = Run.fresh(config if isinstance(config, str | Path) else "run")
    elif resume and directory.checkpoint.exists():
        check_unchanged(load_checkpoint(directory.checkpoint), settings, directory.checkpoint)
    elif not resume and directory.config_file.exists():
        directory.create(settings)  # refuses
    return directory.path, settings


def _settings(config: str | Path | dict[str, Any] | Config, overrides: Sequence[str]) -> Config:
    if isinstance(config, str | Path):
        return load_config(config, overrides)
    if overrides:
        raise UserError("overrides are for a configuration file; change the values instead")
    return config if isinstance(config, Config) else parse_config(config)
