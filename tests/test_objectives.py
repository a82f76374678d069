"""Objectives against independent float64 computations of their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.errors import UserError
from proard.objectives import RSLAD, TRADES, AdversarialTraining, Batch, CrossEntropy, Objective, objectives
from proard.teachers import BatchTeacher

ATTACK = PGD(ThreatModel("linf", 0.1), steps=4, step_size=0.04)


def network(seed: int) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.Tanh(), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten(), nn.Linear(96, 5)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net.double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(7, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return images, torch.arange(7) % 5


def attacked(student: nn.Module, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Plain projected gradient ascent from the start that the objective's generator gives."""
    start = (torch.empty_like(x).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(9)) + x).clamp(0, 1)
    for _ in range(4):
        start = start.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(student(start)), start)
        start = torch.max(torch.min(start + 0.04 * gradient.sign(), x + 0.1), x - 0.1).clamp(0, 1)
    return start.detach()


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    return (p * (p.log() - q.log())).sum() / len(p)


def formula(name: str, s: nn.Module, t: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    def ce(logits: torch.Tensor) -> torch.Tensor:
        return -logits.log_softmax(1)[torch.arange(len(y)), y].mean()

    if name == "ce":
        return ce(s(x))
    if name == "sat":
        return ce(s(attacked(s, x, ce)))
    if name == "trades":
        target = s(x).detach()
        return ce(s(x)) + 6 * kl(s(x), s(attacked(s, x, lambda logits: kl(target, logits))))
    target = t(x).detach()
    adversarial = attacked(s, x, lambda logits: kl(target, logits))
    return 5 / 6 * kl(target, s(adversarial)) + 1 / 6 * kl(target, s(x))


MADE: dict[str, Objective] = {
    "ce": CrossEntropy(),
    "sat": AdversarialTraining(ATTACK),
    "trades": TRADES(ATTACK),
    "rslad": RSLAD(ATTACK),
}


@pytest.mark.parametrize("name", MADE)
def test_value_and_gradient(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = network(0), network(1)
    modes = [module.training for module in student.modules()]
    loss = MADE[name](student, teacher, *batch, generator=torch.Generator().manual_seed(9))
    assert all(parameter.grad is None for parameter in [*student.parameters(), *teacher.parameters()])
    assert [module.training for module in student.modules()] == modes
    expected = formula(name, student, teacher, *batch)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
    ours = torch.autograd.grad(loss, list(student.parameters()))
    theirs = torch.autograd.grad(expected, list(student.parameters()))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MADE)
def test_outcome_has_the_logits(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = network(0), network(1)
    outcome = MADE[name].outcome(student, teacher, Batch(*batch, torch.Generator().manual_seed(9)))
    assert (outcome.clean_logits is None) == (name == "sat")
    assert (outcome.adversarial_logits is None) == (name == "ce")
    if outcome.clean_logits is not None:
        torch.testing.assert_close(outcome.clean_logits, student(batch[0]))


def test_every_registered_objective_is_tested() -> None:
    assert set(objectives.names()) == set(MADE)


def test_options(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = network(0), network(1)

    def value(objective: Objective) -> torch.Tensor:
        return objective(student, teacher, *batch, generator=torch.Generator().manual_seed(9))

    torch.testing.assert_close(value(TRADES(ATTACK, beta=0.0)), value(CrossEntropy()))
    torch.testing.assert_close(value(RSLAD(ATTACK, scale=0.1)), 0.1 * value(RSLAD(ATTACK)))
    target = teacher(batch[0]).detach()
    torch.testing.assert_close(value(RSLAD(ATTACK, adversarial_weight=0.0)), kl(target, student(batch[0])))


def test_teacher_gets_no_gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = network(0), network(1)
    RSLAD(ATTACK)(student, teacher, *batch).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_wrong_use_is_named(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="RSLAD distils from a teacher"):
        RSLAD(ATTACK)(network(0), None, *batch)
    for name, options, message in (
        ("rslat", {}, "unknown objective 'rslat'; did you mean 'rslad'?"),
        ("trades", {"bta": 6}, "has no option 'bta'; did you mean 'beta'?"),
        ("trades", {"beta": -1}, "beta must be at least 0"),
        ("trades", {"beta": "much"}, "should be a valid number"),
        ("rslad", {"attack": 3}, "no option 'attack'"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")) as caught:
            objectives.build(name, options, where="phases.0.objective", attack=ATTACK)
        assert str(caught.value).startswith("phases.0.objective: ")


def test_batch_teacher_computes_once_and_passes_other_images_through(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    calls = []
    net = network(1)

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(images)
        return net(images)

    images = batch[0]
    teacher = BatchTeacher(counted, images)
    first, second = teacher(images), teacher(images)
    assert first is second
    assert not first.requires_grad
    assert len(calls) == 1
    other = images.clone().requires_grad_()  # the teacher's input gradient, as for KDIGA
    (gradient,) = torch.autograd.grad(teacher(other).sum(), other)
    assert gradient.abs().sum() > 0
    assert len(calls) == 2
