"""A trained run with its best weights, its images and its calibration: what students are cut from."""

from __future__ import annotations

import torch

from proard.common.device import resolve_device
from proard.common.terminal import warn
from proard.config import Config
from proard.data import DataSplits
from proard.runs.checkpoint import check_same_data, check_unchanged, load_checkpoint
from proard.runs.components import calibration_batches, supernet_for
from proard.runs.run import Run
from proard.supernet import Supernet

MEASURING = ("threat", "validation")  # sections that say how students are chosen and measured, too


class TrainedRun:
    """A run with its best weights: what students are cut from.

    Args:
        run: with a checkpoint.
        config: in place of the run's own.

    Attributes:
        finished: whether its training has ended.
        calibration: batches of training images, on the device, for batch-norm statistics.

    Raises:
        UserError: no checkpoint, or a damaged one; a configuration or images that are not those of the training.
    """

    def __init__(self, run: Run, config: Config | None = None) -> None:
        self.run = run
        self.config: Config = config or run.config()
        self.device = resolve_device(self.config.device)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        state = load_checkpoint(run.checkpoint)
        if config is None and (changed := check_unchanged(state, self.config, run.checkpoint, "run", but=MEASURING)):
            warn(f"run {run.path}: {', '.join(changed)} of config.yaml changed since the training; as it says now")
        self.finished: bool = state["finished"]
        if not self.finished:
            warn(
                f"run {run.path}: training has not finished, students have its weights so far; "
                f"'proard train --resume --run {run.path}' goes on with it"
            )
        self.data: DataSplits = run.images(self.config)
        check_same_data(state, self.data.fingerprint(), f"run {run.path}")
        self.supernet: Supernet = supernet_for(self.config, self.data)
        self.supernet.load_state_dict(state["best"]["weights"] if state["best"] else state["supernet"])
        self.supernet.to(self.device)
        self.calibration = calibration_batches(self.config, self.data, self.device)
