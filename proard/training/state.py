"""What a checkpoint of a training holds, and how the training goes on from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from proard.common.distributed import gathered, rank
from proard.config import Config
from proard.data import TrainingImages
from proard.runs.run import Run
from proard.samplers import Sampler
from proard.supernet import Supernet
from proard.training.compute import ComputeMeter
from proard.training.student_record import StudentRecord
from proard.training.teachers import ExternalTeacher


@dataclass
class Position:
    """Where a training stands: the next batch to take. All counts from 0."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0


class Training(Protocol):
    """The parts of a training that are saved, and those that say how."""

    config: Config
    fingerprint: str
    source: TrainingImages
    run: Run
    device: torch.device
    generator: torch.Generator
    supernet: Supernet
    averaged: Supernet | None
    external: ExternalTeacher | None
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    position: Position
    record: StudentRecord
    compute: ComputeMeter
    best: dict[str, Any] | None
    lowest_loss: float

    def seed_generators(self, step: int) -> None:
        """Begin to draw anew."""


def capture(training: Training) -> dict[str, Any]:
    """All that a bit-for-bit continuation needs, and the best weights for extraction; called on all ranks together."""
    averaged, external = training.averaged, training.external
    own_teacher = None if training.teacher in (None, external) else training.teacher
    return {
        "config": training.config.model_dump(mode="json"),
        "data": training.fingerprint,
        "extra": training.source.fingerprint,
        "position": asdict(training.position),
        "supernet": training.supernet.state_dict(),
        "averaged": averaged and averaged.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "sampler": training.sampler.state_dict(),
        "teacher": own_teacher and own_teacher.state_dict(),
        "teacher_file": external and {"source": external.source, "sha256": external.sha256},
        "best": training.best,
        "random": gathered(_random_state(training)),
        "record": gathered(training.record.sums.cpu()),
        "compute": training.compute.state(),
        "lowest_loss": training.lowest_loss,
        "metrics_bytes": training.run.metrics.stat().st_size if training.run.metrics.exists() else 0,
        "finished": training.position.phase == len(training.config.phases),
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """What is left of a state once the training stands at its phase, with the teacher that it had."""
    training.supernet.load_state_dict(state["supernet"])
    if training.averaged is not None:
        training.averaged.load_state_dict(state["averaged"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.sampler.load_state_dict(state["sampler"])
    training.best, training.lowest_loss = state["best"], state["lowest_loss"]
    if rank() == 0:
        training.compute.load(state["compute"])
    processes = len(gathered(None))
    if len(state["random"]) == processes:
        training.record.sums.copy_(state["record"][rank()])
        _set_random_state(training, state["random"][rank()])
    else:  # another number of processes: every one keeps the joint record, and draws anew
        training.record.sums.copy_(torch.stack(state["record"]).sum(0) / len(state["record"]))
        training.seed_generators(state["position"]["step"])
    if training.run.metrics.exists() and rank() == 0:
        with training.run.metrics.open("r+b") as file:  # rows that a killed process wrote later will be written again
            file.truncate(state["metrics_bytes"])


def _random_state(training: Training) -> dict[str, torch.Tensor]:
    states = {"torch": torch.get_rng_state(), "generator": training.generator.get_state().cpu()}
    if training.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(training.device)
    return states


def _set_random_state(training: Training, states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    training.generator.set_state(states["generator"].cpu())
    if training.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), training.device)
