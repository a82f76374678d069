"""Measuring students of a trained run on validation images."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable

import torch

from proard.attacks import attack_as_dict
from proard.evaluation.accuracy import measure
from proard.runs import components
from proard.runs.components import evaluation_batches, threat_model
from proard.runs.trained_run import TrainedRun
from proard.search.labels import Fingerprint, MeasuredLabel
from proard.supernet import Architecture


class Labeller:
    """Calibrates students and measures them on the validation images and with the attack of ``search``.

    Test images are never read. Every label has the same images and the same random draws of the attack.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained
        config, settings = trained.config, trained.config.search
        self.attack = components.attack(settings.attack, threat_model(config), "search.attack")
        images = trained.data.validation.subset(settings.images, config.seed)
        self._batches = list(evaluation_batches(images, trained.data.input_shape, trained.device))
        parts = {
            "weights": _digest(trained.supernet.state_dict().values()),
            "network": config.supernet.model_dump(mode="json", exclude={"weights"}),
            "images": _digest(tensor for batch in self._batches for tensor in batch),
            "calibration": [config.validation.calibration_images, config.batch_size, config.data.split_seed],
            "attack": attack_as_dict(self.attack),
            "seed": config.seed,
        }
        self.fingerprint = Fingerprint(json.loads(json.dumps(parts)))  # as it comes back from a file

    def __call__(self, architecture: Architecture) -> MeasuredLabel:
        """Clean accuracy, and robust accuracy under the attack."""
        start = time.perf_counter()
        student = self.trained.supernet.extract(architecture, self.trained.calibration)
        measured = measure(student, self._batches, {"attack": self.attack}, seed=self.trained.config.seed)
        clean, robust = measured.clean, measured.robust["attack"]
        return MeasuredLabel(clean.value, robust.value, clean.total, time.perf_counter() - start)


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    """SHA-256 of the values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
