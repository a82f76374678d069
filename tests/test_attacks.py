"""Attacks against closed forms and foolbox, and the rules that they must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from proard.attacks import PGD, ThreatModel, fgsm, maximise
from proard.attacks.losses import cross_entropy, kl_divergence, margin
from proard.attacks.threat import per_image_norm

THREATS = [ThreatModel("linf", 0.05), ThreatModel("l2", 0.5), ThreatModel("l1", 3.0)]


def images(count: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 8) -> torch.Tensor:
    return torch.arange(count) % 4


class Everything(nn.Module):
    """A network with all that an attack could disturb: batch norm, dropout, parameters, mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.frozen_norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.frozen_norm(torch.relu(self.norm(self.convolution(x))))
        return self.head(self.dropout(x.mean((2, 3))))


class Linear(nn.Module):
    """Two classes, logit difference w.x: the best perturbation is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 6 * 6, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1) @ self.weight
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("start", ["uniform", "clean"])
def test_optimum_of_a_linear_model_linf(start: str) -> None:
    model, threat = Linear(), ThreatModel("linf", 0.03)
    x, y = 0.3 + 0.4 * images(), torch.zeros(8, dtype=torch.long)
    adversarial = PGD(threat, steps=40, step_size=0.01, start=start)(model, x, y)  # type: ignore[arg-type]
    best = x + threat.eps * model.weight.sign().view(1, 3, 6, 6)
    torch.testing.assert_close(adversarial, best.detach(), rtol=0, atol=1e-6)


def test_optimum_of_a_linear_model_at_the_bounds() -> None:
    model, threat = Linear(), ThreatModel("linf", 0.2)
    x = images()
    adversarial = PGD(threat, steps=40, step_size=0.05)(model, x, torch.zeros(8, dtype=torch.long))
    best = (x + threat.eps * model.weight.sign().view(1, 3, 6, 6)).clamp(0, 1)
    torch.testing.assert_close(adversarial, best.detach(), rtol=0, atol=1e-6)


def test_optimum_of_a_linear_model_l2() -> None:
    model, threat = Linear(), ThreatModel("l2", 0.4)
    x = 0.4 + 0.2 * images()
    adversarial = PGD(threat, steps=100, step_size=0.1)(model, x, torch.zeros(8, dtype=torch.long))
    best = x + threat.eps * (model.weight / model.weight.norm()).view(1, 3, 6, 6)
    torch.testing.assert_close(adversarial, best.detach(), rtol=0, atol=1e-3)
    torch.testing.assert_close(per_image_norm(adversarial - x), torch.full((8, 1, 1, 1), 0.4), rtol=0, atol=1e-5)


def test_targeted_goes_the_other_way() -> None:
    model, threat = Linear(), ThreatModel("linf", 0.03)
    x, target = 0.3 + 0.4 * images(), torch.ones(8, dtype=torch.long)
    adversarial = PGD(threat, steps=40, step_size=0.01, targeted=True)(model, x, target)
    torch.testing.assert_close(
        adversarial, (x + 0.03 * model.weight.sign().view(1, 3, 6, 6)).detach(), rtol=0, atol=1e-6
    )


def test_fgsm_is_one_signed_step() -> None:
    model = Everything().eval()
    x, y = images(), labels()
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(z), y), z)
    expected = (x + 0.05 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(ThreatModel("linf", 0.05))(model, x, y), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 7])
def test_same_images_as_foolbox(norm: str, steps: int) -> None:
    """With equal settings and the same start, step by step."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    model = Everything().eval()
    x, y = images(), labels()
    eps, step = (0.05, 0.02) if norm == "linf" else (0.8, 0.3)
    make = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, _ = make(abs_stepsize=step, steps=steps, random_start=False)(wrapped, x, y, epsilons=eps)
    ours = PGD(ThreatModel(norm, eps), steps=steps, step_size=step, start="clean")(model, x, y)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
@pytest.mark.parametrize("training", [True, False])
def test_the_rules(threat: ThreatModel, start: str, training: bool) -> None:
    """Inside the ball and the bounds, detached; nothing of the model or the input has changed."""
    model = Everything().train(training)
    model.frozen_norm.eval()
    parameters = {name: (p.detach().clone(), p.grad) for name, p in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    x, y = images(), labels()
    before = x.clone()
    adversarial = PGD(threat, steps=5, start=start)(model, x, y)  # type: ignore[arg-type]

    assert torch.equal(x, before)
    assert not x.requires_grad
    assert not adversarial.requires_grad
    assert adversarial.dtype == torch.float32
    assert adversarial.shape == x.shape
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert 0 < threat.size(adversarial - x).amax() <= threat.eps * (1 + 1e-5) + 1e-6
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[name][0])
        assert parameter.grad is None
        assert parameter.requires_grad


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_gradients_already_there_are_kept(threat: ThreatModel) -> None:
    model = Everything().train()
    model(images()).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    PGD(threat, steps=2)(model, images(), labels())
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))


def test_everything_is_put_back_after_an_exception() -> None:
    model = Everything().train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def failing_loss(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        PGD(THREATS[0])(model, images(), labels(), loss=failing_loss)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert model.training


def test_works_inside_no_grad_and_without_parameter_gradients() -> None:
    model = Everything().eval().requires_grad_(False)
    with torch.no_grad():
        adversarial = PGD(THREATS[0], steps=5)(model, images(), labels())
        assert cross_entropy(model(adversarial), labels()).sum() > cross_entropy(model(images()), labels()).sum()
        assert not torch.is_grad_enabled()


def test_random_only_from_the_generator() -> None:
    model, x, y = Everything().eval(), images(), labels()
    attack = PGD(THREATS[0], steps=2)
    state = torch.get_rng_state()
    first, second = attack(model, x, y), attack(model, x, y)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(5)
    third, fourth = (attack(model, x, y, generator=generator) for _ in range(2))
    assert not torch.equal(third, fourth)
    assert torch.equal(attack(model, x, y, generator=torch.Generator().manual_seed(5)), third)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_random_start_fills_the_ball(threat: ThreatModel) -> None:
    x = torch.full((4000, 1, 1, 2), 0.5)
    generator = torch.Generator().manual_seed(0)
    delta = (ThreatModel(threat.norm, 0.2).random_start(x, generator) - x).flatten(1)
    distance = threat.size(delta)
    assert distance.max() <= 0.2 + 1e-6
    # In two dimensions, a quarter of the ball's volume is within half of its radius.
    assert abs((distance < 0.1).float().mean() - 0.25) < 0.03
    assert delta.mean(0).abs().max() < 0.01


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_are_those_of_numpy(layout: torch.memory_format) -> None:
    """In float64, of each image, whatever the memory layout; the dual of a norm is the other one of its pair."""
    delta = (images() - 0.5).contiguous(memory_format=layout)
    orders = {"l1": (1, math.inf), "l2": (2, 2), "linf": (math.inf, 1)}
    for threat in THREATS:
        for found, order in zip((threat.size(delta), threat.dual_size(delta)), orders[threat.norm], strict=True):
            expected = [np.linalg.norm(image.double().flatten().numpy(), order) for image in delta]
            np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5)


def test_the_box_of_linf_is_that_of_numpy() -> None:
    """Around images beyond the bounds, too: nothing is projected out of them."""
    threat, generator = ThreatModel("linf", 0.2), torch.Generator().manual_seed(0)
    around = 1.4 * torch.rand(5, 3, 4, 4, generator=generator) - 0.2
    project = threat.projection(around)
    for scale in (0.01, 0.3, 3):
        perturbed = around + scale * torch.randn(around.shape, generator=generator)
        eps = np.float32(0.2)
        expected = np.clip(perturbed.numpy(), around.numpy() - eps, around.numpy() + eps).clip(0, 1)
        np.testing.assert_array_equal(project(perturbed).numpy(), expected)


def test_restarts_never_do_worse() -> None:
    torch.manual_seed(0)
    model = Everything().eval()
    x, y = images(64), labels(64)
    one = margin(model(PGD(THREATS[0], steps=2)(model, x, y)), y)
    five = margin(model(PGD(THREATS[0], steps=2, restarts=5)(model, x, y)), y)
    assert torch.all(five >= one - 1e-6)
    assert torch.any(five > one + 1e-4)


@pytest.mark.parametrize("threat", [ThreatModel("linf", 0.15), ThreatModel("l2", 1.4)])
def test_evaluation_stops_at_the_first_image_that_fools(threat: ThreatModel) -> None:
    """What is fooled is what any step of the attack fools; the others end where the attack ends; less is computed."""
    model, x = Everything().eval().double(), images(64).double()
    y, seen = model(x).argmax(1), []
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    attack = PGD(threat, steps=12, step_size=threat.eps / 8, seed=3)
    found = attack.until_fooled(model, x, y)
    assert sum(seen) < 0.9 * 13 * 64
    fooled = model(found).argmax(1) != y
    path = [
        maximise(
            model,
            x,
            lambda z, _: cross_entropy(z, y),
            threat,
            steps=1,
            step_size=1e-30,
            start="uniform",
            generator=torch.Generator().manual_seed(3),
        )
    ]
    for _ in range(12):
        path.append(
            maximise(
                model,
                x,
                lambda z, _: cross_entropy(z, y),
                threat,
                steps=1,
                step_size=threat.eps / 8,
                start=path[-1],
                generator=torch.Generator(),
            )
        )
    wrong = torch.stack([model(step).argmax(1) != y for step in path])
    assert torch.equal(fooled, wrong.any(0))
    assert 5 < fooled.sum() < 59
    torch.testing.assert_close(found[~fooled], path[-1][~fooled])
    for image, first in zip(found[fooled], wrong[:, fooled].int().argmax(0), strict=True):
        assert any(torch.allclose(image, other) for other in path[first])
    assert PGD(threat, steps=1, restarts=9).until_fooled(model, x, y).shape == x.shape


def test_a_batch_that_hangs_together_is_attacked_whole() -> None:
    model, attack = Everything().train(), PGD(THREATS[0], steps=3, seed=1)
    torch.manual_seed(0)
    plain = attack(model, images(), labels())
    torch.manual_seed(0)
    assert torch.equal(attack.until_fooled(model, images(), labels()), plain)


def test_loss_is_injectable() -> None:
    model, x, y = Everything().eval(), images(), labels()
    target = model(x).detach()
    attack = PGD(THREATS[0], steps=10)
    by_kl = attack(model, x, y, loss=lambda logits, _: kl_divergence(target, logits))
    by_margin = attack(model, x, y, loss=lambda logits, _: margin(logits, y))
    by_distance = attack(model, x, y, loss=lambda _, perturbed: (perturbed - x).flatten(1).square().sum(1))
    assert kl_divergence(target, model(by_kl)).sum() > kl_divergence(target, model(by_margin)).sum() > 0
    assert margin(model(by_margin), y).sum() > margin(model(x), y).sum()
    assert ((by_distance - x).abs() > 0.05 - 1e-6).float().mean() > 0.8


def test_perturbation_is_float32_under_autocast() -> None:
    model, x, y = Everything().eval(), images(), labels()
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = PGD(ThreatModel("linf", 1 / 1024), steps=3)(model, x, y)
    assert adversarial.dtype == torch.float32
    assert (adversarial - x).abs().max() <= 1 / 1024 + 1e-7
    # Finer than bfloat16, which moves in steps of 1/256 near 1.
    assert ((adversarial - x).abs() > 1e-5).float().mean() > 0.9
    assert (adversarial.bfloat16().float() != adversarial).float().mean() > 0.9


def test_float64_stays_float64() -> None:
    model = Everything().eval().double()
    assert PGD(THREATS[0], steps=2)(model, images().double(), labels()).dtype == torch.float64


def test_any_callable_is_a_model() -> None:
    weight = torch.randn(3 * 6 * 6, 4, generator=torch.Generator().manual_seed(0))
    adversarial = PGD(THREATS[0], steps=3)(lambda x: x.flatten(1) @ weight, images(), labels())
    assert (adversarial - images()).abs().max() <= 0.05 + 1e-6


def test_no_images() -> None:
    empty = torch.empty(0, 3, 6, 6)
    assert PGD(THREATS[1])(Everything().eval(), empty, torch.empty(0, dtype=torch.long)).shape == empty.shape


def test_wrong_input_is_refused() -> None:
    model = Everything().eval()
    for make, message in (
        (lambda: ThreatModel("l3", 0.1), "linf, l2 or l1"),  # type: ignore[arg-type]
        (lambda: ThreatModel("linf", 0.0), "positive"),
        (lambda: ThreatModel("linf", math.nan), "positive"),
        (lambda: ThreatModel("linf", 0.1, (1.0, 0.0)), "bounds"),
        (lambda: PGD(THREATS[0], steps=0), "at least 1"),
        (lambda: PGD(THREATS[0], step_size=-1.0), "positive"),
        (lambda: PGD(THREATS[0], start="random"), "uniform, gaussian or clean"),  # type: ignore[arg-type]
        (lambda: PGD(THREATS[0], restarts=2, start="clean"), "would all be the same"),
        (lambda: PGD(THREATS[0])(model, images() * 255, labels()), "normalisation inside the model"),
        (lambda: PGD(THREATS[0])(model, (images() * 255).byte(), labels()), "floating point"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_maximise_takes_the_steps_it_is_told() -> None:
    calls = []

    def model(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x.flatten(1)

    generator = torch.Generator().manual_seed(0)
    options = {"steps": 4, "step_size": 0.01, "start": "clean", "generator": generator}
    maximise(model, images(), lambda logits, _: logits.sum(1), THREATS[0], **options)  # type: ignore[arg-type]
    assert len(calls) == 4
    torch.testing.assert_close(calls[3], (images() + 0.03).clamp(0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def test_losses_against_float64_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(16, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    y = torch.arange(16) % 5
    p, q = a.softmax(1), b.softmax(1)
    torch.testing.assert_close(kl_divergence(a, b), (p * (p.log() - q.log())).sum(1))
    hot_p, hot_q = (a / 4).softmax(1), (b / 4).softmax(1)
    torch.testing.assert_close(kl_divergence(a, b, temperature=4.0), (hot_p * (hot_p / hot_q).log()).sum(1))
    torch.testing.assert_close(cross_entropy(a, y), -p[torch.arange(16), y].log())
    smooth = 0.9 * functional.one_hot(y, 5) + 0.1 / 5
    torch.testing.assert_close(cross_entropy(a, y, label_smoothing=0.1), -(smooth * p.log()).sum(1))
    others = torch.stack([row[torch.arange(5) != label].max() - row[label] for row, label in zip(a, y, strict=True)])
    torch.testing.assert_close(margin(a, y), others)
    batchmean = functional.kl_div(b.log_softmax(1), p, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(a, b).mean(), batchmean)


def test_losses_are_float32_under_autocast() -> None:
    logits = torch.randn(4, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        results = [cross_entropy(logits, labels(4)), kl_divergence(logits, logits), margin(logits, labels(4))]
    assert all(result.dtype == torch.float32 for result in results)
