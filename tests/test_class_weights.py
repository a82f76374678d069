"""Class weights: balanced ones, those that are given, and how they reach an objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import ImageSet, TrainingImages, load_data
from proard.objectives import SAT
from proard.runs.run import Run
from proard.training import Trainer
from proard.training.class_weights import class_weights


@pytest.fixture
def students(tiny: dict[str, Any]) -> dict[str, Any]:
    """One phase of students, two in a step, without a teacher."""
    phase = {"name": "students", "epochs": 1, "learning_rate": 0.1, "elastic": ["all"], "objective": {"name": "sat"}}
    return {**tiny, "phases": [{**phase, "sampler": {"name": "uniform", "students": 2}}]}


def trainer_of(values: dict[str, Any], folder: Path) -> Trainer:
    config = parse_config(values)
    return Trainer(config, load_data(config.data), Run(folder), quiet=True)


def step(trainer: Trainer, progress: float = 0.5) -> None:
    """One step of the trainer, on the first batch."""
    images, labels = next(trainer.train_images.batches(trainer._batches()[:1], trainer.device))
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.1
    trainer._step(images, labels, progress)


def test_balanced_classes_weigh_alike() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [3] * 5)
    weights = class_weights("balanced", labels, 4)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([45 / 40, 45 / 120, 0.0, 45 / 20]))
    sums = torch.zeros(4).index_add(0, labels, weights[labels])
    torch.testing.assert_close(sums[[0, 1, 3]], torch.full((3,), 45 / 4))
    assert class_weights(None, labels, 4) is None


def test_class_weights_reach_the_objective(students: dict[str, Any], tmp_path: Path) -> None:
    given = [float(index) for index in range(10)]
    batches = []
    outcome = SAT.outcome

    def noted(self: SAT, student: Any, teacher: Any, batch: Any) -> Any:
        batches.append(batch)
        return outcome(self, student, teacher, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SAT, "outcome", noted)
        step(trainer_of({**students, "class_weights": given}, tmp_path))
    assert all(torch.equal(batch.class_weights, torch.tensor(given)) for batch in batches)
    assert len(batches) == 2


def test_wrong_class_weights(students: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class_weights: must be one number for each of the 10 classes, got 2"):
        trainer_of({**students, "class_weights": [1, 2]}, tmp_path)
    for wrong in ("even", [1, -1], [1, "a"], [], 3, [0, 0]):
        with pytest.raises(
            UserError,
            match="class_weights: should be balanced, or numbers of at least 0, one per class and not all 0, got",
        ):
            parse_config({**students, "class_weights": wrong})


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_classes_weigh_alike_beside_extra_images(fraction: float) -> None:
    own, others = torch.tensor([0] * 90 + [1] * 10), torch.tensor([0] * 200 + [1] * 200 + [2] * 100)
    labels = torch.cat([own, others])
    images = ImageSet(torch.zeros(600, 1, 1, 1, dtype=torch.uint8), labels)
    source = TrainingImages(images, len(own), fraction)
    weights = class_weights("balanced", labels, 3, source.chances(20))
    assert weights is not None
    drawn = torch.cat([batch for epoch in range(400) for batch in source.batches(20, (0, 0, epoch))])
    sums = torch.zeros(3).index_add(0, labels[drawn], weights[labels[drawn]])
    torch.testing.assert_close(sums / len(drawn), torch.full((3,), 1 / 3), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("objective", "silent"),
    [
        ({"name": "sat"}, True),
        ({"name": "rslad", "label_weight": 0.5}, True),
        ({"name": "rslad"}, False),
        ({"name": "adaad"}, False),
    ],
)
def test_weights_without_effect_are_said_once(
    objective: dict[str, Any],
    silent: bool,
    students: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    phase = {**students["phases"][0], "objective": objective}
    teacher = {} if objective["name"] == "sat" else {"teacher": {"mode": "joint"}}
    trainer = trainer_of({**students, **teacher, "phases": [phase], "class_weights": "balanced"}, tmp_path)
    for _ in range(2):
        step(trainer)
    line = "class_weights: no effect in phase 'students', whose objective weighs no labels\n"
    assert capsys.readouterr().err.count(line) == (not silent)
    trainer.class_weights = None
    trainer.said.clear()
    step(trainer)
    assert not capsys.readouterr().err
