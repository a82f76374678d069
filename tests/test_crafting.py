"""Sharing attack work between the students of a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proard.attacks import PGD, ThreatModel, attacks
from proard.attacks.losses import cross_entropy
from proard.attacks.pgd import maximise
from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import load_data
from proard.objectives import RSLAD, TRADES, Batch, Crafting, craftings
from proard.runs.run import Run
from proard.training.trainer import Trainer

THREAT = ThreatModel("linf", 0.1)
ATTACK = PGD(THREAT, steps=5, step_size=0.03)


class Counting(nn.Module):
    """A network that counts its forward passes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4))
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(images)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 4, 4, generator=generator)
    labels = torch.randint(4, (8,), generator=generator)
    return Batch(images, labels, torch.Generator().manual_seed(1))


def crafted_by(name: str, options: dict[str, Any], student: nn.Module, batch: Batch) -> torch.Tensor:
    return craftings.build(name, options).images(ATTACK, student, batch, None)


def fresh(batch: Batch) -> Batch:
    return replace(batch, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", craftings.names())
def test_the_source_is_attacked_in_full(name: str, batch: Batch) -> None:
    student = Counting(0)
    expected = ATTACK(student, batch.images, batch.labels, generator=torch.Generator().manual_seed(1))
    student.calls = 0
    assert torch.equal(crafted_by(name, {}, student, fresh(batch)), expected)
    assert student.calls == ATTACK.steps


@pytest.mark.parametrize(
    ("name", "options", "calls"),
    [
        ("own", {}, 5),
        ("own", {"steps": 2}, 2),
        ("shared", {}, 0),
        ("refined", {}, 2),
        ("refined", {"steps": 1, "step_size": 1.0}, 1),
    ],
)
def test_what_the_others_cost(name: str, options: dict[str, Any], calls: int, batch: Batch) -> None:
    source, student = Counting(0), Counting(1)
    crafted = ATTACK(source, batch.images, batch.labels)
    result = crafted_by(name, options, student, replace(fresh(batch), crafted=crafted))
    assert student.calls == calls
    assert torch.equal(result, crafted) == (name == "shared")
    assert float((result - batch.images).abs().max()) <= THREAT.eps + 1e-6
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1


def test_refining_is_the_attack_continued(batch: Batch) -> None:
    """Three steps and then two more of the same student are the five steps of one attack."""
    student = Counting(0)
    three = replace(ATTACK, steps=3)(student, batch.images, batch.labels, generator=torch.Generator().manual_seed(1))
    five = ATTACK(student, batch.images, batch.labels, generator=torch.Generator().manual_seed(1))
    assert torch.equal(crafted_by("refined", {"steps": 2}, student, replace(batch, crafted=three)), five)


def test_refining_raises_the_students_own_loss(batch: Batch) -> None:
    source, student = Counting(0), Counting(1)
    crafted = ATTACK(source, batch.images, batch.labels)
    refined = crafted_by("refined", {"steps": 2}, student, replace(batch, crafted=crafted))
    with torch.no_grad():
        before, after = (cross_entropy(student(images), batch.labels) for images in (crafted, refined))
    assert bool((after > before).all())


def test_a_given_start_is_projected(batch: Batch) -> None:
    far = batch.images + 0.5
    result = maximise(
        Counting(0),
        batch.images,
        lambda logits, _: 0 * logits.sum(1),
        THREAT,
        steps=1,
        step_size=0.01,
        start=far,
        generator=torch.Generator(),
    )
    assert float((result - batch.images).abs().max()) <= THREAT.eps + 1e-6


def test_order() -> None:
    costs = [9.0, 1.0, 4.0, 6.0]

    def order(source: str) -> list[int]:
        crafting: Crafting = craftings.build("refined", {"source": source})
        return crafting.order(costs)

    assert order("largest") == [0, 1, 2, 3]
    assert order("smallest") == [1, 0, 2, 3]
    assert order("drawn") == [3, 0, 1, 2]
    assert order("previous") == [0, 3, 2, 1]


def test_objectives_hand_their_own_loss_to_the_crafting(batch: Batch) -> None:
    """The inner maximisation of RSLAD and TRADES continues from the given images, and the outcome has what it made."""
    teacher, student = Counting(0), Counting(1)
    crafted = (batch.images + 0.02).clamp(0, 1)
    shared = replace(batch, crafting=craftings.build("shared", {}), crafted=crafted)
    refined = replace(batch, crafting=craftings.build("refined", {"steps": 1}), crafted=crafted)
    for objective in (RSLAD(attack=ATTACK), TRADES(attack=ATTACK)):
        outcome = objective.outcome(student, teacher, shared)
        assert outcome.adversarial_images is crafted
        torch.testing.assert_close(outcome.adversarial_logits, student(crafted))
        images = objective.outcome(student, teacher, refined).adversarial_images
        assert images is not None
        assert float((images - crafted).abs().max()) == pytest.approx(ATTACK.resolved_step_size, abs=1e-6)


@pytest.mark.parametrize(
    ("crafting", "attack", "message"),
    [
        ({"name": "refind"}, {}, "phases.1.crafting: unknown crafting 'refind'.*refined"),
        ({"name": "refined", "steps": 0}, {}, "phases.1.crafting: .*steps must be at least 1"),
        ({"name": "refined", "step_size": -1}, {}, "step_size must be positive"),
        ({"name": "refined", "source": "biggest"}, {}, "source.*largest"),
        ({"name": "shared", "source": "previous"}, {}, "source: largest"),
        ({"name": "shared", "steps": 2}, {}, "no option 'steps'"),
        ({"name": "refined"}, {"name": "nfgsm"}, "phases.1.crafting: the steps of attack .* cannot be changed"),
    ],
)
def test_mistakes(
    crafting: dict[str, Any], attack: dict[str, Any], message: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["phases"][1]["crafting"] = crafting
    tiny["attack"] = attack or tiny["attack"]
    config = parse_config(tiny)
    with pytest.raises(UserError, match=message):
        Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)


@pytest.mark.parametrize("source", ["largest", "smallest", "drawn", "previous"])
def test_in_the_trainer(source: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of a step is attacked in full; each other student takes one step, from the images it was given."""
    tiny["phases"] = [
        {
            **tiny["phases"][2],
            "objective": {"name": "sat"},
            "sampler": {"name": "sandwich", "students": 4},
            "crafting": {"name": "refined", "steps": 1, "source": source},
        }
    ]
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)
    space = trainer.supernet.space
    seen: list[tuple[int, int]] = []  # multiply-adds and attack steps
    starts: list[torch.Tensor | None] = []
    made: list[torch.Tensor] = []
    perturb = PGD.perturb

    def spy(self: PGD, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        costs = [space.cost(a).multiply_adds for a in drawn if shapes(trainer.supernet.student(a)) == shapes(model)]
        seen.append((costs[0], self.steps))
        starts.append(options.get("start"))
        made.append(perturb(self, model, images, labels, **options))
        return made[-1]

    def shapes(network: nn.Module) -> list[torch.Size]:
        return [parameter.shape for parameter in network.parameters()]

    drawn = trainer.sampler.sample(0)
    trainer.sampler.sample = lambda step: drawn  # type: ignore[method-assign]
    monkeypatch.setattr(PGD, "perturb", spy)
    images, labels = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    trainer._step(images, labels)
    costs = [space.cost(a).multiply_adds for a in drawn]
    first = {"largest": max(costs), "smallest": min(costs), "drawn": costs[-1], "previous": max(costs)}[source]
    assert seen[0] == (first, 2)
    assert [steps for _, steps in seen[1:]] == [1] * (len(drawn) - 1)
    assert sorted(cost for cost, _ in seen) == sorted(costs)
    expected = made[:-1] if source == "previous" else [made[0]] * (len(made) - 1)
    assert starts[0] is None
    assert all(start is given for start, given in zip(starts[1:], expected, strict=True))
    if source == "previous":
        assert [cost for cost, _ in seen] == sorted(costs, reverse=True)


def test_every_attack_that_trains_can_be_shared() -> None:
    """Sharing needs nothing from an attack but its images."""
    student = Counting(0)
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 3])
    shared = craftings.build("shared", {})
    for name in ("pgd", "nfgsm", "mifgsm", "fgsm"):
        attack = attacks.build(name, {}, threat=THREAT)
        crafted = shared.images(attack, student, Batch(images, labels), None)
        assert shared.images(attack, student, Batch(images, labels, crafted=crafted), None) is crafted
