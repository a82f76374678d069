"""What a checkpoint of a training holds, and how the training goes on from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from proard.common.distributed import gathered, rank

if TYPE_CHECKING:
    from proard.training.trainer import Trainer


@dataclass
class Position:
    """Where a training stands: the next batch to take. All counts from 0."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0


def capture(trainer: Trainer) -> dict[str, Any]:
    """All that a bit-for-bit continuation needs, and the best weights for extraction; called on all ranks together."""
    averaged, external = trainer.averaged, trainer.external
    return {
        "config": trainer.config.model_dump(mode="json"),
        "position": asdict(trainer.position),
        "supernet": trainer.supernet.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "sampler": trainer.sampler.state_dict(),
        "teacher": None if trainer.teacher in (None, external) else trainer.teacher.state_dict(),
        "teacher_file": external and {"source": external.source, "sha256": external.sha256},
        "best": trainer.best,
        "random": gathered(_random_state(trainer)),
        "record": gathered(trainer.record.sums.cpu()),
        "lowest_loss": trainer.lowest_loss,
        "metrics_bytes": trainer.run.metrics.stat().st_size if trainer.run.metrics.exists() else 0,
        "finished": trainer.position.phase == len(trainer.config.phases),
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """What is left of a state once the trainer stands at its phase, with the teacher that it had."""
    trainer.supernet.load_state_dict(state["supernet"])
    if trainer.averaged is not None:
        trainer.averaged.load_state_dict(state["averaged"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.sampler.load_state_dict(state["sampler"])
    trainer.best, trainer.lowest_loss = state["best"], state["lowest_loss"]
    processes = len(gathered(None))
    if len(state["random"]) == processes:
        trainer.record.sums.copy_(state["record"][rank()])
        _set_random_state(trainer, state["random"][rank()])
    else:  # another number of processes: every one keeps the joint record, and draws anew
        trainer.record.sums.copy_(torch.stack(state["record"]).sum(0) / len(state["record"]))
        trainer.seed_generators(state["position"]["step"])
    if trainer.run.metrics.exists() and rank() == 0:
        with trainer.run.metrics.open("r+b") as file:  # rows that a killed process wrote later will be written again
            file.truncate(state["metrics_bytes"])


def _random_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    states = {"torch": torch.get_rng_state(), "generator": trainer.generator.get_state().cpu()}
    if trainer.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return states


def _set_random_state(trainer: Trainer, states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    trainer.generator.set_state(states["generator"].cpu())
    if trainer.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), trainer.device)
