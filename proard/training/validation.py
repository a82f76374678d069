"""What is measured at the end of an epoch: a fixed handful of students, calibrated, on validation images."""

from __future__ import annotations

import random

import torch
from torch import nn

from proard.common.distributed import gathered, rank, world_size
from proard.config import Config
from proard.data import DataSplits
from proard.evaluation.accuracy import Measurement, measure
from proard.runs import components
from proard.runs.components import calibration_batches, evaluation_batches, threat_model
from proard.supernet import Architecture, SearchSpace, Supernet
from proard.training.compute import ComputeMeter

TEACHER_IMAGES = 100


class Validator:
    """Measures students on validation images; never sees a test image.

    Args:
        config: of the run.
        data: all splits, of which train (for calibration) and validation are used.
        device: where the students run.
    """

    def __init__(self, config: Config, data: DataSplits, device: torch.device) -> None:
        self.seed = config.seed
        self.random_students = config.validation.students
        self.attack = components.attack(config.validation.attack, threat_model(config), "validation.attack")
        self.calibration = calibration_batches(config, data, device)
        images = data.validation.subset(config.validation.images, config.seed)
        self._batches = list(evaluation_batches(images, data.input_shape, device))

    def teacher(self, network: nn.Module) -> Measurement:
        """Measure a teacher from elsewhere on a few of the same images, under the same attack, before it teaches."""
        images, labels = (torch.cat(part)[:TEACHER_IMAGES] for part in zip(*self._batches, strict=True))
        return measure(network, [(images, labels)], {self.attack.name: self.attack}, seed=self.seed, own=False)

    def students(self, space: SearchSpace) -> dict[str, Architecture]:
        """The largest, the smallest and some random students of a space; always the same ones, each once."""
        rng = random.Random(self.seed)
        named = {"largest": space.largest(), "smallest": space.smallest()}
        named.update({f"random{i}": space.sample(rng) for i in range(1, self.random_students + 1)})
        first_name = {architecture: name for name, architecture in reversed(named.items())}
        return {name: architecture for name, architecture in named.items() if first_name[architecture] == name}

    def __call__(self, supernet: Supernet, space: SearchSpace, compute: ComputeMeter) -> dict[str, dict[str, float]]:
        """Measure `students`, spread over the ranks, under the attack of `validation.attack`.

        Args:
            supernet: to cut from.
            space: the part of its space that is trained.
            compute: counts what it takes.

        Returns:
            By name: ``clean`` and ``robust`` accuracy in [0, 1], and ``multiply_adds``.
        """
        chosen = self.students(space)
        found: dict[str, dict[str, float]] = {}
        for name in list(chosen)[rank() :: world_size()]:
            cost = supernet.space.cost(chosen[name]).multiply_adds
            student = supernet.extract(chosen[name], self.calibration)
            compute.spent["validation"] += float(cost * sum(map(len, self.calibration)))
            compute.watch(student, cost, "validation")
            measured = measure(student, self._batches, {self.attack.name: self.attack}, seed=self.seed)
            robust = measured.robust[self.attack.name].value
            found[name] = {"clean": measured.clean.value, "robust": robust, "multiply_adds": cost}
        everywhere = {name: result for part in gathered(found) for name, result in part.items()}
        return {name: everywhere[name] for name in chosen}
