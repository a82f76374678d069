"""Every registered attack: the rules it must keep, closed forms, and independent libraries on the same network."""

from __future__ import annotations

import copy
import importlib.util
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from proard.attacks import (
    APGDCE,
    APGDDLR,
    FAB,
    FGM,
    FGSM,
    MIFGSM,
    NFGSM,
    PGD,
    APGDTargeted,
    Attack,
    AttackError,
    AutoAttack,
    DeepFool,
    FABTargeted,
    MarginPGD,
    Square,
    ThreatModel,
    attacks,
    check_result,
    fgsm,
)
from proard.attacks.apgd import ascend, checkpoints, dlr, targeted_dlr
from proard.attacks.autoattack import parts
from proard.attacks.fab import to_hyperplane
from proard.attacks.losses import margin
from proard.common.errors import UserError

needs_autoattack = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed"
)
EPS = {"linf": 0.1, "l2": 0.7, "l1": 2.5}
TIMES = {"linf": 1, "l2": 8, "l1": 60}  # an eps of linf that is about as strong in another norm
ATTACKS: dict[str, type[Any]] = {name: type(attacks.build(name, {}, threat=ThreatModel(norm, 0.1))) for name, norm in (
    (name, "l2" if name == "fgm" else "linf") for name in attacks.names()
)}  # fmt: skip
CASES = [(name, norm) for name, kind in ATTACKS.items() for norm in kind.norms]
QUICK: dict[str, dict[str, Any]] = {
    "apgd-ce": {"steps": 8, "restarts": 2},
    "apgd-dlr": {"steps": 8, "restarts": 2},
    "apgd-t": {"steps": 8},
    "cw": {"steps": 5, "restarts": 2},
    "fab": {"steps": 8},
    "fab-t": {"steps": 8},
    "pgd": {"steps": 5, "restarts": 2},
    "square": {"queries": 40, "restarts": 2},
}


def quick(name: str, norm: str, eps: float = 0.05) -> Attack:
    threat = ThreatModel(norm, TIMES[norm] * eps)  # type: ignore[arg-type]
    return attacks.build(name, QUICK.get(name, {}), threat=threat)


def images(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


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
        self.frozen_norm.eval()
        self.fails_after: float = float("inf")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fails_after -= 1
        if self.fails_after < 0:
            raise RuntimeError("in the middle")
        x = self.frozen_norm(torch.relu(self.norm(self.convolution(x))))
        return self.head(self.dropout(x.mean((2, 3))))


def everything(training: bool = False) -> tuple[Everything, torch.Tensor, torch.Tensor]:
    """The network, with gradients of an earlier step, images, and labels of which most are the network's."""
    model, x = Everything(), images()
    y = model.eval()(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    model.train(training)
    model.frozen_norm.eval()
    for parameter in list(model.parameters())[:4]:
        parameter.grad = torch.ones_like(parameter)
    return model, x, y


def state(model: nn.Module) -> list[Any]:
    """All that must not change: of the network, and of the process."""
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    generators = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    logger = logging.getLogger("auto-attack")
    process = [torch.is_grad_enabled(), sys.gettrace(), logger.level, list(logger.handlers), logger.propagate]
    return [tensors, gradients, modes, needed, generators, process]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def traced() -> Iterator[None]:
    """A trace hook, as debuggers and coverage set one; none runs in the tests otherwise."""
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    yield
    sys.settrace(before)


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name and norm of every attack."""
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# The rules


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_rules(name: str, norm: str) -> None:
    """Inside the ball and the bounds, finite, detached; nothing of the network, the input or the process changes."""
    for training in (False, True) if name != "autoattack" else (False,):  # it returns what withstands as it is
        check_the_rules(name, norm, training)


def check_the_rules(name: str, norm: str, training: bool) -> None:
    model, x, y = everything(training)
    model.dropout.eval()  # draws from the global generator by itself
    attack = quick(name, norm, eps=0.2 if name == "autoattack" else 0.05)
    image, before = x.clone(), state(model)
    adversarial = attack(model, x, y)
    assert same(state(model), before)
    assert torch.equal(x, image)
    assert not x.requires_grad
    check_result(attack, adversarial, x)
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    delta = adversarial - x
    assert 0 < attack.threat.size(delta).amax() <= attack.threat.eps * (1 + 1e-5) + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_images_and_network_in_another_memory_layout(name: str, norm: str) -> None:
    model, x, y = everything()
    attack = quick(name, norm, eps=0.2 if name == "autoattack" else 0.05)
    expected = attack(model, x, y)
    last = x.contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    adversarial = attack(model.to(memory_format=torch.channels_last), last, y)
    check_result(attack, adversarial, last)
    fooled = [model(images).argmax(1).ne(y).sum() for images in (expected, adversarial)]
    assert abs(fooled[0] - fooled[1]) <= 1  # by rounding


def test_labels_of_any_integer_type(case: tuple[str, str]) -> None:
    model, x, y = everything()
    attack = quick(*case, eps=0.2 if case[0] == "autoattack" else 0.05)
    expected = attack(model, x, y)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(attack(model, x, y.to(dtype)), expected)


def test_in_inference_mode(case: tuple[str, str]) -> None:
    model, x, y = everything()
    attack = quick(*case, eps=0.2 if case[0] == "autoattack" else 0.05)
    expected = attack(model, x, y)
    with torch.inference_mode():
        assert torch.equal(attack(model, x, y), expected)
        assert torch.equal(attack(model, x * 1, y * 1), expected)  # made here
        generator = torch.Generator().manual_seed(attack.seed)
        assert attack.until_fooled(model, x * 1, y * 1, generator).shape == x.shape


def test_a_model_in_another_precision(case: tuple[str, str]) -> None:
    model, x, y = everything()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        adversarial = quick(*case, eps=0.2 if case[0] == "autoattack" else 0.05)(model.to(dtype), x, y)
        assert adversarial.dtype == torch.float32
        assert (adversarial - x).abs().amax() > 0
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_model_that_changes_in_a_forward_pass(case: tuple[str, str]) -> None:
    class Counting(Everything):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("in_place", torch.zeros(1))
            self.register_buffer("replaced", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.in_place += 1
            self.replaced = self.replaced + 1
            return super().forward(x)

    model, x, y = Counting().eval(), images(), torch.arange(6) % 4
    attack = quick(*case, eps=0.2 if case[0] == "autoattack" else 0.05)
    buffer = model.replaced
    attack(model, x, y)
    attack.until_fooled(model, x, y, torch.Generator().manual_seed(0))
    assert (model.in_place.item(), model.replaced.item()) == (0, 0)
    assert model.replaced is buffer


WRONG: dict[str, tuple[Any, str]] = {
    "a tuple": (lambda model, x, y: (lambda z: (model(z), z), x, y), "must return logits.*tuple"),
    "no batch": (lambda model, x, y: (lambda z: model(z)[0], x, y), "must return logits"),
    "classes": (lambda model, x, y: (lambda z: model(z).argmax(1, keepdim=True), x, y), "must return logits.*int64"),
    "ignored": (lambda model, x, y: (model, x, torch.full_like(y, -100)), "labels.*from 0, got -100"),
    "beyond": (lambda model, x, y: (model, x, torch.full_like(y, 4)), "labels go up to 4.*0 to 3"),
    "floats": (lambda model, x, y: (model, x, y.float()), "labels must be class indices"),
    "one-hot": (lambda model, x, y: (model, x, functional.one_hot(y, 4)), "labels must be one for each of 6"),
    "NaN": (lambda model, x, y: (model, torch.where(x > 0.9, float("nan"), x), y), "images must be within.*nan"),
    "infinite": (lambda model, x, y: (model, torch.where(x > 0.9, float("inf"), x), y), "images must be within"),
    "bytes": (lambda model, x, y: (model, (255 * x).byte(), y), "images must be floating point"),
    "an array": (lambda model, x, y: (model, x.numpy(), y), "images must be a tensor, got a ndarray"),
    "a list": (lambda model, x, y: (model, x, y.tolist()), "labels must be a tensor, got a list"),
    "sparse": (lambda model, x, y: (model, x.to_sparse(), y), "images must be a dense tensor.*sparse_coo"),
    "no values": (lambda model, x, y: (model, x.to("meta"), y), "images must be a dense tensor.*meta"),
    "no model": (lambda model, x, y: ("model", x, y), "model must be a module or a function, got a str"),
    "a single logit": (lambda model, x, y: (lambda z: model(z)[:, :1], x, 0 * y), "for each of two or more classes"),
    "other channels": (lambda model, x, y: (model, x[:, :1], y), "the model fails on images.*channels"),
    "channels last": (lambda model, x, y: (model, x.permute(0, 2, 3, 1), y), "the model fails on images.*channels"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_one_line_for_what_no_attack_can_use(case: tuple[str, str], kind: str) -> None:
    change, words = WRONG[kind]
    model, x, y = everything()
    attack = quick(*case)
    for call in (attack, attack.until_fooled):
        with pytest.raises(ValueError, match=words) as raised:
            call(*change(model, x, y))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: (5 * x).round().detach() / 5])
def test_a_model_without_a_gradient_is_not_called_robust(
    case: tuple[str, str], cut: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model, x, y = everything()
    attack = quick(*case)
    if case[0] == "square":  # which needs none
        return
    for call in (attack, attack.until_fooled):
        with pytest.raises(ValueError, match="no gradient by its images"):
            call(lambda images: model(cut(images)), x, y)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient by its images"):
        attack(lambda images: model(cut(images)), x, y)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_everything_is_put_back_after_an_exception(name: str, norm: str) -> None:
    model, x, y = everything(training=True)
    model.dropout.eval()
    before = state(model)
    model.fails_after = 0 if name in ("fgsm", "fgm", "nfgsm") else 1
    with pytest.raises(RuntimeError, match="in the middle"):
        quick(name, norm)(model, x, y)
    assert same(state(model), before)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_random_only_from_the_generator(name: str, norm: str) -> None:
    model, x, y = everything()
    attack = quick(name, norm, eps=0.2 if name == "autoattack" else 0.05)
    first, second = (attack(model, x, y, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.manual_seed(99)
    third = attack(model, x, y, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    other = attack(model, x, y, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, other) == (name in ("fgsm", "fgm", "mifgsm", "deepfool", "fab", "fab-t"))


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_float64_one_image_and_none(name: str, norm: str) -> None:
    model, x, y = everything()
    attack = quick(name, norm, eps=0.2 if name == "autoattack" else 0.05)
    one = attack(model, x[1:2], y[1:2])
    check_result(attack, one, x[1:2])
    double = attack(model.double(), x[1:2].double(), y[1:2])
    assert double.dtype == torch.float64
    check_result(attack, double, x[1:2].double())
    empty = attack(model, x[:0].double(), y[:0])
    assert empty.shape == x[:0].shape


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_it_raises_a_loss_of_an_objective_or_refuses_it(name: str, norm: str) -> None:
    model, x, y = everything()
    attack = quick(name, norm)
    if not attack.trains:
        for call in (attack, attack.perturb):
            with pytest.raises(ValueError, match="loss of its own"):
                call(model, x, y, loss=lambda logits, _: logits[:, 0])
        return
    raised = attack.perturb(model, x, y, loss=lambda logits, _: logits[:, 2])
    assert (model(raised)[:, 2] > model(x)[:, 2]).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_perturbation_is_float32_under_autocast(name: str, norm: str) -> None:
    model, x, y = everything()
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = quick(name, norm, eps=0.2 if name == "autoattack" else 0.05)(model, x, y)
    assert adversarial.dtype == torch.float32
    assert (adversarial.bfloat16().float() != adversarial).any()


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab", "fab-t", "square"])
def test_a_batch_whose_images_depend_on_each_other_is_attacked_whole(name: str) -> None:
    """Through batch statistics; what is fooled is left out only where that changes nothing for the others."""
    sizes: set[int] = set()

    class Watched(Everything):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.add(len(x))
            return super().forward(x)

    model, x = Watched(), images()
    attack = attacks.build(name, QUICK[name], threat=ThreatModel("linf", 0.05))
    for batch_statistics in (False, True):
        if batch_statistics:  # as in students before they are calibrated, whatever the mode
            model.norm.running_mean = model.norm.running_var = None
        y = model.eval()(x).argmax(1)
        y[:2] = (y[:2] + 1) % 4  # fooled before anything is done
        sizes.clear()
        attack(model, x, y)
        assert (sizes == {6}) == batch_statistics


def test_an_attack_of_another_norm_is_refused() -> None:
    wrong = [("fgsm", "l2"), ("nfgsm", "l2"), ("fgm", "linf")]
    for name, norm in wrong + [(name, "l1") for name in ("fgsm", "fgm", "nfgsm", "mifgsm", "deepfool")]:
        with pytest.raises(ValueError, match=f"is for norm .*, got {norm}; pgd is for all"):
            ATTACKS[name](ThreatModel(norm, 0.1))  # type: ignore[arg-type]


def test_wrong_options_are_refused() -> None:
    threat = ThreatModel()
    for make, message in (
        (lambda: FGSM(threat, start="gaussian"), "clean or uniform"),  # type: ignore[arg-type]
        (lambda: FGSM(threat, step_size=0.0), "positive"),
        (lambda: MIFGSM(threat, steps=0), "at least 1"),
        (lambda: MIFGSM(threat, step_size=-1.0), "positive"),
        (lambda: MIFGSM(threat, decay=-0.1), "decay"),
        (lambda: NFGSM(threat, noise=-1.0), "noise"),
        (lambda: NFGSM(threat, step_size=-1.0), "positive"),
        (lambda: APGDCE(threat, steps=0), "at least 1"),
        (lambda: APGDCE(threat, draws=0), "draws"),
        (lambda: APGDTargeted(threat, targets=0), "targets"),
        (lambda: FAB(threat, steps=0), "steps"),
        (lambda: FABTargeted(threat, targets=0), "targets"),
        (lambda: Square(threat, queries=1), "queries"),
        (lambda: Square(threat, area=1.5), "area"),
        (lambda: Square(threat)(lambda x: x, torch.rand(2, 5), torch.zeros(2).long()), "N, C, H, W"),
        (lambda: DeepFool(threat, candidates=0), "candidates"),
        (lambda: DeepFool(threat, overshoot=-0.1), "overshoot"),
        (lambda: AutoAttack(threat, version="custom"), "standard, plus or rand"),  # type: ignore[arg-type]
        (lambda: AutoAttack(threat, batch_size=0), "batch_size"),
        (lambda: AutoAttack(threat)(lambda x: x, torch.rand(2, 5), torch.zeros(2).long()), "N, C, H, W"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_result_that_is_not_admissible_is_refused() -> None:
    x = 0.1 + 0.8 * images()
    for norm in ("linf", "l2", "l1"):
        attack = PGD(ThreatModel(norm, 0.05), steps=3)  # type: ignore[arg-type]
        direction = torch.zeros_like(x)
        direction[:, 0, 0, 0] = 1
        check_result(attack, x + 0.05 * direction, x)
        check_result(attack, x + 0.05 * (1 + 1e-6) * direction, x)
        wrong = {
            f"pgd3 .* {norm} distance 0.051": x + 0.051 * direction,
            "finite": torch.where(direction > 0, float("nan"), x),
            "values": torch.where(direction > 0, 1.01, x),
            "shape": x[:2],
        }
        for message, adversarial in wrong.items():
            with pytest.raises(AttackError, match=message):
                check_result(attack, adversarial, x)


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms


class Linear(nn.Module):
    """Logits (b - s, s, c, c ...) of s = w.x: every attack should raise s, by eps |w| in the dual norm."""

    def __init__(self, lead: float, classes: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 6 * 6, generator=torch.Generator().manual_seed(2)))
        self.lead, self.classes = lead, classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x - 0.5).flatten(1) @ self.weight
        rest = torch.full_like(score, -20.0)
        return torch.stack([self.lead - score, score, *[rest] * (self.classes - 2)], 1)

    def best(self, x: torch.Tensor, threat: ThreatModel) -> torch.Tensor:
        step = self.weight.sign() if threat.norm == "linf" else self.weight / self.weight.norm()
        return (x + threat.eps * step.view(1, 3, 6, 6)).detach()


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(ThreatModel("linf", 0.03)),
        FGSM(ThreatModel("linf", 0.03), start="uniform", step_size=0.06),
        FGM(ThreatModel("l2", 0.3)),
        *(kind(ThreatModel(norm, eps), steps=60) for kind in (MIFGSM, APGDCE, APGDDLR, APGDTargeted)
          for norm, eps in (("linf", 0.03), ("l2", 0.3))),
        *(kind(ThreatModel(norm, eps), steps=60, step_size=eps / 2) for kind in (PGD, MarginPGD)
          for norm, eps in (("linf", 0.03), ("l2", 0.3))),
    ],
    ids=lambda attack: f"{attack.name}-{attack.threat.norm}",
)  # fmt: skip
def test_the_optimum_of_a_linear_network(attack: Attack) -> None:
    """A lead that nothing overcomes: the highest loss is sought to the end."""
    model, x = Linear(lead=12.0), 0.4 + 0.2 * images()
    adversarial = attack(model, x, torch.zeros(6, dtype=torch.long))
    tolerance = 1e-6 if attack.threat.norm == "linf" else 2e-3
    torch.testing.assert_close(adversarial, model.best(x, attack.threat), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "eps", "share"), [(APGDCE, 0.3, 0.95), (APGDCE, 3.0, 0.85), (PGD, 3.0, 0.9), (PGD, 12.0, 0.85)]
)
def test_near_the_optimum_of_a_linear_network_in_l1(kind: type[Any], eps: float, share: float) -> None:
    """Pixels go to their bounds one after the other, from the largest weight, until eps is used; never beyond that."""
    model, x = Linear(lead=12.0), images()
    up = (model.weight > 0).view(1, 3, 6, 6)
    order = model.weight.abs().argsort(descending=True)
    room = torch.where(up, 1 - x, x).flatten(1)[:, order].double()
    spent = room.minimum((eps - (room.cumsum(1) - room)).clamp_min(0))
    best = spent @ model.weight.abs()[order].double()
    adversarial = kind(ThreatModel("l1", eps), steps=100)(model, x, torch.zeros(6, dtype=torch.long))
    gain = (adversarial - x).flatten(1) @ model.weight
    assert (gain <= best * (1 + 1e-4)).all()
    assert (gain >= best * share).all(), gain / best


def test_the_projection_onto_l1_ball_and_bounds_is_the_nearest() -> None:
    """Against scipy, with points far beyond the bounds, at them, and already inside."""
    optimize = pytest.importorskip("scipy.optimize")
    generator, size = np.random.default_rng(0), 8
    for eps in (0.01, 0.8, 3.0):
        threat = ThreatModel("l1", eps, (-1.0, 1.0))
        x = generator.uniform(-1, 1, (12, size))
        x[:, :3] = generator.choice([-1.0, 1.0], (12, 3))
        wanted = x + generator.normal(size=(12, size)) * generator.choice([0.01, 1, 30], (12, 1))
        found = threat.project(torch.tensor(wanted), torch.tensor(x)).numpy()
        assert np.abs(found).max() <= 1
        assert np.abs(found - x).sum(1).max() <= eps * (1 + 1e-9)
        for point, image, nearest in zip(wanted, x, found, strict=True):
            moves = [(0, 1 - at) for at in image] + [(0, 1 + at) for at in image]  # up, and down

            def away(move: Any, point: Any = point, image: Any = image) -> Any:
                return image + move[:size] - move[size:] - point

            best = optimize.minimize(
                lambda move: (away(move) ** 2).sum(), np.zeros(2 * size), bounds=moves, method="SLSQP",
                jac=lambda move: np.append(2 * away(move), -2 * away(move)), options={"ftol": 1e-13, "maxiter": 500},
                constraints=[{"type": "ineq", "fun": lambda move, eps=eps: eps - move.sum()}],
            ).x  # fmt: skip
            np.testing.assert_allclose(nearest, image + best[:size] - best[size:], atol=2e-5)
    inside = torch.tensor([[0.2, 0.4]])
    assert torch.equal(ThreatModel("l1", 1.0).project(inside, inside + 0.1), inside)


@pytest.mark.parametrize(("norm", "eps", "share"), [("linf", 0.03, 0.98), ("l2", 0.3, 0.5)])
def test_square_finds_the_optimum_of_a_linear_network(norm: str, eps: float, share: float) -> None:
    """Single pixels are tried for linf, but patterns of 3 x 3 for l2, which fit these rough weights badly."""
    model, x, y = Linear(lead=12.0), 0.4 + 0.2 * images(), torch.zeros(6, dtype=torch.long)
    threat = ThreatModel(norm, eps)  # type: ignore[arg-type]
    found = margin(model(Square(threat, queries=2000)(model, x, y)), y) - margin(model(x), y)
    best = margin(model(model.best(x, threat)), y) - margin(model(x), y)
    assert (found <= best * (1 + 1e-4)).all()
    assert found.mean() > share * best.mean()


def test_square_uses_as_many_passes_as_it_says() -> None:
    calls = []

    def model(x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        calls.append(len(x))
        return Linear(lead=12.0)(x)

    Square(ThreatModel(), queries=37)(model, 0.4 + 0.2 * images(), torch.zeros(6, dtype=torch.long))
    assert calls == [6] * 37


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_finds_the_distance_of_a_linear_classifier(norm: str) -> None:
    """min_k (z_y - z_k) / |w_y - w_k| in the dual norm, and 2 % more; the step is along w_k - w_y."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 48, generator=generator, dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return 0.3 * (x.flatten(1) - 0.5) @ weight.T.to(x)

    x = 0.45 + 0.1 * torch.rand(40, 3, 4, 4, generator=generator, dtype=torch.float64)
    logits = model(x)
    y = logits.argmax(1)
    gaps = (logits.amax(1, keepdim=True) - logits) / 0.3
    towards = weight[None] - weight[y][:, None]
    sizes = towards.abs().sum(2) if norm == "linf" else towards.norm(dim=2)
    distances, nearest = (gaps / sizes).scatter(1, y[:, None], float("inf")).min(1)
    direction = towards[torch.arange(40), nearest]
    unit = direction.sign() if norm == "linf" else direction / direction.norm(dim=1, keepdim=True)
    far = DeepFool(ThreatModel(norm, 5.0))  # type: ignore[arg-type]
    expected = x + 1.02 * (distances[:, None] * unit).view_as(x)
    torch.testing.assert_close(far(model, x, y), expected, rtol=0, atol=1e-9)
    assert (model(far(model, x, y)).argmax(1) != y).all()
    # Within a ball, exactly the images nearer than eps to the boundary are fooled.
    threat = ThreatModel(norm, float(1.02 * distances.median() + 1e-6))  # type: ignore[arg-type]
    near = DeepFool(threat)(model, x, y)
    check_result(DeepFool(threat), near, x)
    assert torch.equal(model(near).argmax(1) != y, distances < threat.eps)
    assert 0 < int((distances < threat.eps).sum()) < 40


def test_mifgsm_against_its_formula() -> None:
    model, x, y = everything()
    model = model.double()
    x = x.double()
    for norm, eps, steps, decay in (("linf", 0.05, 4, 1.0), ("linf", 0.05, 4, 0.3), ("l2", 0.4, 5, 0.8)):
        attack = MIFGSM(ThreatModel(norm, eps), steps=steps, decay=decay)  # type: ignore[arg-type]
        z, g = x, torch.zeros_like(x)
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(model(z), y, reduction="sum"), z)
            g = decay * g + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
            if norm == "linf":
                z = (z + eps / steps * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
            else:
                moved = z + eps / steps * g / g.square().sum((1, 2, 3), keepdim=True).sqrt() - x
                z = (x + moved * (eps / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)).clamp(0, 1)
        torch.testing.assert_close(attack(model, x, y), z.detach(), rtol=0, atol=1e-9)


def test_nfgsm_trains_beyond_the_ball_and_is_measured_within() -> None:
    """``x + noise + eps sign(gradient at x + noise)``; of a linear network, the gradient's sign is that of w."""
    model, threat = Linear(lead=12.0), ThreatModel("linf", 0.05)
    x, y = images(), torch.zeros(6, dtype=torch.long)
    noise = torch.empty_like(x).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(7))
    beyond = (x + noise + 0.05 * model.weight.detach().sign().view(1, 3, 6, 6)).clamp(0, 1)
    within = beyond.clamp(x - 0.05, x + 0.05)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(7)

    torch.testing.assert_close(NFGSM(threat).perturb(model, x, y, generator=generator()), beyond, rtol=0, atol=1e-6)
    assert (beyond - x).abs().max() > 0.1
    clipped = NFGSM(threat, clip=True)
    for result in (
        NFGSM(threat)(model, x, y, generator=generator()),
        clipped(model, x, y, generator=generator()),
        clipped.perturb(model, x, y, generator=generator()),
    ):
        torch.testing.assert_close(result, within, rtol=0, atol=1e-6)


def test_losses_of_apgd_against_their_formulas() -> None:
    logits = 3 * torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, t = torch.arange(50) % 6, (torch.arange(50) + 2) % 6
    for row, label, target, untargeted, targeted in zip(
        logits, y, t, dlr(logits, y), targeted_dlr(logits, y, t), strict=True
    ):
        ordered = sorted(row.tolist(), reverse=True)
        other = max(value for k, value in enumerate(row.tolist()) if k != label)
        assert float(untargeted) == pytest.approx((other - row[label]) / (ordered[0] - ordered[2]))
        below = ordered[0] - (ordered[2] + ordered[3]) / 2
        assert float(targeted) == pytest.approx((row[target] - row[label]) / below)
    with pytest.raises(UserError, match="3 classes"):
        dlr(logits[:, :2], y % 2)
    with pytest.raises(UserError, match="4 classes"):
        targeted_dlr(logits[:, :3], y % 3, t % 3)


def test_checkpoints_of_apgd() -> None:
    """The first ones of the paper for 100 steps: p_1 = 0.22, p_2 = 0.22 + 0.19 ..."""
    assert checkpoints(100)[:6] == [22, 41, 57, 70, 80, 87]
    assert all(1 <= look <= steps for steps in (1, 2, 7, 50) for look in checkpoints(steps))


def test_the_first_steps_of_apgd_against_algorithm_1() -> None:
    """z = P(x + 2 eps s), then P(x + 3/4 (z - x) + 1/4 (x - x of before)), with s the gradient's sign."""
    network, x, y = everything()
    network, x, threat, seen = network.double(), x.double(), ThreatModel("linf", 0.05), []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach())
        return network(images)

    APGDCE(threat, steps=50)(model, x, y)
    low, high = (x - 0.05).clamp(min=0), (x + 0.05).clamp(max=1)
    for step in range(10):  # the first look at the step size is after the eleventh
        at = seen[step].requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(at), y, reduction="sum"), at)
        expected = torch.clamp(at + 0.1 * gradient.sign(), low, high)
        if step > 0:
            expected = torch.clamp(at + 0.75 * (expected - at) + 0.25 * (at - seen[step - 1]), low, high)
        torch.testing.assert_close(seen[step + 1], expected.detach(), rtol=0, atol=1e-12)


def test_apgd_averages_draws_at_each_point() -> None:
    """Noise far above the network's own gradient, of one sign and then of the other: it cancels in two passes."""
    model, x, calls = Linear(lead=12.0), 0.4 + 0.2 * images(), []
    noise = 10 * torch.randn(3 * 6 * 6, generator=torch.Generator().manual_seed(5))

    def random(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        sign = 1 if len(calls) % 2 else -1
        return model(images) + sign * (images.flatten(1) @ noise)[:, None]

    attack = APGDCE(ThreatModel("linf", 0.03), steps=20, draws=2)
    adversarial = attack(random, x, torch.zeros(6, dtype=torch.long), loss=lambda logits, _: logits[:, 1])
    torch.testing.assert_close(adversarial, model.best(x, attack.threat), rtol=0, atol=1e-6)
    assert len(calls) == 2 * 20 + 1


def test_apgd_halves_its_step_where_the_loss_stops_rising() -> None:
    """A cone whose tip is inside the ball: fixed steps of 2 eps only jump over it."""
    tip = 0.5 + 0.03 * images()

    def model(x: torch.Tensor) -> torch.Tensor:
        height = -(x - tip).flatten(1).norm(dim=1)
        return torch.stack([0 * height, height], 1)

    x, y = torch.full_like(tip, 0.5), torch.zeros(6, dtype=torch.long)
    attack = APGDCE(ThreatModel("l2", 1.0), steps=100)
    distance = (attack(model, x, y) - tip).flatten(1).norm(dim=1)
    assert distance.max() < 0.05
    assert ((x - tip).flatten(1).norm(dim=1) > 0.1).all()


def test_l1_apgd_goes_on_as_sparse_as_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first steps change a fifth of the coordinates, or two thirds as many as the start that it is given has."""
    x = torch.full((6, 3, 4, 4), 0.5)
    start, shares, direction = x.clone(), [], ThreatModel.ascent_direction
    start.view(6, -1)[:, :12] += 0.01

    def watched(threat: ThreatModel, gradient: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        shares.append(share)
        return direction(threat, gradient, share)

    monkeypatch.setattr(ThreatModel, "ascent_direction", watched)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    for given in (None, start):
        loss = lambda _: lambda logits, _: logits[:, 1]  # noqa: E731
        ascend(model, x, None, loss, ThreatModel("l1", 1.0), steps=1, generator=torch.Generator(), start=given)
    for share, expected in zip(shares, (0.2, 12 / 48 / 1.5), strict=True):
        torch.testing.assert_close(share, torch.full((6,), expected))


# ---------------------------------------------------------------------------------------------------------------------
# Independent libraries, on the same trained network


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]


@pytest.fixture(scope="module", params=["linf", "l2", "l1"])
def trained(
    request: pytest.FixtureRequest, digits: tuple[torch.Tensor, torch.Tensor]
) -> tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor]:
    """A network trained against PGD in a second, its threat model, and 320 held-out images."""
    threat = ThreatModel(request.param, EPS[request.param])
    x, y = digits
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    generator, attack = torch.Generator().manual_seed(0), PGD(threat, steps=3)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(6):
        for part in torch.arange(1400).split(100):
            adversarial = attack(network, x[part], y[part], generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(network(adversarial), y[part]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return network.eval(), threat, x[1400:1720], y[1400:1720]


def left(network: nn.Module, adversarial: torch.Tensor, y: torch.Tensor) -> float:
    """Accuracy in points of a hundred."""
    with torch.no_grad():
        return 100 * float((network(adversarial).argmax(1) == y).float().mean())


def theirs(threat: ThreatModel) -> dict[str, Any]:
    return {
        "eps": threat.eps,
        "norm": threat.norm.capitalize(),
        "device": "cpu",
        "seed": 0,
    }


@needs_autoattack
def test_apgd_breaks_as_many_images_as_the_reference(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor],
) -> None:
    """Within 1 point of accuracy on 320 images, with 100 steps each; fewer steps and restarts in the targeted one."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    network, threat, x, y = trained
    options = {**theirs(threat), "logger": logging.getLogger("quiet"), "use_largereps": threat.norm == "l1"}
    clean = left(network, x, y)
    for ours, reference in (
        (APGDCE(threat), APGDAttack(network, n_iter=100, loss="ce", **options)),
        (APGDDLR(threat), APGDAttack(network, n_iter=100, loss="dlr", **options)),
        (APGDTargeted(threat, steps=50), APGDAttack_targeted(network, n_iter=50, **options)),
    ):
        with torch.random.fork_rng([]):
            expected = left(network, reference.perturb(x, y), y)
        found = left(network, ours(network, x, y), y)
        assert found <= expected + 1.0, ours.name
        assert found >= expected - (1.0 if threat.norm != "l1" else 3.0), ours.name
        assert expected < clean - 15


class Cropped(nn.Module):
    """A network that does not look at the last row and column, where the reference never places a small square."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x[:, :, :-1, :-1])


@needs_autoattack
def test_square_breaks_as_many_images_as_the_reference(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor],
) -> None:
    """Within 1 point for linf. For others ours may be stronger: 2000 queries do not bring either to the end."""
    from pyautoattack.square import SquareAttack

    network, threat, x, y = trained
    if threat.norm == "l1":  # where the reference takes long
        x, y = x[:100], y[:100]
    cropped, padded = Cropped(network).eval(), functional.pad(x, (0, 1, 0, 1))
    with torch.random.fork_rng([]):
        reference = SquareAttack(cropped, n_queries=2000, **theirs(threat)).perturb(padded, y)
    expected = left(cropped, reference, y)
    ours = left(cropped, Square(threat, queries=2000)(cropped, padded, y), y)
    assert ours <= expected + 1.0
    assert ours >= expected - {"linf": 1.0, "l2": 5.0, "l1": 8.0}[threat.norm]
    assert expected < left(cropped, padded, y) - 15


def test_fast_gradient_is_foolboxs(trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    network, threat, x, y = trained
    if threat.norm == "l1":
        return
    kind, ours = {"linf": ("LinfFastGradientAttack", FGSM), "l2": ("L2FastGradientAttack", FGM)}[threat.norm]
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, expected, _ = getattr(foolbox.attacks, kind)()(wrapped, x, y, epsilons=threat.eps)
    torch.testing.assert_close(ours(threat)(network, x, y), expected, rtol=0, atol=2e-6)


def test_deepfool_breaks_as_many_images_as_foolboxs(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor],
) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    network, threat, x, y = trained
    if threat.norm == "l1":
        return
    make = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}[threat.norm]
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, _ = make(steps=50, candidates=10, overshoot=0.02, loss="logits")(wrapped, x, y, epsilons=threat.eps)
    assert left(network, DeepFool(threat)(network, x, y), y) == pytest.approx(left(network, theirs, y), abs=1.0)


def test_the_stronger_attack_breaks_more(trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor]) -> None:
    """The order that theory expects, each with a point of slack."""
    network, threat, x, y = trained
    one = fgsm(threat)
    order = [one, PGD(threat, steps=20), PGD(threat, steps=50, restarts=5), APGDCE(threat, restarts=2)]
    order.append(APGDTargeted(threat))
    accuracies = [left(network, attack(network, x, y), y) for attack in order]
    assert all(after <= before + 1 for before, after in pairwise(accuracies)), accuracies
    assert accuracies[-1] < accuracies[0] - 3


# ---------------------------------------------------------------------------------------------------------------------
# FAB


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", [FAB, FABTargeted])
def test_fab_finds_the_distance_of_a_linear_classifier(norm: str, kind: type[FAB]) -> None:
    """min_k (z_y - z_k) / |w_y - w_k| in the dual norm; exactly what is nearer than eps is fooled."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 48, generator=generator, dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return 0.3 * (x.flatten(1) - 0.5) @ weight.T.to(x)

    x = 0.45 + 0.1 * torch.rand(20, 3, 4, 4, generator=generator, dtype=torch.float64)
    logits = model(x)
    y = logits.argmax(1)
    towards = weight[None] - weight[y][:, None]
    sizes = towards.norm({"linf": 1, "l2": 2, "l1": float("inf")}[norm], dim=2)
    gaps = (logits.amax(1, keepdim=True) - logits) / 0.3
    distances = (gaps / sizes).scatter(1, y[:, None], float("inf")).amin(1)
    for index, share, fools in ((0, 1 - 1e-3, False), (0, 1 + 1e-3, True), (7, 1 - 1e-3, False), (7, 1 + 1e-3, True)):
        attack = kind(ThreatModel(norm, share * float(distances[index])), steps=20)  # type: ignore[arg-type]
        near = attack(model, x, y)
        check_result(attack, near, x)
        assert torch.equal(model(near).argmax(1) != y, distances < attack.threat.eps)
        assert bool(distances[index] < attack.threat.eps) == fools


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps_to_a_hyperplane_within_the_bounds_are_the_shortest(norm: str) -> None:
    """Against scipy: linprog, for l2 minimize. Some points are at bounds, one coordinate has no weight."""
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(0)
    threat, size = ThreatModel(norm, 1.0), 12  # type: ignore[arg-type]
    points = generator.uniform(size=(30, size))
    points[:, :4] = generator.integers(0, 2, (30, 4))
    normal = generator.normal(size=(30, size))
    normal[:, 5] = 0
    room = np.where(normal > 0, 1 - points, points)
    reach = (np.abs(normal) * room).sum(1)  # upwards; less than that, and the box is active where it is near
    value = -generator.uniform(0.05, 0.98, 30) * reach
    value[:6] *= 0.02  # near enough that no bound is met by those points that are inside
    offset = value - (normal * points).sum(1)
    found = to_hyperplane(torch.tensor(points), torch.tensor(normal), torch.tensor(offset), threat).numpy()
    moved = points + found
    assert moved.min() >= 0
    assert moved.max() <= 1
    np.testing.assert_allclose((normal * moved).sum(1) + offset, 0, atol=1e-9)
    for point, w, b, delta in zip(points, normal, offset, found, strict=True):
        bounds = list(zip(-point, 1 - point, strict=True))
        if norm == "linf":  # the least t with -t <= delta <= t
            cost, limits = np.append(np.zeros(size), 1), np.vstack([np.eye(size), -np.eye(size)])
            limits = np.hstack([limits, -np.ones((2 * size, 1))])
            options = {"A_eq": [np.append(w, 0)], "b_eq": [-b - w @ point], "bounds": [*bounds, (0, None)]}
            best = optimize.linprog(cost, A_ub=limits, b_ub=np.zeros(2 * size), **options).fun
            assert np.abs(delta).max() == pytest.approx(best, abs=1e-9)
        elif norm == "l1":  # the least sum of what goes up and what goes down
            ups = [(0, 1 - at) for at in point] + [(0, at) for at in point]
            best = optimize.linprog(np.ones(2 * size), A_eq=[np.append(w, -w)], b_eq=[-b - w @ point], bounds=ups).fun
            assert np.abs(delta).sum() == pytest.approx(best, abs=1e-9)
        else:
            on_it = {"type": "eq", "fun": lambda d, w=w, b=b, point=point: w @ (point + d) + b}
            best = optimize.minimize(
                lambda d: d @ d, delta * 0, jac=lambda d: 2 * d, bounds=bounds, constraints=[on_it], method="SLSQP",
                options={"ftol": 1e-12, "maxiter": 500},
            )  # fmt: skip
            np.testing.assert_allclose(delta, best.x, atol=1e-5)
    # Out of reach: every coordinate goes to the bound that is on the way, and no farther.
    beyond = to_hyperplane(*map(torch.tensor, (points, normal, offset - 2 * reach)), threat).numpy()
    np.testing.assert_allclose(beyond, np.sign(normal) * room, atol=1e-9)
    # No normal, no way.
    assert not to_hyperplane(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.ones(2), threat).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_begins_anew_at_half_of_eps(norm: str) -> None:
    threat = ThreatModel(norm, 0.02)  # type: ignore[arg-type]
    x, seen = 0.4 + 0.2 * images(), []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().clone())
        return Linear(lead=1200.0)(x)

    generator = torch.Generator().manual_seed(0)
    FAB(threat, steps=1, restarts=3)(model, x, torch.zeros(6, dtype=torch.long), generator=generator)
    runs = len(seen[1:]) // 3
    first, second, third = (seen[1 + run * runs + 1] for run in range(3))  # after the pass that ranks the classes
    assert torch.equal(first, x)
    for start in (second, third):
        delta = (start - x).flatten(1)
        torch.testing.assert_close(threat.size(delta), torch.full((6,), 0.01), rtol=1e-3, atol=0)
    assert not torch.equal(second, third)


@needs_autoattack
def test_fab_breaks_what_the_reference_breaks(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor],
) -> None:
    """Image by image, each in its targeted form; untargeted within a point."""
    from pyautoattack.fab_pt import FABAttack_PT

    network, threat, x, y = trained
    x, y = x[:50], y[:50]
    clean, options = left(network, x, y), theirs(threat)
    for ours in (FABTargeted(threat, steps=20), FAB(threat, steps=20)):
        reference = FABAttack_PT(network, n_restarts=1, n_iter=20, **options)
        reference.targeted = isinstance(ours, FABTargeted)
        with torch.random.fork_rng([]):
            expected = reference.perturb(x, y)
        adversarial = ours(network, x, y)
        assert left(network, adversarial, y) <= left(network, expected, y) + (0 if reference.targeted else 1)
        assert left(network, expected, y) < clean - 15


# ---------------------------------------------------------------------------------------------------------------------
# AutoAttack


@needs_autoattack
@pytest.mark.parametrize(("classes", "factor"), [(10, 2.0), (4, 4.0), (3, 4.0), (2, 4.0)])
def test_autoattack_breaks_what_the_package_breaks(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor], classes: int, factor: float
) -> None:
    """Image by image; with fewer classes too, where the package on its own fails or repeats targets."""
    from pyautoattack import AutoAttack as Package

    network, weaker, x, y = trained
    threat = ThreatModel(weaker.norm, factor * weaker.eps)  # an image that withstands it takes a second
    x, y = x[y < classes][:4], y[y < classes][:4]
    narrow = copy.deepcopy(network)
    narrow[3] = nn.Linear(48, classes)  # type: ignore[index]
    narrow[3].load_state_dict({key: value[:classes] for key, value in network[3].state_dict().items()})  # type: ignore[index]
    adversarial = AutoAttack(threat, seed=5, batch_size=3)(narrow, x, y)
    assert all(parameter.grad is None for parameter in narrow.parameters())
    with torch.random.fork_rng([]):
        package = Package(narrow, norm=theirs(threat)["norm"], eps=threat.eps, seed=5, device="cpu")
        package.verbose = False
        package.attacks_to_run = {
            2: ["apgd-ce", "fab-t", "square"],
            3: ["apgd-ce", "apgd-dlr", "fab-t", "square"],
        }.get(classes, ["apgd-ce", "apgd-t", "fab-t", "square"])
        package.apgd_targeted.n_target_classes = package.fab.n_target_classes = classes - 1
        expected, _ = package.run_standard_evaluation(x, y, batch_size=7)
    ours, judged = (narrow(images).argmax(1) != y for images in (adversarial, expected))
    assert (ours >= judged).all()
    assert torch.equal(adversarial[~ours], x[~ours])
    check_result(AutoAttack(threat), adversarial, x)
    assert left(narrow, adversarial, y) < left(narrow, x, y)


def test_the_parts_of_autoattack_that_fit_the_classes() -> None:
    standard = ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert parts(standard, 10) == parts(standard, 4) == standard
    assert parts(standard, 3) == ["apgd-ce", "apgd-dlr", "fab-t", "square"]
    assert parts(standard, 2) == ["apgd-ce", "fab-t", "square"]
    plus = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert parts(plus, 3) == ["apgd-ce", "apgd-dlr", "fab", "square", "fab-t"]
    with pytest.raises(UserError, match="2 classes"):
        parts(standard, 1)


def test_autoattack_of_a_batch_that_is_misclassified_and_of_single_images() -> None:
    model, x, y = everything()
    attack = AutoAttack(ThreatModel("linf", 0.2))
    wrong = (model(x).argmax(1) + 1) % 4
    assert torch.equal(attack(model, x, wrong), x)
    for index in (0, 3):  # misclassified already, and not
        one = attack(model, x[index : index + 1], y[index : index + 1])
        assert one.shape == (1, 3, 6, 6)
    three = attack(model, x[:3], torch.cat([y[:1], wrong[1:2], y[2:3]]))  # one image is left to attack
    check_result(attack, three, x[:3])


def test_autoattack_takes_its_seed_from_the_generator() -> None:
    model, x, y = everything()
    threat = ThreatModel("linf", 0.2)
    expected = AutoAttack(threat, seed=11)(model, x, y)
    assert torch.equal(AutoAttack(threat)(model, x, y, generator=torch.Generator().manual_seed(11)), expected)


def test_autoattack_between_other_bounds() -> None:
    model, x, y = everything()
    wide = AutoAttack(ThreatModel("linf", 0.4, (-1.0, 1.0)))
    adversarial = wide(lambda images: model((images + 1) / 2), 2 * x - 1, y)
    check_result(wide, adversarial, 2 * x - 1)
    assert (model((adversarial + 1) / 2).argmax(1) != y).all()
    assert adversarial.min() < 0


def test_each_part_of_autoattack_sees_what_the_ones_before_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several batches together, in batches of about one size; those that depend on each other stay so."""
    seen: list[tuple[str, int]] = []

    def fake(kind: type[Any], fooled: int) -> None:
        def find(self: Attack, model: Any, x: torch.Tensor, *_: Any) -> torch.Tensor:
            seen.append((attacks.name_of(self), len(x)))
            return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) < fooled, 1 - x, x)

        monkeypatch.setattr(kind, "find", find)

    class Bright(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean((1, 2, 3))
            return torch.stack([mean, 1 - mean, -mean, -mean], 1)

    for kind, fooled in ((APGDCE, 2), (APGDTargeted, 1), (FABTargeted, 0), (Square, 9)):
        fake(kind, fooled)
    x, y = torch.full((10, 1, 2, 2), 0.9), torch.tensor([1, *[0] * 9])
    attack = AutoAttack(ThreatModel("linf", 1.0), batch_size=4)
    adversarial = attack(Bright().eval(), x, y)
    # 9 of 10 are right: 3 batches of 3, each loses 2; then 3 images, 2, 2 and none.
    assert seen == [*[("apgd-ce", 3)] * 3, ("apgd-t", 3), ("fab-t", 2), ("square", 2)]
    assert torch.equal(adversarial[1:], 1 - x[1:])
    assert torch.equal(adversarial[0], x[0])
    seen.clear()
    attack(Bright().train(), x, y)
    assert [size for _, size in seen] == [4, 4, 2, 4, 4, 4, 4, 4, 4]


def test_autoattack_rand_breaks_a_random_network(
    trained: tuple[nn.Module, ThreatModel, torch.Tensor, torch.Tensor],
) -> None:
    network, threat, x, y = trained
    passes = []

    class Noisy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            passes.append(len(images))
            noise = torch.randn(images.shape, generator=noises)
            return network(images + 0.1 * noise)

    noises = torch.Generator().manual_seed(0)
    x, y = x[:20], y[:20]
    adversarial = AutoAttack(threat, version="rand")(Noisy().eval(), x, y)
    assert len(passes) <= AutoAttack(threat, version="rand").passes + 10
    check_result(AutoAttack(threat), adversarial, x)
    assert left(network, adversarial, y) < left(network, x, y) - 15


def test_warnings_of_autoattack() -> None:
    x, y = images(), torch.zeros(6, dtype=torch.long)
    attack = AutoAttack(ThreatModel("linf", 0.3))

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return Linear(lead=1.0)(x).softmax(1)

    with pytest.warns(UserWarning, match="autoattack: .*probability distribution"):
        attack(probabilities, x, y)
    noises = torch.Generator().manual_seed(0)

    def random_logits(x: torch.Tensor) -> torch.Tensor:
        return Linear(lead=1.0)(x) + torch.rand((len(x), 5), generator=noises)

    with pytest.warns(UserWarning, match="autoattack: .*random; autoattack-rand"):
        attack(random_logits, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(Linear(lead=1.0), x, y)
    with pytest.warns(UserWarning, match="autoattack: the network is not random; 'autoattack' is stronger"):
        AutoAttack(attack.threat, version="rand")(Linear(lead=1.0), x, y)


def test_autoattack_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model, x, y = everything()
    assert (model(AutoAttack(ThreatModel("linf", 0.2))(model, x, y)).argmax(1) != y).any()
