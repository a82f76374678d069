"""Training and attacks in bfloat16 stay near those in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from proard.attacks import PGD, ThreatModel
from proard.common.device import autocast
from proard.config import parse_config
from proard.data import load_data
from proard.runs.run import Run
from proard.training import Trainer

STEPS = 4


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.supernet.parameters()])


def trained(tiny: dict[str, Any], precision: str, folder: Path) -> tuple[Trainer, torch.Tensor]:
    """After a few steps of four students each: the trainer, and how far all weights have come."""
    phase = {"name": "all", "epochs": 1, "learning_rate": 0.1, "elastic": ["all"], "objective": {"name": "trades"}}
    config = parse_config({**tiny, "precision": precision, "phases": [phase]})
    trainer = Trainer(config, load_data(config.data), Run(folder), quiet=True)
    before = weights(trainer)
    batches = trainer.train_images.batches(trainer._batches()[:STEPS], trainer.device)
    for images, labels in batches:
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.1
        trainer._step(images, labels)
    return trainer, weights(trainer) - before


@pytest.fixture
def both(tiny: dict[str, Any], tmp_path: Path) -> dict[str, tuple[Trainer, torch.Tensor]]:
    tiny["supernet"]["dropout"] = 0.0
    return {precision: trained(tiny, precision, tmp_path / precision) for precision in ("float32", "bfloat16")}


def test_a_few_steps_go_the_same_way(both: dict[str, tuple[Trainer, torch.Tensor]]) -> None:
    """More apart than rounding alone would set them: the signs of an attack turn where gradients are near zero."""
    (trainer, full), (_, half) = both["float32"], both["bfloat16"]
    assert functional.cosine_similarity(full, half, dim=0) > 0.85
    assert (half - full).norm() < 0.6 * full.norm()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.supernet.parameters())


def test_an_attack_finds_as_much(both: dict[str, tuple[Trainer, torch.Tensor]]) -> None:
    """What PGD finds in bfloat16, judged in float32, against what it finds in float32."""
    trainer, _ = both["float32"]
    student = trainer.supernet.student(trainer.supernet.space.largest()).train()
    images, labels = next(trainer.data.train.batches([torch.arange(len(trainer.data.train))], "cpu"))
    attack, losses = PGD(ThreatModel("linf", 0.1), steps=10), {}
    with torch.no_grad():
        losses["clean"] = functional.cross_entropy(student(images), labels)
    for precision in (torch.float32, torch.bfloat16):
        with autocast(trainer.device, precision):
            adversarial = attack(student, images, labels)
        with torch.no_grad():
            losses[str(precision)] = functional.cross_entropy(student(adversarial), labels)
    found, expected = (losses[str(p)] - losses["clean"] for p in (torch.bfloat16, torch.float32))
    assert expected > 0.2
    assert abs(found / expected - 1) < 0.05
