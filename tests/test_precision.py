"""Training and attacks in bfloat16 stay near those in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_families import SMALL_FAMILIES
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from proard.attacks import PGD, ThreatModel
from proard.common.device import autocast, weights_to_cast
from proard.config import parse_config
from proard.data import load_data
from proard.runs.run import Run
from proard.supernet import build_supernet
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


class Casts(TorchDispatchMode):
    """Counts changes of type."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_weights_that_are_cast_once_train_as_those_cast_in_every_pass(family: str) -> None:
    """The same logits and gradients, and two casts less for every weight: there, and of its gradient.

    Bit for bit, but where the images of several layers are then cast once, too, whose gradients add up in bfloat16.
    """
    kernels = {"kernel_choices": [3, 5]} if "kernel_choices" in SMALL_FAMILIES[family] else {}
    options = {**SMALL_FAMILIES[family], **kernels}
    supernet = build_supernet(family, num_classes=4, input_shape=(3, 16, 16), **options)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 3, 16, 16, generator=generator), torch.arange(6) % 4
    for architecture in (supernet.space.smallest(), supernet.space.largest()):
        found: list[list[torch.Tensor]] = []
        casts: list[int] = []
        for precision in (torch.float32, torch.bfloat16):
            supernet.zero_grad()
            torch.manual_seed(0)  # of dropout
            student = supernet.student(architecture, precision)
            with Casts() as mode:
                with autocast(torch.device("cpu"), torch.bfloat16):
                    logits = student(images)
                functional.cross_entropy(logits.float(), labels).backward()
            casts.append(mode.count)
            supernet.accumulate(student)
            gradients = [w.grad.clone() for w in supernet.parameters() if w.grad is not None]
            found.append([logits.detach(), *gradients])
        assert torch.equal(found[0][0], found[1][0])
        for expected, gradient in zip(*found, strict=True):
            apart = (gradient - expected).norm()
            assert apart < 0.01 * expected.norm() if family == "vit" else apart == 0
        assert all(gradient.dtype == torch.float32 for gradient in found[1][1:])
        assert casts[0] - casts[1] >= 2 * len(weights_to_cast(student)) > 0


@pytest.mark.parametrize("foldable", [True, False])
def test_the_teacher_keeps_its_weights_and_answers_with_cast_ones(
    tiny: dict[str, Any], tmp_path: Path, foldable: bool
) -> None:
    """Its checkpoint holds what it had; its answers are those of the autocast, also if it answers itself."""
    if not foldable:
        tiny["supernet"] = {"family": "vit", "patch_size": 4, "stem": "patch"}
    trainer, _ = trained(tiny, "bfloat16", tmp_path)
    images = next(trainer.train_images.batches(trainer._batches()[:1], trainer.device))[0]
    assert trainer.teacher is None  # TRADES
    teacher = trainer.supernet.extract(trainer.supernet.space.largest(), [images])
    trainer._learn_from(teacher)
    assert trainer.answering is not None
    assert {weight.dtype for weight in teacher.parameters()} == {torch.float32}
    low = weights_to_cast(trainer.answering)
    assert {trainer.answering.get_parameter(name).dtype for name in low} == {torch.bfloat16}
    with torch.no_grad(), autocast(trainer.device, torch.bfloat16):
        expected, answers = teacher(images).float(), trainer.answering(images).float()
    torch.testing.assert_close(answers, expected, rtol=0.05, atol=0.05)
