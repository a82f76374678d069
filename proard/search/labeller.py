"""Measuring students of a trained run on validation images."""

from __future__ import annotations

import hashlib
import json
import time

import torch

from proard import build
from proard.build import calibration_batches, check_phases, evaluation_batch_size, supernet_for, threat_model
from proard.config import Config
from proard.data import DataSplits, load_data, sequential_batches
from proard.device import resolve_device
from proard.evaluation import attack_as_dict, measure
from proard.run import Run
from proard.search.labels import Fingerprint, MeasuredLabel
from proard.supernet import Architecture, Supernet
from proard.terminal import warn
from proard.training.checkpoint import load_checkpoint


class TrainedRun:
    """A run with its best weights: what students are cut from.

    Args:
        run: with a checkpoint.

    Attributes:
        finished: whether its training has ended.
        calibration: batches of training images, on the device, for batch-norm statistics.

    Raises:
        UserError: no checkpoint, or a damaged one; images that are missing.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config: Config = run.config()
        self.device = resolve_device(self.config.device)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        state = load_checkpoint(run.checkpoint)
        self.finished: bool = state["finished"]
        if not self.finished:
            warn(
                f"run {run.path}: training has not finished, students have its weights so far; "
                f"'proard train --resume --run {run.path}' goes on with it"
            )
        self.data: DataSplits = load_data(self.config.data)
        self.supernet: Supernet = supernet_for(self.config, self.data)
        check_phases(self.config, self.supernet.space)
        self.supernet.load_state_dict(state["best"]["weights"] if state["best"] else state["supernet"])
        self.supernet.to(self.device)
        self.calibration = calibration_batches(self.config, self.data, self.device)


class Labeller:
    """Calibrates students and measures them on the validation images and with the attack of ``search``.

    Test images are never read. Every label has the same images and the same random draws of the attack.

    Args:
        trained: the run.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained
        settings, config = trained.config.search, trained.config
        self.attack = build.attack(settings.attack, threat_model(config), "search.attack")
        images = trained.data.validation.subset(settings.images, config.seed)
        size = evaluation_batch_size(trained.data.input_shape, trained.device)
        cut = (len(images) + 1) // 2
        indices = [sequential_batches(cut, size), [cut + i for i in sequential_batches(len(images) - cut, size)]]
        self._halves = [list(images.batches(half, trained.device)) for half in indices]
        self.fingerprint = self._fingerprint()

    def __call__(self, architecture: Architecture) -> MeasuredLabel:
        """Clean accuracy, and robust accuracy under the attack."""
        start = time.perf_counter()
        student = self.trained.supernet.extract(architecture, self.trained.calibration)
        seed = self.trained.config.seed
        measured = [measure(student, half, {"attack": self.attack}, seed=seed) for half in self._halves]
        images = sum(m.clean.total for m in measured)
        first, second = ((m.clean.value, m.robust["attack"].value) for m in measured)
        return MeasuredLabel(
            sum(m.clean.correct for m in measured) / images,
            sum(m.robust["attack"].correct for m in measured) / images,
            images,
            (first, second),
            time.perf_counter() - start,
        )

    def _fingerprint(self) -> Fingerprint:
        config, trained = self.trained.config, self.trained
        tensors = [tensor for batches in self._halves for batch in batches for tensor in batch]
        calibration = [config.validation.calibration_images, config.batch_size, config.data.split_seed]
        parts = {
            "weights": _digest(list(trained.supernet.state_dict().values())),
            "network": config.supernet.model_dump(mode="json", exclude={"weights"}),
            "images": _digest(tensors),
            "calibration": calibration,
            "attack": attack_as_dict(self.attack),
            "seed": config.seed,
        }
        return Fingerprint(json.loads(json.dumps(parts)))  # as it comes back from a file


def _digest(tensors: list[torch.Tensor]) -> str:
    """SHA-256 of the values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
