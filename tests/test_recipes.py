"""Recipes for small networks: what each switch does inside of a training, beside the formulas of the objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from proard import train
from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import load_data
from proard.objectives import IGDM, SAT
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.training import Trainer
from proard.training.class_weights import class_weights
from proard.training.interruption import Interrupted
from proard.training.time_estimate import seconds_per_step


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


def check_that_it_resumes(values: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch and continued, it ends bit for bit where it ends at one go."""
    whole = train(values, run=folder / "whole", quiet=True)
    original, stopped = Trainer._step, []

    def interrupted(self: Trainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.position.step == 2 and not stopped:
            stopped.append(True)
            self.signals.received = 15

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(Interrupted):
        train(values, run=folder / "parts", quiet=True)
    train(run=folder / "parts", resume=True, quiet=True)
    states = [load_checkpoint(run / "checkpoint.pt")["best"]["weights"] for run in (whole, folder / "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# ---------------------------------------------------------------------------------------------------------------------
# Self-distillation from the average

AVERAGED: dict[str, Any] = {"name": "sat", "averaged_weight": [0.7, 0.95]}


def test_a_student_learns_from_the_average_at_its_own_architecture(students: dict[str, Any], tmp_path: Path) -> None:
    """What it is asked for is the answer of that network, which one forward pass of the same cost gives."""
    students |= {"ema_decay": 0.9}
    students["phases"][0]["objective"] = AVERAGED
    trainer = trainer_of(students, tmp_path)
    step(trainer)
    assert trainer.averaged is not None
    drawn, targets = [], []
    cut, outcome = trainer._cut, SAT.outcome

    def noted(self: SAT, student: Any, teacher: Any, batch: Any) -> Any:
        targets.append(teacher(batch.images))
        assert not targets[-1].requires_grad
        return outcome(self, student, teacher, batch)

    trainer._cut = lambda architecture: drawn.append(architecture) or cut(architecture)  # type: ignore
    before = dict(trainer.compute.spent)
    expected = trainer.averaged.state_dict()
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SAT, "outcome", noted)
        step(trainer)
    costs = [trainer.supernet.space.cost(architecture).multiply_adds for architecture in drawn]
    assert len(drawn) == 2
    assert trainer.compute.spent["teacher"] - before["teacher"] == trainer.batch_size * sum(costs)
    trainer.averaged.load_state_dict(expected)
    images, _ = next(trainer.train_images.batches(trainer._batches()[:1], trainer.device))
    images = images.contiguous(memory_format=torch.channels_last)
    for architecture, target in zip(drawn, targets, strict=True):
        network = trainer.averaged.student(architecture).eval()
        with torch.no_grad(), torch.autocast("cpu", trainer.precision, enabled=trainer.precision != torch.float32):
            torch.testing.assert_close(network(images), target)
    assert all(seconds > 0 for seconds in seconds_per_step(trainer))


def test_self_distillation_needs_an_average(students: dict[str, Any], tmp_path: Path) -> None:
    students["phases"][0]["objective"] = AVERAGED
    with pytest.raises(UserError, match=r"phases.0: .*averaged weights; set ema_decay"):
        trainer_of(students, tmp_path)
    students["phases"][0]["objective"] = {**AVERAGED, "averaged_weight": 0.7}
    with pytest.raises(UserError, match="averaged_weight"):
        trainer_of({**students, "ema_decay": 0.9}, tmp_path)
    with pytest.raises(ValueError, match="averaged_weight must be in"):
        SAT(averaged_weight=(0.5, 2.0))
    with pytest.raises(ValueError, match="averaged"):
        IGDM(base=SAT(averaged_weight=(0.5, 0.9)))


def test_self_distillation_resumes(students: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    students["phases"][0]["objective"] = AVERAGED
    check_that_it_resumes({**students, "ema_decay": 0.9}, tmp_path, monkeypatch)


# ---------------------------------------------------------------------------------------------------------------------
# Perturbed weights


@pytest.mark.parametrize(
    "objective", [{"name": "sat"}, {"name": "trades", "beta": 3.0}], ids=lambda given: given["name"]
)
def test_gradients_are_those_at_weights_that_are_worse_by_layer(
    objective: dict[str, Any], students: dict[str, Any], tmp_path: Path
) -> None:
    """By hand, in float64, on the images that the attack found; the student is left with the weights it had."""
    gamma = 0.05
    students["phases"][0] |= {"objective": objective, "weight_perturbation": gamma}
    students["supernet"]["dropout"] = 0.0
    trainer = trainer_of({**students, "precision": "float32"}, tmp_path)
    images, labels = next(trainer.train_images.batches(trainer._batches()[:1], trainer.device))
    architecture = trainer.supernet.space.smallest()
    student, outcome, numbers = trainer._train(architecture, images, labels, 0.5, None, None)

    def loss() -> torch.Tensor:
        assert outcome.adversarial_images is not None
        adversarial = reference(outcome.adversarial_images.double()).log_softmax(1)
        if objective["name"] == "sat":
            return -adversarial[torch.arange(len(labels)), labels].mean()
        clean = reference(images.double()).log_softmax(1)
        apart = (clean.exp() * (clean - adversarial)).sum(1)
        return (3 * apart - clean[torch.arange(len(labels)), labels]).mean()

    reference = trainer.supernet.student(architecture).double()
    parameters = dict(reference.named_parameters())
    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    assert numbers[0].item() == pytest.approx(loss().item(), rel=1e-4)  # reported is the loss of the weights themselves
    with torch.no_grad():
        for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
            if weight.dim() > 1:
                moved = gamma * (weight**2).sum().sqrt() / (gradient**2).sum().sqrt() * gradient
                assert (moved**2).sum().sqrt() == pytest.approx(gamma * (weight**2).sum().sqrt()), name
                weight.copy_(weight + moved)
    expected = torch.autograd.grad(loss(), list(parameters.values()))
    for (name, weight), gradient, plain in zip(student.named_parameters(), expected, gradients, strict=True):
        assert weight.grad is not None
        distance = (weight.grad - gradient).norm() / gradient.norm()
        assert distance < 1e-3, name
        assert distance < (plain - gradient).norm() / gradient.norm() / 10, (
            name
        )  # and not those at the weights themselves
    untouched = trainer.supernet.student(architecture).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in student.state_dict().items())
    passes = len(labels) * trainer.supernet.space.cost(architecture).multiply_adds
    of_the_loss = 3 if objective["name"] == "sat" else 6
    assert trainer.compute.spent["update"] == 2 * of_the_loss * passes
    assert trainer.compute.spent["attack"] == 2 * 2 * passes  # there is no second attack


def test_a_perturbation_is_no_negative_number(students: dict[str, Any]) -> None:
    students["phases"][0]["weight_perturbation"] = -0.1
    with pytest.raises(UserError, match=r"phases.0.weight_perturbation: .*greater than or equal to 0"):
        parse_config(students)


# ---------------------------------------------------------------------------------------------------------------------
# The equal average of late weights


def test_the_average_is_of_all_steps_from_a_part_of_the_phase_on(
    students: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the mean of what the weights were, in float64; before that part, the average is the weights."""
    students["phases"][0]["epochs"] = 2
    weights: list[dict[str, torch.Tensor]] = []
    averages: list[dict[str, torch.Tensor]] = []
    update = Trainer._update

    def noted(self: Trainer, images: int) -> None:
        update(self, images)
        assert self.averaged is not None
        for network, kept in ((self.supernet, weights), (self.averaged, averages)):
            kept.append({name: parameter.detach().clone() for name, parameter in network.named_parameters()})

    monkeypatch.setattr(Trainer, "_update", noted)
    run = train({**students, "average_from": 0.6}, run=tmp_path / "run", quiet=True)
    first = -(-len(weights) * 6 // 10)
    assert 2 <= first < len(weights) - 2
    for step in range(len(weights)):
        for name, average in averages[step].items():
            seen = [weights[step][name]] if step < first else [w[name] for w in weights[first : step + 1]]
            expected = torch.stack(seen).double().mean(0)
            torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    best = load_checkpoint(run / "checkpoint.pt")["best"]
    assert best["epoch"] in (0, 1)
    kept = averages[-1] if best["epoch"] == 1 else averages[len(averages) // 2 - 1]
    assert all(torch.equal(tensor, best["weights"][name]) for name, tensor in kept.items())


def test_the_equal_average_resumes(students: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_it_resumes({**students, "average_from": 0.2}, tmp_path, monkeypatch)


def test_weights_are_averaged_in_one_way(students: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="average_from: ema_decay averages the weights already"):
        parse_config({**students, "average_from": 0.5, "ema_decay": 0.9})
    with pytest.raises(UserError, match=r"average_from: .*less than 1"):
        parse_config({**students, "average_from": 1.0})


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def test_crop_shift_leaves_something_of_an_image(students: dict[str, Any], tmp_path: Path) -> None:
    students["data"]["augmentation"] = {"crop_shift": 8}
    with pytest.raises(UserError, match=r"data.augmentation.crop_shift: must be less than 8"):
        trainer_of(students, tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Classes


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
