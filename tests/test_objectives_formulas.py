"""Objectives against independent float64 computations of their formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.objectives import (
    ARD,
    CE,
    HAT,
    IAD,
    IGDM,
    KD,
    KDIGA,
    MART,
    RSLAD,
    SAT,
    TRADES,
    AdaAD,
    AdaIAD,
    Batch,
    Objective,
    objectives,
)
from proard.objectives.crafting import Shared

ATTACK = PGD(ThreatModel("linf", 0.1), steps=4, step_size=0.04)
Images = tuple[torch.Tensor, torch.Tensor]


def network(seed: int, track: bool = False) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.Tanh(), nn.BatchNorm2d(6, track_running_stats=track), nn.Flatten(), nn.Linear(96, 5)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net.double()


def batch() -> Images:
    images = torch.rand(7, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return images, torch.arange(7) % 5


def value(
    objective: Objective, student: nn.Module, teacher: nn.Module | None, batch: Images, progress: float = 1.0
) -> torch.Tensor:
    return objective(student, teacher, *batch, generator=torch.Generator().manual_seed(9), progress=progress)


def divergences(p_logits: torch.Tensor, q_logits: torch.Tensor, t: float = 1.0) -> torch.Tensor:
    p, q = (p_logits / t).softmax(1), (q_logits / t).softmax(1)
    return (p * (p.log() - q.log())).sum(1)


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor, t: float = 1.0) -> torch.Tensor:
    return divergences(p_logits, q_logits, t).sum() / len(p_logits)


@dataclass
class Given:
    """What a formula is about: student, teacher, images and labels, and how much of the phase is done."""

    s: nn.Module
    t: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    progress: float = 1.0

    def ce(self, logits: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return -self.true(logits.softmax(1), y).log().mean()

    def true(self, probabilities: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return probabilities[torch.arange(len(self.y)), self.y if y is None else y]

    def attacked(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Plain projected gradient ascent on loss(x') from the start that the objective's generator gives."""
        x = self.x
        start = (torch.empty_like(x).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(9)) + x).clamp(0, 1)
        for _ in range(4):
            start = start.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(start), start)
            start = torch.max(torch.min(start + 0.04 * gradient.sign(), x + 0.1), x - 0.1).clamp(0, 1)
        return start.detach()

    def label_attack(self) -> torch.Tensor:
        return self.attacked(lambda x: self.ce(self.s(x)))

    def target_attack(self, target: torch.Tensor) -> torch.Tensor:
        return self.attacked(lambda x: kl(target, self.s(x)))

    def adaptive_attack(self) -> torch.Tensor:
        return self.attacked(lambda x: kl(self.t(x), self.s(x)))

    def misaligned(self, x: torch.Tensor) -> torch.Tensor:
        """The mean distance of the input gradients, through functional transforms."""

        def gradient(net: nn.Module) -> torch.Tensor:
            return torch.func.grad(lambda images: len(images) * self.ce(net(images)))(x)

        return ((gradient(self.s) - gradient(self.t).detach()) ** 2).sum((1, 2, 3)).sqrt().mean()


def sat(g: Given) -> torch.Tensor:
    return g.ce(g.s(g.label_attack()))


def trades(g: Given, beta: float = 6) -> torch.Tensor:
    return g.ce(g.s(g.x)) + beta * kl(g.s(g.x), g.s(g.target_attack(g.s(g.x).detach())))


def mart(g: Given) -> torch.Tensor:
    p, q = g.s(g.label_attack()).softmax(1), g.s(g.x).softmax(1)
    others = p.masked_fill(nn.functional.one_hot(g.y, 5).bool(), 0).max(1).values
    boosted = -g.true(p).log() - (1 - others).log()
    return (boosted + 5 * (q * (q / p).log()).sum(1) * (1 - g.true(q))).mean()


def hat(g: Given) -> torch.Tensor:
    x = g.target_attack(g.s(g.x).detach())
    return trades(g, 2.5) + 0.5 * g.ce(g.s(g.x + 2 * (x - g.x)), g.t(x).argmax(1))


def kd(g: Given) -> torch.Tensor:
    return 0.9 * 16 * kl(g.t(g.x).detach(), g.s(g.x), 4) + 0.1 * g.ce(g.s(g.x))


def ard(g: Given, a: float = 1, t: float = 30, scale: float = 1) -> torch.Tensor:
    return a * scale * t**2 * kl(g.t(g.x).detach(), g.s(g.label_attack()), t) + (1 - a) * g.ce(g.s(g.x))


def rslad(g: Given) -> torch.Tensor:
    target = g.t(g.x).detach()
    return 5 / 6 * kl(target, g.s(g.target_attack(target))) + 1 / 6 * kl(target, g.s(g.x))


def rslad_with_labels(g: Given, w: float) -> torch.Tensor:
    """The target is a mixture of the teacher's answer and the label; its own entropy is no part of the loss."""
    soft = g.t(g.x).detach().softmax(1)
    mixture = (1 - w) * soft + w * nn.functional.one_hot(g.y, 5).to(soft)

    def distance(logits: torch.Tensor) -> torch.Tensor:
        return -(mixture * logits.log_softmax(1)).sum(1).mean() + (1 - w) * (soft * soft.log()).sum(1).mean()

    return 5 / 6 * distance(g.s(g.attacked(lambda x: distance(g.s(x))))) + 1 / 6 * distance(g.s(g.x))


def iad(g: Given, x: torch.Tensor, target: torch.Tensor, a: float = 1, t: float = 1, **other: float) -> torch.Tensor:
    trust = g.true(g.t(x).softmax(1)).detach() ** other.get("beta", 0.1)
    guidance = t**2 * divergences(target.detach(), g.s(x), t) * (trust if "weighed" in other else 1)
    introspection = (1 - trust) * divergences(g.s(g.x), g.s(x))
    return a * other.get("scale", 1) * (guidance + introspection).mean() + (1 - a) * g.ce(g.s(g.x))


def adaad(g: Given, a: float = 1, scale: float = 1) -> torch.Tensor:
    x = g.adaptive_attack()
    return scale * (a * kl(g.t(x).detach(), g.s(x)) + (1 - a) * kl(g.t(g.x).detach(), g.s(g.x)))


def adaiad(g: Given) -> torch.Tensor:
    x = g.adaptive_attack()
    return iad(g, x, g.t(x), 0.8, 3)


def kdiga(g: Given, *, distil: str, align: str, a: float = 0.5, t: float = 1, weight: float = 1) -> torch.Tensor:
    x = {"clean": g.x, "adversarial": g.label_attack()}
    soft = a * t**2 * kl(g.t(g.x).detach(), g.s(x[distil]), t)
    return soft + (1 - a) * g.ce(g.s(g.x)) + weight * g.misaligned(x[align])


def igdm(g: Given, x: torch.Tensor, base: torch.Tensor, weight: float = 1) -> torch.Tensor:
    other = g.x - (x - g.x)
    return base + weight * g.progress * kl((g.t(x) - g.t(other)).detach(), g.s(x) - g.s(other))


# Each objective: name, options, and the formula; a name may stand several times.
CASES: dict[str, tuple[Objective, Callable[[Given], torch.Tensor]]] = {
    "ce": (CE(), lambda g: g.ce(g.s(g.x))),
    "sat": (SAT(ATTACK), sat),
    "trades": (TRADES(ATTACK), trades),
    "mart": (MART(ATTACK), mart),
    "hat": (HAT(ATTACK), hat),
    "kd": (KD(), kd),
    "rslad": (RSLAD(ATTACK), rslad),
    "rslad, part label": (RSLAD(ATTACK, label_weight=0.3), lambda g: rslad_with_labels(g, 0.3)),
    "rslad, all label": (
        RSLAD(ATTACK, adversarial_weight=1.0, label_weight=1.0),
        lambda g: g.ce(g.s(g.label_attack())),
    ),
    "ard": (ARD(ATTACK), ard),
    "ard, mixed": (ARD(ATTACK, 0.7, temperature=5, scale=0.2), lambda g: ard(g, 0.7, 5, 0.2)),
    "iad": (IAD(ATTACK), lambda g: iad(g, g.label_attack(), g.t(g.x))),
    "iad, weighed": (
        IAD(ATTACK, 0.6, 2.0, beta=0.5, weigh_teacher=True, scale=0.2),
        lambda g: iad(g, g.label_attack(), g.t(g.x), 0.6, 2, beta=0.5, weighed=True, scale=0.2),
    ),
    "adaad": (AdaAD(ATTACK), adaad),
    "adaad, mixed": (AdaAD(ATTACK, 0.7, scale=0.2), lambda g: adaad(g, 0.7, 0.2)),
    "adaiad": (AdaIAD(ATTACK, 0.8, 3.0), adaiad),
    "kdiga": (KDIGA(ATTACK), lambda g: kdiga(g, distil="clean", align="clean")),
    "kdiga-ard_c": (
        KDIGA(ATTACK, 0.7, 3.0, 2.0, distil="adversarial"),
        lambda g: kdiga(g, distil="adversarial", align="clean", a=0.7, t=3, weight=2),
    ),
    "kdiga-ard_a": (
        KDIGA(ATTACK, 1.0, distil="adversarial", align="adversarial"),
        lambda g: kdiga(g, distil="adversarial", align="adversarial", a=1),
    ),
    "kdiga, adversarial gradients": (
        KDIGA(ATTACK, align="adversarial"),
        lambda g: kdiga(g, distil="clean", align="adversarial"),
    ),
    "igdm": (IGDM(ATTACK), lambda g: igdm(g, g.target_attack(g.t(g.x).detach()), rslad(g))),
    "igdm on adaad": (IGDM(ATTACK, AdaAD(ATTACK), 3.0), lambda g: igdm(g, g.adaptive_attack(), adaad(g), 3)),
    "igdm on kd": (IGDM(ATTACK, KD()), lambda g: igdm(g, g.label_attack(), kd(g))),
    "igdm on kdiga": (
        IGDM(ATTACK, KDIGA(ATTACK)),
        lambda g: igdm(g, g.label_attack(), kdiga(g, distil="clean", align="clean")),
    ),
}


def test_every_registered_objective_is_tested() -> None:
    assert {objectives.name_of(objective) for objective, _ in CASES.values()} == set(objectives.names())


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    objective, formula = CASES[name]
    student, teacher = network(0), network(1)
    loss = value(objective, student, teacher, batch(), progress=0.4)
    expected = formula(Given(student, teacher, *batch(), progress=0.4))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(loss, list(student.parameters()))
    theirs = torch.autograd.grad(expected, list(student.parameters()))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-8)


WITHOUT_LABELS = ("rslad", "ard", "iad", "adaad", "adaad, mixed", "igdm", "igdm on adaad")
ALIGNED_BY_LABELS = ("kdiga-ard_a",)  # whose labels say along what to align, and are not learned


@pytest.mark.parametrize("name", CASES)
def test_class_weights_act_on_what_is_learned_from_labels(name: str) -> None:
    """A loss is linear in them; with all at 1 it is the one without; at 0 nothing depends on the labels' part."""
    objective, _ = CASES[name]
    student, teacher = network(0), network(1)
    images, labels = batch()
    attacked = Batch(images, labels, torch.Generator().manual_seed(9), 0.4)
    crafted = objective.outcome(student, teacher, attacked).adversarial_images

    def loss(weights: torch.Tensor | None) -> torch.Tensor:
        shared = {} if crafted is None else {"crafting": Shared(), "crafted": crafted}
        given = Batch(images, labels, progress=0.4, class_weights=weights, **shared)
        return objective.outcome(student, teacher, given).loss

    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(loss(ones), loss(None), rtol=1e-12, atol=1e-12)
    parts = torch.stack([loss(ones - row) - loss(ones) for row in torch.eye(5, dtype=torch.float64)])
    assert (parts.abs().max() > 1e-3) == (name not in WITHOUT_LABELS + ALIGNED_BY_LABELS)
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(loss(weights), loss(ones) + ((1 - weights) * parts).sum(), rtol=1e-9, atol=1e-9)


def test_weighed_cross_entropy_by_hand() -> None:
    weights = torch.tensor([3.0, 0.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    student, (images, labels) = network(0), batch()
    loss = CE().outcome(student, None, Batch(images, labels, class_weights=weights)).loss
    logits = student(images)
    terms = [weights[y] * -(row[y] - row.exp().sum().log()) for row, y in zip(logits, labels.tolist(), strict=True)]
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-9, atol=1e-9)


def test_rslad_on_adversarial_images_alone_never_shows_the_clean_ones() -> None:
    """Its loss is then the divergence on the adversarial images, as PyTorch computes it."""
    torch.manual_seed(0)
    network, tutor = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)) for _ in range(2))
    images, labels = torch.rand(5, 3, 2, 2), torch.arange(5) % 4
    shown: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach().clone()))
    batch = Batch(images, labels, torch.Generator().manual_seed(0))
    outcome = RSLAD(ATTACK, adversarial_weight=1.0).outcome(network, tutor, batch)
    assert outcome.clean_logits is None
    assert not any(torch.equal(seen, images) for seen in shown)
    answers = network(outcome.adversarial_images).log_softmax(1)
    expected = torch.nn.functional.kl_div(answers, tutor(images).log_softmax(1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(outcome.loss, expected)
