"""What methods of the user's own return is checked, in training as in evaluation: one line, not a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from proard import train
from proard.attacks import PGD, Attack, AttackError, ThreatModel, attacks, check_result
from proard.attacks.losses import cross_entropy
from proard.common.errors import UserError
from proard.evaluation.accuracy import measure
from proard.objectives import objectives
from proard.objectives.base import AdversarialObjective, Outcome
from proard.runs.run import read_metrics
from proard.samplers import Sampler, samplers
from proard.supernet import Architecture
from proard.training import trainer as trainer_module


@pytest.fixture(autouse=True)
def _names_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (attacks, objectives, samplers):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def fails(config: dict[str, Any], folder: Path, error: type[Exception]) -> str:
    """The one line by which a training ends."""
    with pytest.raises(error) as raised:
        train(config, run=folder / "run", quiet=True)
    message = str(raised.value)
    assert "\n" not in message
    return message


def loss(student: Any, batch: Any) -> torch.Tensor:
    return cross_entropy(student(batch.images), batch.labels).mean()


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (lambda student, batch: None, "outcome returned NoneType; it must return an Outcome"),
        (lambda student, batch: loss(student, batch), "outcome returned Tensor"),
        (lambda student, batch: Outcome(1.0), "its loss must be a tensor"),  # type: ignore[arg-type]
        (lambda student, batch: Outcome(torch.tensor(1)), "its loss must be"),
        (lambda student, batch: Outcome(loss(student, batch).detach()), "depends on the student's weights"),
        (lambda student, batch: Outcome(loss(student, batch)[None]), "one number"),
        (lambda student, batch: Outcome(loss(student, batch) * 1j), "its loss must be"),
        (
            lambda student, batch: Outcome(loss(student, batch), student(batch.images)[1:]),
            "its logits must be of shape",
        ),
        (lambda student, batch: Outcome(loss(student, batch), None, batch.labels), "its logits must be of shape"),
    ],
)
def test_an_objective(returns: Callable[..., Any], words: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    @objectives.register("mine")
    @dataclass(frozen=True)
    class Mine(AdversarialObjective):
        def outcome(self, student: Any, teacher: Any, batch: Any) -> Outcome:
            made: Outcome = returns(student, batch)
            return made

    tiny["phases"][0]["objective"] = {"name": "mine"}
    message = fails(tiny, tmp_path, UserError)
    assert message.startswith("objective Mine: ")
    assert words in message


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        (lambda space: None, "got None"),
        (lambda space: [], "got []"),
        (lambda space: space.largest(), "got Architecture("),
        (lambda space: [dict(space.largest())], "got [{"),
        (lambda space: [Architecture((("side", 1.0),))], "sampler Mine: architecture: unknown decision 'side'"),
    ],
)
def test_a_sampler(draws: Callable[..., Any], words: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    @samplers.register("mine")
    class Mine(Sampler):
        def draw(self, step: int) -> Any:
            return draws(self.space)

    tiny["phases"][-1] |= {"elastic": ["all"], "sampler": {"name": "mine"}}
    assert words in fails(tiny, tmp_path, UserError)


WRONG = [
    (lambda images: None, "returned NoneType in the place of images"),
    (lambda images: images[:1], "returned images of shape (1, "),
    (lambda images: images.flatten(1), "returned images of shape ("),
    (lambda images: (255 * images).long(), "of torch.int64; they must be floating point"),
    (lambda images: images / 0, "that are not finite"),
    (lambda images: images + 1, "with values"),
    (lambda images: 1 - images, "more than eps"),
]


def attack(returns: Callable[..., Any]) -> Attack:
    @attacks.register("mine")
    @dataclass(frozen=True)
    class Mine(Attack):
        def perturb(self, model: Any, images: Any, labels: Any, *, loss: Any = None, generator: Any = None) -> Any:
            return returns(images)

    return attacks.build("mine", {}, threat=ThreatModel(eps=0.1))


@pytest.mark.parametrize(("returns", "words"), WRONG)
def test_an_attack(returns: Callable[..., Any], words: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Training on images that are too far away would be no fault that anyone sees."""
    mine = attack(returns)
    tiny["attack"] = {"name": "mine"}
    assert words in fails(tiny, tmp_path, AttackError)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    labels = network(images).argmax(1)  # only what is right is attacked
    with pytest.raises(AttackError, match=words.split("(")[0]):
        measure(network, [(images, labels)], {"mine": mine}, own=False)


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda images: images.clone().requires_grad_()])
def test_an_attack_may_return_more_than_is_needed(
    change: Callable[[torch.Tensor], torch.Tensor], tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Other precisions and a graph behind the images change nothing."""
    tiny["attack"] = {"name": "mine"}
    losses: list[list[float]] = []
    for returns in (lambda images: images, change):
        mine = attack(returns)
        run = train(tiny, run=tmp_path / str(len(losses)), quiet=True)
        losses.append([row["loss"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch"])
        images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        found = mine(network, images, labels)
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["nfgsm", "pgd", "mifgsm", "apgd-ce", "fgsm"])
def test_an_attack_may_go_as_far_as_it_says(
    name: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N-FGSM trains on images beyond eps, on purpose."""
    tiny["attack"] = {"name": name}
    seen: list[tuple[float, float, float]] = []  # eps, reach, and how far its images were

    def watched(attack: Attack, adversarial: torch.Tensor, images: torch.Tensor, farthest: float) -> None:
        check_result(attack, adversarial, images, farthest)
        seen.append((attack.threat.eps, farthest, float((adversarial - images).abs().max())))

    monkeypatch.setattr(trainer_module, "check_result", watched)
    train(tiny, run=tmp_path / "run", quiet=True)
    assert len(seen) == len(tiny["phases"])
    for eps, reach, away in seen:
        assert reach == pytest.approx(3 * eps if name == "nfgsm" else eps)
        assert (away > 1.5 * eps) == (name == "nfgsm")


def test_the_attacks_of_the_package_are_looked_at_too(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An attack that is broken trains nothing."""
    monkeypatch.setattr(PGD, "perturb", lambda self, model, images, labels, **_: images + 1)
    assert "with values" in fails(tiny, tmp_path, AttackError)
