"""What all objectives have in common, and their options."""

from __future__ import annotations

import pytest
import torch
from test_objectives_formulas import ATTACK, CASES, Given, Images, batch, igdm, network, value
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.common.errors import UserError
from proard.objectives import ARD, CE, HAT, IAD, IGDM, KD, KDIGA, MART, RSLAD, TRADES, AdaAD, AdaIAD, Batch, objectives
from proard.training.teachers import BatchTeacher


@pytest.fixture(name="batch")
def _batch() -> Images:
    return batch()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_networks_and_batch_are_left_as_they_were(name: str, training: bool, batch: Images) -> None:
    """Modes, buffers and gradients; the teacher's parameters get none even where they could."""
    nets = {"student": network(0, track=not training).train(training), "teacher": network(1, track=True).eval()}
    nets["student"][1].train(not training)
    before = {name: {key: t.clone() for key, t in net.state_dict().items()} for name, net in nets.items()}
    modes = [module.training for net in nets.values() for module in net.modules()]
    images, labels = batch[0].clone(), batch[1].clone()
    loss = value(CASES[name][0], nets["student"], nets["teacher"], batch)
    assert all(parameter.grad is None for net in nets.values() for parameter in net.parameters())
    loss.backward()
    assert all(parameter.grad is None for parameter in nets["teacher"].parameters())
    assert all(parameter.grad is not None for parameter in nets["student"].parameters())
    assert [module.training for net in nets.values() for module in net.modules()] == modes
    for net_name, net in nets.items():
        assert all(torch.equal(tensor, before[net_name][key]) for key, tensor in net.state_dict().items())
    assert torch.equal(batch[0], images)
    assert torch.equal(batch[1], labels)
    assert not batch[0].requires_grad


@pytest.mark.parametrize("name", CASES)
def test_running_statistics_make_no_difference_in_training(name: str, batch: Images) -> None:
    """A network that tracks them, such as one from elsewhere, is attacked between two of its forward passes."""
    gradients = []
    for track in (True, False):
        student = network(0, track)
        value(CASES[name][0], student, network(1), batch).backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", CASES)
def test_outcome_has_the_logits(name: str, batch: Images) -> None:
    student, teacher = network(0), network(1)
    outcome = CASES[name][0].outcome(student, teacher, Batch(*batch, torch.Generator().manual_seed(9)))
    assert outcome.clean_logits is not None or outcome.adversarial_logits is not None
    assert (outcome.adversarial_logits is None) == (outcome.adversarial_images is None)
    if outcome.clean_logits is not None:
        torch.testing.assert_close(outcome.clean_logits, student(batch[0]))
    if outcome.adversarial_images is not None:
        torch.testing.assert_close(outcome.adversarial_logits, student(outcome.adversarial_images))
        assert (outcome.adversarial_images - batch[0]).abs().max() <= 0.1 + 1e-12
        assert not outcome.adversarial_images.requires_grad


@pytest.mark.parametrize("name", CASES)
def test_autocast(name: str, batch: Images) -> None:
    """The loss is float32, and near that of full precision."""
    student, teacher = network(0).float(), network(1).float()
    half = (batch[0].float(), batch[1])
    full = value(CASES[name][0], student, teacher, half)
    with torch.autocast("cpu", torch.bfloat16):
        loss = value(CASES[name][0], student, teacher, half)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, full, rtol=0.15, atol=0.05)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0].needs_teacher])
def test_a_missing_teacher_is_named(name: str, batch: Images) -> None:
    with pytest.raises(ValueError, match="distils from a teacher, but got None"):
        CASES[name][0](network(0), None, *batch)


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_options_that_make_one_objective_another(batch: Images) -> None:
    student, teacher = network(0), network(1)
    for one, other in (
        (TRADES(ATTACK, beta=0.0), CE()),
        (HAT(ATTACK, beta=6.0, gamma=0.0), TRADES(ATTACK)),
        (KD(0.0), CE()),
        (IAD(ATTACK, 0.7, 3.0, begin=0.5), ARD(ATTACK, 0.7, 3.0)),
        (AdaIAD(ATTACK, begin=0.5), AdaAD(ATTACK)),
        (KDIGA(ATTACK, 0.9, 4.0, alignment_weight=0.0, scale=0.3), KD(scale=0.3)),
        (KDIGA(ATTACK, 0.9, 4.0, alignment_weight=0.0, distil="adversarial"), ARD(ATTACK, 0.9, 4.0)),
        (IGDM(ATTACK, weight=0.0), RSLAD(ATTACK)),
    ):
        torch.testing.assert_close(*(value(objective, student, teacher, batch, 0.4) for objective in (one, other)))
    scaled, whole = (value(RSLAD(ATTACK, scale=scale), student, teacher, batch) for scale in (0.1, 1.0))
    torch.testing.assert_close(scaled, 0.1 * whole)


def test_boosted_cross_entropy_of_confident_mistakes() -> None:
    """Where 1 - max p is 0 in floating point, its logarithm is still right."""
    net = nn.Linear(2, 3).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0], [0, 0], [500, 0]]))
        net.bias.zero_()
    images, labels = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0])
    loss = MART(PGD(ThreatModel("linf", 1e-9), steps=1))(net, None, images, labels)
    log_two = torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(loss, 500 + (500 - log_two), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "base",
    [
        "sat",
        {"name": "trades", "beta": 2},
        {"name": "ard", "temperature": 5},
        {"name": "kdiga", "align": "adversarial"},
        {"name": "igdm", "base": {"name": "adaiad"}},
    ],
)
def test_igdm_adds_to_any_objective(base: str | dict[str, object], batch: Images) -> None:
    made = objectives.build("igdm", {"base": base, "weight": 0.5}, attack=ATTACK)
    assert isinstance(made, IGDM)
    assert made.base.attack is ATTACK
    student, teacher = network(0), network(1)
    alone = made.base.outcome(student, teacher, Batch(*batch, torch.Generator().manual_seed(9), 0.4))
    given = Given(student, teacher, *batch, progress=0.4)
    expected = igdm(given, alone.adversarial_images, alone.loss, 0.5)
    torch.testing.assert_close(value(made, student, teacher, batch, 0.4), expected)


def test_wrong_options_are_named() -> None:
    for name, options, message in (
        ("rslat", {}, "unknown objective 'rslat'; did you mean 'rslad'?"),
        ("trades", {"bta": 6}, "has no option 'bta'; did you mean 'beta'?"),
        ("trades", {"beta": -1}, "beta must be at least 0"),
        ("trades", {"beta": "much"}, "should be a valid number"),
        ("rslad", {"attack": 3}, "no option 'attack'"),
        ("sat", {"label_smoothing": 2}, "label_smoothing must be in [0, 1], got 2"),
        ("mart", {"regularization": -1}, "regularization must be at least 0"),
        ("hat", {"extrapolation": 0}, "extrapolation must be positive"),
        ("kd", {"temperature": 0}, "temperature must be positive"),
        ("ard", {"distillation_weight": 1.5}, "distillation_weight must be in [0, 1], got 1.5"),
        ("iad", {"begin": 60}, "begin must be in [0, 1], got 60"),
        ("adaad", {"scale": 0}, "scale must be positive"),
        ("kdiga", {"align": "adv"}, "should be 'clean' or 'adversarial', got 'adv'"),
        ("kdiga", {"alignment_weight": -1}, "alignment_weight must be at least 0"),
        ("igdm", {"base": "rslat"}, "base: unknown objective 'rslat'; did you mean 'rslad'?"),
        ("igdm", {"base": {"name": "ard", "t": 3}}, "base: objective 'ard' has no option 't'"),
        ("igdm", {"base": {"temperature": 3}}, "base must have a name"),
        ("igdm", {"base": 3}, "option 'base' of objective 'igdm'"),
    ):
        with pytest.raises(UserError) as caught:
            objectives.build(name, options, where="phases.0.objective", attack=ATTACK)
        assert str(caught.value).startswith("phases.0.objective: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="align must be clean or adversarial"):
        KDIGA(align="both")  # type: ignore[arg-type]


def test_batch_teacher_computes_once_and_passes_other_images_through(batch: Images) -> None:
    calls = []
    net = network(1)

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(images)
        return net(images)

    images, labels = batch
    teacher = BatchTeacher(counted, images)
    first, second = teacher(images), teacher(images)
    assert first is second
    assert not first.requires_grad
    assert len(calls) == 1
    other = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(teacher(other), labels, reduction="sum"), other)
    assert len(calls) == 2
    for asked, expected_calls in ((images, 3), (images, 3), (images.clone(), 4)):
        torch.testing.assert_close(teacher.input_gradient(asked, labels), gradient)
        assert len(calls) == expected_calls
