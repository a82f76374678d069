"""Diagnostics of transfer against closed forms: gradients, local linearity, bounds and curves."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from proard import extract, load_student
from proard.attacks import PGD, Attack, ThreatModel
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.config import DataConfig
from proard.data import load_data
from proard.evaluation.accuracy import Accuracy, measure
from proard.evaluation.transfer import (
    ROBUST_LOSS,
    Diagnostics,
    Expansion,
    Summary,
    accuracy_curve,
    diagnose,
    expand,
    gradient_alignment,
    local_linearity,
    loss_and_gradient,
    transfer_bound,
    worst_loss,
)
from proard.evaluation.transfer.curve import scaled
from proard.evaluation.transfer.expansion import align
from proard.evaluation.transfer.results import NOT_A_CERTIFICATE
from proard.export.student_directory import FORMATS, WEIGHTS
from proard.runs.components import evaluation_batches

THREATS = [ThreatModel("linf", 0.1), ThreatModel("l2", 0.3)]
# A corner of the linf ball is reached at once; the direction of l2 steps halves its error with every step of size eps.
THOROUGH: dict[str, dict[str, Any]] = {"linf": {}, "l2": {"steps": 40, "step_size": 0.3}}
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 24, seed: int = 0) -> torch.Tensor:
    """Far enough from the bounds for both threat models, in float64."""
    return 0.3 + 0.4 * torch.rand(count, 1, 3, 4, generator=generator(seed), dtype=torch.float64)


class Logistic(nn.Module):
    """Two classes; the cross-entropy depends on ``w . x`` alone: softplus(-m) with m = +-(w . x + b)."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(12, generator=generator(seed), dtype=torch.float64))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([-score / 2, score / 2], 1)


def exact_linearity(model: Logistic, x: torch.Tensor, y: torch.Tensor, threat: ThreatModel) -> torch.Tensor:
    """The true maximum of the remainder, by scanning every value that w . x can take."""
    weight, flat = model.weight.detach(), x.flatten(1)
    score = flat @ weight + model.bias.detach()
    sign = 2 * y.double() - 1  # m = sign * score
    if threat.norm == "linf":
        high = ((flat + threat.eps * weight.sign()).clamp(*threat.bounds) - flat) @ weight
        low = ((flat - threat.eps * weight.sign()).clamp(*threat.bounds) - flat) @ weight
    else:  # the bounds are out of reach
        high = threat.eps * weight.norm() * torch.ones(len(x), dtype=torch.float64)
        low = -high
    t = low + (high - low) * torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    loss = functional.softplus(-sign * score)
    slope = -sign * torch.sigmoid(-sign * score)
    return (functional.softplus(-sign * (score + t)) - loss - t * slope).abs().amax(0)


def perturbations(x: torch.Tensor, threat: ThreatModel, directions: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Admissible images around x: random ones, corners, and the farthest along given directions, both ways."""
    draws = generator(7)
    for _ in range(100):
        yield threat.random_start(x, draws)
        corner = torch.randn(x.shape, generator=draws, dtype=x.dtype)
        yield threat.project(x + threat.eps * threat.ascent_direction(corner), x)
    for direction in directions:
        for sign in (1, -1):
            yield threat.project(x + sign * threat.eps * threat.ascent_direction(direction), x)


# ---------------------------------------------------------------------------------------------------------------------
# A small robust network and its student


@pytest.fixture(scope="module")
def digits() -> Batches:
    """Digits that no network here has seen, in two batches of different size."""
    data = load_digits()
    x, y = torch.tensor(data.images[1500:1620] / 16, dtype=torch.float32)[:, None], torch.tensor(data.target[1500:1620])
    return [(x[:70], y[:70]), (x[70:], y[70:])]


def trained(seed: int, width: int) -> nn.Module:
    """A convolutional network after a little adversarial training."""
    data = load_digits()
    x, y = torch.tensor(data.images[:1000] / 16, dtype=torch.float32)[:, None], torch.tensor(data.target[:1000])
    network = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 16, 3, 2, 1), nn.ReLU(), nn.Dropout(0.2),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    draws = generator(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * math.sqrt(2 / fan))
    network.eval()  # without dropout, which draws from the global state
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    attack = PGD(ThreatModel("linf", 0.1), steps=2)
    for _ in range(6):
        for batch in torch.randperm(len(x), generator=draws).split(50):
            adversarial = attack(network, x[batch], y[batch], generator=draws)
            optimizer.zero_grad()
            functional.cross_entropy(network(adversarial), y[batch]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return network


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return trained(1, 16)


@pytest.fixture(scope="module")
def student() -> nn.Module:
    return trained(2, 6)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def test_gradient_of_a_linear_classifier() -> None:
    """``W^T (softmax - one-hot)``, and the loss ``-log softmax``."""
    weight = torch.randn(5, 12, generator=generator(3), dtype=torch.float64)
    x, y = images(), torch.arange(24) % 5
    loss, gradient = loss_and_gradient(lambda z: z.flatten(1) @ weight.T, x, y)
    probabilities = (x.flatten(1) @ weight.T).softmax(1)
    expected = (probabilities - functional.one_hot(y, 5)) @ weight
    torch.testing.assert_close(loss, -probabilities[range(24), y].log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-12, atol=1e-12)


def test_alignment_with_itself_and_with_the_opposite() -> None:
    """Negated logits of two classes: gradients ``-s(-m) w`` and ``s(m) w``, opposite and ``|w|`` apart."""
    model, x, y = Logistic(), images(), torch.arange(24) % 2
    same = gradient_alignment(model, model, x, y)
    torch.testing.assert_close(same.cosine, torch.ones(24, dtype=torch.float64))
    assert same.distance.tolist() == [0.0] * 24
    opposite = gradient_alignment(model, lambda z: -model(z), x, y)
    torch.testing.assert_close(opposite.cosine, -torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(opposite.distance, model.weight.detach().norm().expand(24))


def test_alignment_of_vanishing_gradients() -> None:
    zero, some = torch.zeros(1, 4), torch.tensor([[3.0, 0.0, -4.0, 0.0]])
    student, teacher = torch.cat([zero, zero, some, 1e-30 * some]), torch.cat([zero, some, zero, 1e-30 * -some])
    alignment = align(student, teacher)
    torch.testing.assert_close(alignment.cosine, torch.tensor([1.0, 0.0, 0.0, -1.0]))
    torch.testing.assert_close(alignment.distance, torch.tensor([0.0, 5.0, 5.0, 1e-29]), rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Local linearity


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_local_linearity_in_closed_form(threat: ThreatModel, scale: float) -> None:
    model, x, y = Logistic(scale=scale), images(), torch.arange(24) % 2
    exact = exact_linearity(model, x, y, threat)
    found = local_linearity(model, x, y, threat, **THOROUGH[threat.norm])
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-12)


def test_local_linearity_at_the_bounds() -> None:
    """Pixels at 0 and 1 can move in one direction only."""
    model, y, threat = Logistic(scale=3.0), torch.arange(24) % 2, ThreatModel("linf", 0.3)
    x = (torch.rand(24, 1, 3, 4, generator=generator(5), dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    exact = exact_linearity(model, x, y, threat)
    torch.testing.assert_close(local_linearity(model, x, y, threat), exact, rtol=1e-6, atol=1e-12)
    assert bool((exact < 0.9 * exact_linearity(model, x, y, replace(threat, bounds=(-9, 9)))).any())


def test_more_restarts_find_no_less(teacher: nn.Module, digits: Batches) -> None:
    x, y = digits[0]
    few, many = (local_linearity(teacher, x, y, THREATS[0], restarts=restarts) for restarts in (1, 4))
    assert bool((many >= few).all())
    assert bool((many > few).any())  # a search of one start does miss some


def test_images_outside_the_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="normalisation inside"):
        expand(Logistic(), 2 * images(), torch.zeros(24, dtype=torch.long), THREATS[0])
    with pytest.raises(ValueError, match="at least 1"):
        local_linearity(Logistic(), images(), torch.zeros(24, dtype=torch.long), THREATS[0], restarts=0)


# ---------------------------------------------------------------------------------------------------------------------
# Bounds


def exact_expansion(model: Logistic, x: torch.Tensor, y: torch.Tensor, threat: ThreatModel) -> Expansion:
    return Expansion(threat, *loss_and_gradient(model, x, y), exact_linearity(model, x, y, threat))


def losses(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return functional.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_bound_of_one_network_is_exact(threat: ThreatModel) -> None:
    """With the true local linearity no perturbation exceeds it, and where the loss bends upwards one attains it."""
    model, x, y = Logistic(scale=2.0), images(), torch.arange(24) % 2
    expansion = exact_expansion(model, x, y, threat)
    worst = torch.stack([losses(model, z, y) for z in perturbations(x, threat, [expansion.gradient])]).amax(0)
    assert bool((worst <= expansion.worst_loss + 1e-12).all())
    curving = expansion.loss < 0.3  # m > 0: the third derivative of the loss in m is negative there
    assert int(curving.sum()) >= 3
    torch.testing.assert_close(worst[curving], expansion.worst_loss[curving])
    torch.testing.assert_close(worst_loss(model, x, y, threat, **THOROUGH[threat.norm]), worst)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_transfer_bound_holds_and_is_tight(norm: Any, eps: float) -> None:
    """Between two networks with the true local linearity; for a small radius, the gaps are all of it."""
    threat, x, y = ThreatModel(norm, eps), images(), torch.arange(24) % 2
    student, teacher = Logistic(0, 1.5), Logistic(1, 1.5)
    of_student, of_teacher = (exact_expansion(model, x, y, threat) for model in (student, teacher))
    bound = transfer_bound(of_student, of_teacher)
    directions = [of_student.gradient, of_teacher.gradient, of_student.gradient - of_teacher.gradient]
    gaps = [(losses(student, z, y) - losses(teacher, z, y)).abs() for z in perturbations(x, threat, directions)]
    largest = torch.stack(gaps).amax(0)
    assert bool((largest <= bound.total + 1e-12).all())
    if eps == 1e-4:
        torch.testing.assert_close(largest, bound.total, rtol=0, atol=1e-6)
        assert bool((bound.gradient_gap > 1e-5).all())  # so leaving it out would show


def test_transfer_bound_from_a_copy_is_the_local_linearity() -> None:
    model, x, y = Logistic(), images(), torch.arange(24) % 2
    expansion = exact_expansion(model, x, y, THREATS[0])
    torch.testing.assert_close(transfer_bound(expansion, expansion).total, 2 * expansion.local_linearity)
    with pytest.raises(ValueError, match="different threat models"):
        transfer_bound(expansion, replace(expansion, threat=THREATS[1]))


def test_a_loss_below_the_threshold_is_a_right_prediction() -> None:
    logits = 3 * torch.randn(5000, 4, generator=generator(8), dtype=torch.float64)
    y = torch.arange(5000) % 4
    low = functional.cross_entropy(logits, y, reduction="none") < ROBUST_LOSS
    assert 0 < int(low.sum()) < 5000
    assert bool((logits.argmax(1) == y)[low].all())
    barely = torch.tensor([[-1e-9, 0.0]], dtype=torch.float64)  # wrong, and as little above it as can be
    assert ROBUST_LOSS < float(functional.cross_entropy(barely, torch.tensor([0]))) < ROBUST_LOSS + 1e-8


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_bounds_of_trained_networks(
    student: nn.Module, teacher: nn.Module, digits: Batches, threat: ThreatModel
) -> None:
    """Against thousands of perturbations the bounds fail by no more than the local linearity was underestimated."""
    x, y = digits[0]
    expansions, remainders, worst = [], [], []
    gap = torch.zeros(len(x))
    attacks = [PGD(threat, steps=20, restarts=3, seed=5)(network, x, y) for network in (student, teacher)]
    around = [*attacks, *perturbations(x, threat, [])]
    for network in (student, teacher):
        expansion = expand(network, x, y, threat, steps=20, restarts=20)
        changes = [((z - x) * expansion.gradient).flatten(1).sum(1) for z in around]
        after = [losses(network, z, y) for z in around]
        pairs = zip(after, changes, strict=True)
        remainders.append(torch.stack([(loss - expansion.loss - change).abs() for loss, change in pairs]).amax(0))
        worst.append(torch.stack(after).amax(0))
        expansions.append(expansion)
    for expansion, remainder, loss in zip(expansions, remainders, worst, strict=True):
        error = (remainder - expansion.local_linearity).clamp_min(0)
        assert bool((loss <= expansion.worst_loss + error + 1e-5).all())
        assert float(error.mean()) < 0.01 * float(remainder.mean())  # and the search misses next to nothing
        assert bool((remainder > 1e-3).any())
    gap = torch.stack([(losses(student, z, y) - losses(teacher, z, y)).abs() for z in around]).amax(0)
    errors = sum((r - e.local_linearity).clamp_min(0) for r, e in zip(remainders, expansions, strict=True))
    assert bool((gap <= transfer_bound(*expansions).total + errors + 1e-5).all())


# ---------------------------------------------------------------------------------------------------------------------
# Curves


def test_curve_falls_from_clean_accuracy(teacher: nn.Module, digits: Batches) -> None:
    attack = PGD(THREATS[0], steps=5)
    curve = accuracy_curve(teacher, digits, attack, [0.3, 1e-6, 0.1, 0.05, 0.2])
    clean = measure(teacher, digits, {}).clean
    assert list(curve) == [0.0, 1e-6, 0.05, 0.1, 0.2, 0.3]
    counts = [accuracy.correct for accuracy in curve.values()]
    assert counts == sorted(counts, reverse=True)
    assert curve[0.0] == curve[1e-6] == clean
    assert len(set(counts)) >= 4


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_curve_is_the_measurement_at_one_radius(teacher: nn.Module, digits: Batches, threat: ThreatModel) -> None:
    """Half the radius with half the step, from the same random starts."""
    half = PGD(replace(threat, eps=threat.eps / 2), steps=4, step_size=0.1)
    curve = accuracy_curve(teacher, digits, PGD(threat, steps=4, step_size=0.2), [half.threat.eps], seed=3)
    measured = measure(teacher, digits, {"half": half}, seed=3)
    assert [accuracy.correct for accuracy in curve.values()] == [
        measured.clean.correct,
        measured.robust["half"].correct,
    ]
    assert {accuracy.total for accuracy in curve.values()} == {measured.clean.total}
    assert measured.robust["half"].correct < measured.clean.correct


def test_step_sizes_follow_the_radius() -> None:
    attack = scaled(PGD(ThreatModel("linf", 0.1), steps=7, step_size=0.04), 0.05)
    assert attack == PGD(ThreatModel("linf", 0.05), steps=7, step_size=0.02)
    assert scaled(PGD(ThreatModel("linf", 0.1)), 0.2) == PGD(ThreatModel("linf", 0.2))


@dataclass(frozen=True)
class Flaky(Attack):
    """Projected gradient descent that gives up at larger radii."""

    works_below: float = math.inf

    @property
    def name(self) -> str:
        return "flaky"

    def perturb(self, model: Any, images: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        if self.threat.eps >= self.works_below:
            return images
        return PGD(self.threat, steps=10)(model, images, labels)


def test_what_is_broken_stays_broken(teacher: nn.Module, digits: Batches) -> None:
    """Also when the attack fails at the larger radius."""
    curve = accuracy_curve(teacher, digits, Flaky(THREATS[0], works_below=0.15), [0.14, 0.2])
    assert curve[0.14] == curve[0.2]
    assert curve[0.2].correct < curve[0.0].correct
    alone = accuracy_curve(teacher, digits, Flaky(THREATS[0], works_below=0.15), [0.2])
    assert alone[0.2] == alone[0.0]


def test_seed_of_a_curve(teacher: nn.Module, digits: Batches) -> None:
    drawn = []

    @dataclass(frozen=True)
    class Noise(Attack):
        name = "noise"

        def perturb(self, model: Any, images: torch.Tensor, *_: Any, generator: Any, **__: Any) -> torch.Tensor:
            drawn.append(self.threat.random_start(images, generator))
            return drawn[-1]

    for seed in (0, 0, 1):
        accuracy_curve(teacher, digits, Noise(THREATS[0]), [0.05], seed=seed)
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[4])


@pytest.mark.parametrize("radii", [[], [0.0], [0.1, -0.1]])
def test_radii_must_be_positive(teacher: nn.Module, digits: Batches, radii: list[float]) -> None:
    with pytest.raises(ValueError, match=r"radius|eps must be positive"):
        accuracy_curve(teacher, digits, PGD(THREATS[0]), radii)


# ---------------------------------------------------------------------------------------------------------------------
# All of it


def quick(student: nn.Module, teacher: nn.Module | None, batches: Batches, **options: Any) -> Diagnostics:
    threat = THREATS[0]
    given: dict[str, Any] = {"attack": PGD(threat, steps=5), "radii": [0.05], "steps": 4, "restarts": 2, **options}
    return diagnose(student, teacher, batches, threat, **given)


def test_diagnosis_is_made_of_its_parts(student: nn.Module, teacher: nn.Module, digits: Batches) -> None:
    found = quick(student, teacher, digits)
    starts = {network: generator() for network in (student, teacher)}
    starts["worst"] = generator()
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("linearity", "bounded", "cosine", "bound", "passed")}
    for x, y in digits:
        options: dict[str, Any] = {"steps": 4, "restarts": 2}
        ours, theirs = (expand(net, x, y, THREATS[0], **options, generator=starts[net]) for net in (student, teacher))
        worst = worst_loss(teacher, x, y, THREATS[0], **options, generator=starts["worst"])
        parts["linearity"].append(ours.local_linearity)
        parts["bounded"].append(ours.loss + ours.linear_change + ours.local_linearity < math.log(2))
        parts["cosine"].append(gradient_alignment(student, teacher, x, y).cosine)
        parts["bound"].append(transfer_bound(ours, theirs).total)
        parts["passed"].append(worst + transfer_bound(ours, theirs).total < math.log(2))
    values = {name: torch.cat(part) for name, part in parts.items()}
    assert found.images == 120
    assert found.transfer is not None
    assert found.student.local_linearity == Summary.of(values["linearity"])
    assert found.student.bounded == Accuracy(int(values["bounded"].sum()), 120)
    assert found.transfer.cosine == Summary.of(values["cosine"])
    assert found.transfer.bound == Summary.of(values["bound"])
    assert found.transfer.bounded == Accuracy(int(values["passed"].sum()), 120)
    assert 0 < found.transfer.bounded.correct < found.student.bounded.correct  # a detour through the teacher costs
    assert found.student.curve == accuracy_curve(student, digits, PGD(THREATS[0], steps=5), [0.05, 0.1])
    alone = quick(student, None, digits)
    assert (alone.student, alone.teacher, alone.transfer) == (found.student, None, None)


def test_diagnosis_of_a_copy(student: nn.Module, digits: Batches) -> None:
    found = quick(student, student, digits)
    assert found.teacher == found.student
    assert found.transfer is not None
    assert found.transfer.cosine.mean == pytest.approx(1, abs=1e-6)
    assert (
        found.transfer.gradient_distance.mean == found.transfer.loss_gap.mean == found.transfer.gradient_gap.mean == 0
    )
    assert found.transfer.bound.mean == pytest.approx(2 * found.student.local_linearity.mean)


def test_diagnosis_leaves_networks_as_they_were(student: nn.Module, teacher: nn.Module, digits: Batches) -> None:
    """It measures in evaluation mode, without dropout, whatever the modes were."""
    reference = quick(student, teacher, digits)
    student[0].train()
    teacher.train()
    try:
        modes = [module.training for network in (student, teacher) for module in network.modules()]
        state = torch.random.get_rng_state()
        assert quick(student, teacher, digits) == reference
        assert modes == [module.training for network in (student, teacher) for module in network.modules()]
        assert torch.equal(state, torch.random.get_rng_state())
        with pytest.raises(RuntimeError, match="stop"):
            quick(student, teacher, failing(digits))
        assert modes == [module.training for network in (student, teacher) for module in network.modules()]
    finally:
        student.eval()
        teacher.eval()
    assert all(parameter.grad is None for network in (student, teacher) for parameter in network.parameters())


def failing(batches: Batches) -> Any:
    yield batches[0]
    raise RuntimeError("stop")


def test_functions_touch_no_buffer_mode_or_image() -> None:
    """Called on a network in training mode, as objectives do."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))
    x, y = images().float(), torch.arange(24) % 2
    before, copy = [tensor.clone() for tensor in network.state_dict().values()], x.clone()
    expansion = expand(network, x, y, THREATS[0], steps=2, restarts=2)
    gradient_alignment(network, network, x, y)
    worst_loss(network, x, y, THREATS[0], steps=2, restarts=2)
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(x, copy)
    assert not x.requires_grad
    assert not any(t.requires_grad for t in (expansion.loss, expansion.gradient, expansion.local_linearity))


def test_bounds_that_an_attack_contradicts_are_counted(
    student: nn.Module, digits: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the search for the local linearity had found nothing at all."""

    def found_nothing(*arguments: Any, **options: Any) -> Expansion:
        return replace(expand(*arguments, **options), local_linearity=torch.zeros(len(arguments[1])))

    monkeypatch.setattr("proard.evaluation.transfer.diagnosis.expand", found_nothing)
    threat, attack = ThreatModel("linf", 0.2), PGD(ThreatModel("linf", 0.2), steps=5)
    found = diagnose(student, None, digits[:1], threat, attack=attack, radii=[], steps=1, restarts=1, seed=4).student
    x, y = digits[0]
    loss, gradient = loss_and_gradient(student, x, y)
    bounded = loss + 0.2 * gradient.abs().sum((1, 2, 3)) < math.log(2)
    right = (student(x).argmax(1) == y).nonzero().squeeze(1)
    fooled = student(attack(student, x[right], y[right], generator=generator(4))).argmax(1) != y[right]
    assert found.contradicted == int(bounded[right[fooled]].sum()) > 0
    assert found.bounded.correct == int(bounded.sum()) > found.contradicted


def test_summary_and_json(student: nn.Module, teacher: nn.Module, digits: Batches) -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    summary = Summary.of(values)
    half = 1.959964 * math.sqrt(38 / 3) / 2  # squared deviations from 4: 9, 4, 0, 25
    assert summary.mean == 4
    assert summary.interval_95 == pytest.approx((4 - half, 4 + half))
    assert summary.quantiles == pytest.approx((1.15, 3.0, 8.25))
    found = quick(student, teacher, digits)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["student"]["local_linearity"]["mean"] == found.student.local_linearity.mean
    assert plain["threat"] == {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0]}
    assert plain["attack"]["steps"] == 5
    assert plain["note"] == NOT_A_CERTIFICATE
    assert [point["eps"] for point in plain["teacher"]["curve"]] == [0.0, 0.05, 0.1]
    assert plain["transfer"]["bounded"]["images"] == 120
    table = str(found)
    assert NOT_A_CERTIFICATE in table
    assert f"{found.transfer.cosine.mean:.3g}" in table  # type: ignore[union-attr]


def test_wrong_input_is_refused(student: nn.Module, digits: Batches) -> None:
    x, y = digits[0]
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        quick(student, None, [(x[:1], y[:1])])
    with pytest.raises(UserError, match="10 classes apart, the teacher 7"):
        quick(student, nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), digits)
    with pytest.raises(UserError, match="calibrate"):
        quick(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)), None, digits)
    with pytest.raises(ValueError, match="the attack is for"):
        quick(student, None, digits, attack=PGD(THREATS[1]))


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def directory(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student directory, with a program that nothing here reads."""
    folder = tmp_path_factory.mktemp("diagnosed")
    run = Path(shutil.copytree(trained_run, folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))
        (extracted,) = extract([("flops", "100M")], run=run, out=folder, quiet=True)
    return extracted.path


def exit_code(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_evaluate_keeps_the_diagnostics(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the files that the card vouches for, which still does; and the same numbers as from Python."""
    arguments = ["evaluate", str(directory), "--limit", "25", "--diagnose", "--teacher", str(directory)]
    assert exit_code(*arguments, "--json") == 0
    (printed,) = json.loads(capsys.readouterr().out)
    kept = json.loads((directory / "diagnostics.json").read_text())
    assert kept == printed["diagnostics"]
    assert kept["teacher_source"] == {"source": str(directory), "sha256": sha256(directory / WEIGHTS)}
    assert kept["images"] == 25
    assert kept["transfer"]["gradient_distance"]["mean"] == 0
    assert kept["student"]["curve"][0]["correct"] == printed["clean"]["correct"]
    student = load_student(directory)
    card: Any = student.card
    data = load_data(DataConfig.model_validate(card["data"]))
    batches = evaluation_batches(data.test.subset(25, 1), data.input_shape, torch.device("cpu"))
    assert (
        json.loads(json.dumps(diagnose(student, None, batches, THREATS[0], seed=1).as_dict()["student"]))
        == (kept["student"])
    )
    assert exit_code(*arguments) == 0
    assert NOT_A_CERTIFICATE in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--teacher", "resnet"], "only --diagnose"),
        (["--diagnose", "--teacher", "frozen"], "name a student directory"),
        (["--diagnose", "--teacher", "nowhere"], "teacher nowhere: no such directory"),
        (["--diagnose", "--teacher", "weights.pt"], "teacher.architecture"),
        (["--diagnose", "--teacher", "{source: weights.pt, architectur: resnet18}"], "did you mean 'architecture'?"),
        (["--diagnose", "--teacher", "{source: ["], "not valid YAML"),
        (["--diagnose", "--limit", "1"], "at least 2 images"),
    ],
)
def test_mistakes_are_told_in_one_line(
    directory: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("evaluate", str(directory), *options) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1
