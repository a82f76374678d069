"""KDIGA's second derivatives: against finite differences, in every family, under autocast, and where they vanish."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from proard.attacks import PGD, ThreatModel
from proard.objectives import KDIGA, Objective
from proard.supernet import build_supernet, families

ATTACK = PGD(ThreatModel("linf", 0.05), steps=1)
# Small versions of every family; a family that is not named here is tested with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"widths": (16, 24), "blocks": (1, 1)},
    "resnet50": {"widths": (32, 48), "blocks": (1, 1), "depth_choices": (0, 1)},
    "mobilenetv3": {"depth_choices": (1,), "width_multiplier": 0.25},
    "proxyless": {"depth_choices": (1,), "width_multiplier": 0.25},
    "mobilenetv2": {"depth_choices": (1,), "width_multiplier": 0.25},
    "vit": {"width_choices": (16,), "depth_choices": (2,), "heads_choices": (2,), "head_channels": 8},
    "timm": {"model": "vit_tiny_patch16_224", "model_options": {"img_size": 16, "patch_size": 4, "depth": 2}},
}
NEEDS = {"timm": "timm"}  # optional packages
Images = tuple[torch.Tensor, torch.Tensor]


def images(count: int, dtype: torch.dtype = torch.float64) -> Images:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, 3, 16, 16, generator=generator, dtype=dtype), torch.arange(count) % 4


def student_and_teacher(family: str) -> tuple[nn.Module, nn.Module]:
    """Two students of a supernet in float64, with different weights; one trains, the other does not."""
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    nets = [
        build_supernet(family, num_classes=4, input_shape=(3, 16, 16), seed=number, **SMALL.get(family, {})).double()
        for number in range(2)
    ]
    student = nets[0].student(nets[0].space.sample(random.Random(0)))
    with torch.no_grad():  # weights that are zero at first would hide what lies before them
        generator = torch.Generator().manual_seed(5)
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    teacher = nets[1].student(nets[1].space.largest())
    for module in [*student.modules(), *teacher.modules()]:
        if isinstance(module, nn.Dropout):
            module.eval()
    return student, teacher


def gradients(objective: Objective, student: nn.Module, teacher: nn.Module, batch: Images) -> torch.Tensor:
    loss = objective(student, teacher, *batch, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(loss)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()))])
    assert torch.isfinite(gradient).all()
    return gradient


@pytest.mark.parametrize("align", ["clean", "adversarial"])
@pytest.mark.parametrize("family", families.names())
def test_gradient_is_that_of_finite_differences(family: str, align: Any) -> None:
    """Along a random direction of all weights; ``x'`` stays put, as its steps are signs."""
    student, teacher = student_and_teacher(family)
    batch, objective = images(4), KDIGA(ATTACK, 0.0, alignment_weight=3.0, align=align)
    gradient = gradients(objective, student, teacher, batch)
    generator = torch.Generator().manual_seed(4)
    direction = functional.normalize(torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype), dim=0)
    before = nn.utils.parameters_to_vector(student.parameters()).detach()
    step, losses = 1e-6, []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(before + sign * step * direction, student.parameters())
        losses.append(objective(student, teacher, *batch, generator=torch.Generator().manual_seed(1)).item())
    expected = torch.tensor((losses[0] - losses[1]) / (2 * step), dtype=gradient.dtype)
    torch.testing.assert_close(gradient @ direction, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", families.names())
def test_every_family_under_autocast(family: str) -> None:
    """In channels-last memory as in training: the alignment reaches every weight that it reaches in float64."""
    student, teacher = student_and_teacher(family)

    def reached(batch: Images) -> list[bool]:
        with_it, without = (
            gradients(KDIGA(alignment_weight=weight), student, teacher, batch).split(sizes) for weight in (1.0, 0.0)
        )
        return [bool((a - b).norm() > 1e-4 * b.norm()) for a, b in zip(with_it, without, strict=True)]

    sizes = [parameter.numel() for parameter in student.parameters()]
    expected = reached(images(4))
    assert any(expected)
    for net in (student, teacher):
        net.float().to(memory_format=torch.channels_last)
    pixels, labels = images(4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert reached((pixels.contiguous(memory_format=torch.channels_last), labels)) == expected


def test_a_perfect_match_has_no_gradient() -> None:
    """At zero the norm has no derivative; taken for 0, or training from a copy of the teacher would end in NaN."""
    student, _ = student_and_teacher("resnet")
    gradient = gradients(KDIGA(distillation_weight=1.0), student, student, images(4))
    assert gradient.abs().max() < 1e-12


def test_images_do_not_depend_on_how_many_there_are() -> None:
    student, teacher = Fused(True, seed=0).double(), Fused(True, seed=1).double()
    pixels, labels = images(4)
    objective = KDIGA(alignment_weight=10.0)
    whole = objective(student, teacher, pixels, labels)
    parts = [objective(student, teacher, pixels[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


class Fused(nn.Module):
    """What other people's networks are made of: fused attention and hard sigmoids, or the same written out."""

    def __init__(self, fused: bool, seed: int = 0) -> None:
        super().__init__()
        self.fused = fused
        self.embed, self.head = nn.Linear(96, 8), nn.Linear(8, 4)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x.flatten(2).transpose(1, 2).reshape(len(x), 8, 96))
        if self.fused:
            tokens = functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(functional.hardsigmoid(tokens).mean(1))
        tokens = (tokens @ tokens.transpose(1, 2) / 8**0.5).softmax(-1) @ tokens
        return self.head(((tokens + 3).clamp(0, 6) / 6).mean(1))


@pytest.mark.parametrize("align", ["clean", "adversarial"])
def test_fused_operations_are_differentiated_twice(align: Any) -> None:
    objective, teacher = KDIGA(ATTACK, align=align), student_and_teacher("vit")[1]
    ours, expected = (gradients(objective, Fused(fused).double(), teacher, images(4)) for fused in (True, False))
    torch.testing.assert_close(ours, expected)
