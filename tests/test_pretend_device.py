"""A training step on a pretend accelerator: the CPU's numbers bit for bit, no mixed devices, and no waiting.

Whatever has a name in a registry is in it by itself. The last part puts faults into a step on purpose, to see that they
are found.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pretend
import pytest
import torch
from pretend import PretendDevice, Wait
from small_families import SMALL_FAMILIES
from torch import nn

from proard.attacks import PGD, Attack, ThreatModel, attacks, autoattack
from proard.config import parse_config
from proard.data import augment, load_data
from proard.objectives import CE, KDIGA, RSLAD, TRADES, Batch, Objective, Outcome, craftings, objectives
from proard.runs.run import Run
from proard.samplers import robustness, samplers
from proard.supernet import build_supernet, families
from proard.training import Trainer
from proard.training.teachers import BatchTeacher, freeze_largest

pytestmark = pytest.mark.skipif(bool(pretend.missing), reason=f"no pretend accelerator: {pretend.missing}")

CPU = torch.device("cpu")
ROUNDED = (KDIGA,)  # its second derivative is the CPU's but for the last digits; autograd may add up in another order
ONE, TWO = ({"name": "uniform", "students": students} for students in (1, 2))


PHASES: dict[str, dict[str, Any]] = {
    **{f"objective {name}": {"objective": {"name": name}, "sampler": ONE} for name in objectives.names()},
    **{f"sampler {name}": {"sampler": {"name": name}, "objective": {"name": "ce"}} for name in samplers.names()},
    **{f"crafting {name}": {"crafting": {"name": name}, "sampler": TWO} for name in craftings.names()},
}
"""A phase for each thing that can be named in one; all else is the default."""
CONFIGURATION: dict[str, Any] = {
    "data": {"name": "digits", "limit": 60, "augmentation": {"crop_padding": 1, "flip": True, "cutout": 2}},
    "supernet": {
        "widths": [8, 16],
        "blocks": [1, 1],
        "depth_choices": [0, 1],
        "width_choices": [0.5, 1.0],
        "expand_choices": [0.5, 1.0],
        "dropout": 0.1,
    },
    "threat": {"eps": 0.1},
    "attack": {"steps": 2},
    "batch_size": 6,
    "optimizer": {"gradient_clip": 1.0},
    "validation": {"students": 0, "images": 4, "calibration_images": 8, "attack": {"steps": 1}},
    "energy": {"enabled": False},
}


def phases(chosen: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The schedule: a teacher, then the chosen phases."""
    first = {"name": "teacher", "epochs": 1, "learning_rate": 0.1, "objective": {"name": "trades"}}
    common = {"epochs": 1, "learning_rate": 0.1, "elastic": ["all"]}
    return [first, *({"name": name, **common, **phase} for name, phase in chosen.items())]


def trainer_on(device: torch.device, folder: Path, **values: Any) -> Trainer:
    config = parse_config(copy.deepcopy({**CONFIGURATION, **values}), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proard.training.trainer.resolve_device", lambda _: device)
        return Trainer(config, load_data(config.data), Run(folder), quiet=True)


class Pair:
    """The same training on the CPU and on a pretend accelerator."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.on_cpu = trainer_on(CPU, folder, **values)
        with PretendDevice() as accelerator:
            self.on_accelerator = trainer_on(accelerator.device, folder, **values)
        self.weights = copy.deepcopy(self.on_cpu.supernet.state_dict())

    def check(self, phase: int, steps: int = 1, change: Callable[[Trainer], Any] = lambda _: None) -> None:
        """Take steps of a phase on both: they end alike, and nothing has waited that need not."""
        expected, _ = self._steps(self.on_cpu, phase, steps, change)
        with PretendDevice() as accelerator:
            found, waits = self._steps(self.on_accelerator, phase, steps, change, accelerator)
            found = [tensor.cpu() for tensor in found]
        refuse_waits(waits, ["samplers.robustness._read"])
        assert len(waits) <= steps // robustness.REFRESH, f"the sampler waits {len(waits)} times in {steps} steps"
        rtol, atol = (1e-4, 1e-6) if isinstance(self.on_cpu.objective, ROUNDED) else (0.0, 0.0)
        alike = [torch.allclose(a, b, rtol, atol) for a, b in zip(expected, found, strict=True)]
        assert all(alike), "the numbers are not those of the CPU"

    def _steps(
        self,
        trainer: Trainer,
        phase: int,
        steps: int,
        change: Callable[[Trainer], Any],
        accelerator: PretendDevice | None = None,
    ) -> tuple[list[torch.Tensor], list[Wait]]:
        """What they leave behind, and what has waited within them."""
        trainer.supernet.load_state_dict(self.weights)
        trainer.seed_generators(0)
        trainer.position.phase, trainer.position.batch = phase, 0
        trainer._begin_phase()
        change(trainer)
        if accelerator is not None:
            accelerator.waits.clear()
        batches = trainer._batches()
        images = trainer.train_images.batches([batches[n % len(batches)] for n in range(steps)], trainer.device)
        for pixels, labels in images:
            for group in trainer.optimizer.param_groups:
                group["lr"] = 0.1
            trainer._step(augment(pixels, trainer.config.data.augmentation, trainer.generator), labels, 0.5)
            trainer.position.batch += 1
        waits = [] if accelerator is None else list(accelerator.waits)
        parameters = list(trainer.supernet.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert any(gradient.abs().sum() > 0 for gradient in gradients)
        others = [trainer.record.sums, trainer.generator.get_state(), torch.get_rng_state()]
        return [*parameters, *gradients, *others], waits


IN_A_STEP = {
    "samplers.robustness._read": "the sampler learns from its signals every few steps",
    "attacks.threat._within_l1": "the projection onto an l1 ball is exact after a number of rounds that depends on it",
    "attacks.threat.ascent_direction": "l1-APGD changes a share of the coordinates that depends on how it goes",
}
"""What may wait within a training step, by function, and why."""


def refuse_waits(waits: Sequence[Wait], justified: Collection[str] = ()) -> None:
    """Fail for what has waited outside of functions that may."""
    others = [wait for wait in waits if not wait.within(justified)]
    described = {f"{wait.kind} by {wait.operation} in {wait.functions[:3]}" for wait in others}
    assert not others, f"waits for the device: {sorted(described)}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), phases=phases(PHASES))


# ---------------------------------------------------------------------------------------------------------------------
# What is named in a phase, families, teachers


@pytest.mark.parametrize("name", PHASES)
def test_a_step(name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "REFRESH", 2)
    pair.check(1 + list(PHASES).index(name), steps=3 if name.startswith("sampler") else 1)


def test_a_step_with_a_joint_teacher(tmp_path: Path) -> None:
    Pair(tmp_path, phases=phases({"students": {}})[1:], teacher="joint").check(0)


SHAPE = (3, 16, 16)  # of families, some of which need as much
SMALL = (1, 8, 8)


Norm = Literal["linf", "l2", "l1"]


def quick(name: str, norm: Norm) -> Attack:
    """The attack of a name, with few passes."""
    threat = ThreatModel(norm, {"linf": 0.1, "l2": 1.0, "l1": 6.0}[norm])
    return attacks.build(name, few(name), threat=threat)


def few(name: str) -> dict[str, Any]:
    """Options of an attack by which it does little."""
    options = {"steps": 2, "queries": 3, "restarts": 1, "targets": 1}
    return {option: options[option] for option in options if option in attacks.parameters(name)}


def part_of_a_step(
    device: torch.device,
    objective: Objective,
    accelerator: PretendDevice | None = None,
    family: str = "resnet",
    shape: tuple[int, int, int] = SMALL,
    may_wait: Collection[str] = (),
) -> list[torch.Tensor]:
    """What one student, the smallest of a family, adds to a step, and the logits of the same student extracted."""
    torch.manual_seed(0)  # of dropout
    options = {"timm": {"model": "test_resnet"}, **SMALL_FAMILIES}.get(family, {})
    supernet = build_supernet(family, num_classes=5, input_shape=shape, seed=3, **options).to(device)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(2)).to(device)
    labels = torch.arange(4, device=device)
    teacher = freeze_largest(supernet, [images])
    if accelerator is not None:
        accelerator.waits.clear()
    student = supernet.student(supernet.space.smallest())
    batch = Batch(images, labels, torch.Generator(device).manual_seed(1))
    outcome = objective.outcome(student, BatchTeacher(teacher, images), batch)
    outcome.loss.backward()
    supernet.accumulate(student)
    if accelerator is not None:
        refuse_waits(accelerator.waits, may_wait)
    with torch.no_grad():
        extracted = supernet.extract(supernet.space.smallest(), [images])(images)
    return [extracted, outcome.loss.detach(), *(p.grad for p in supernet.parameters() if p.grad is not None)]


def assert_same_part(objective: Objective, **options: Any) -> None:
    """Check a student's part of a step."""
    expected = part_of_a_step(CPU, objective, **options)
    with PretendDevice() as accelerator:
        found = [tensor.cpu() for tensor in part_of_a_step(accelerator.device, objective, accelerator, **options)]
    assert len(found) > 3
    assert all(map(torch.equal, expected, found)), "the numbers are not those of the CPU"


@pytest.mark.parametrize("family", families.names())
def test_a_student_of_every_family(family: str) -> None:
    if family == "timm" and not find_spec("timm"):
        pytest.skip("needs timm, of the extra timm")
    assert_same_part(RSLAD(PGD(ThreatModel(eps=0.1), steps=1)), family=family, shape=SHAPE)


EVERY_ATTACK = [(name, norm) for name in attacks.names() for norm in attacks.entry(name).norms]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "norm"), [(n, norm) for n, norm in EVERY_ATTACK if attacks.entry(n).trains])  # type: ignore[attr-defined]
def test_a_step_with_every_attack_that_trains(name: str, norm: Norm) -> None:
    functions = [function for function in IN_A_STEP if function.startswith("attacks.threat")]
    assert_same_part(TRADES(quick(name, norm)), may_wait=functions if norm == "l1" else ())


AT_AN_EVALUATION = {
    **IN_A_STEP,
    "attacks.attack.usable": "images and labels are checked where a caller gives them, which training does not",
    "attacks.steps.best_of": "what is fooled is left alone by the next attempt",
    "attacks.apgd.ascend": "what is fooled leaves the batch",
    "attacks.fab._approach": "what is fooled leaves the batch",
    "attacks.square._search": "what is fooled leaves the batch, and the host cuts the windows",
    "attacks.deepfool.find": "it ends where all are fooled",
    "attacks.autoattack.find": "what is fooled is left alone by the next part; it warns of signs of weakness",
}
"""What may wait in an attack that measures a network, by function, and why."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A student with statistics of its own."""
    supernet = build_supernet("resnet", num_classes=5, input_shape=SMALL, seed=3, **SMALL_FAMILIES["resnet"])
    images = torch.rand(8, *SMALL, generator=torch.Generator().manual_seed(4))
    return supernet.extract(supernet.space.smallest(), [images]).requires_grad_(False)


def attacked(attack: Attack, network: nn.Module, device: torch.device) -> list[torch.Tensor]:
    """What it makes of images, half of which are classified correctly."""
    network = copy.deepcopy(network).to(device)
    images = torch.rand(6, *SMALL, generator=torch.Generator().manual_seed(2)).to(device)
    classes = network(images).argmax(1)
    labels = torch.where(torch.arange(6, device=device) < 3, classes, (classes + 1) % 5)
    own = type(attack).until_fooled is not Attack.until_fooled  # else it is the call itself
    return [attack.until_fooled(network, images, labels), *([attack(network, images, labels)] if own else [])]


@pytest.mark.parametrize(("name", "norm"), EVERY_ATTACK)
def test_every_attack_measures(name: str, norm: Norm, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, parts in autoattack.VERSIONS.items():
        monkeypatch.setitem(autoattack.VERSIONS, version, {part: few(part) for part in parts})
    monkeypatch.setattr(autoattack, "STANDARD_L1", autoattack.VERSIONS["standard"])
    expected = attacked(quick(name, norm), network, CPU)
    with PretendDevice() as accelerator:
        found = [images.cpu() for images in attacked(quick(name, norm), network, accelerator.device)]
        refuse_waits([wait for wait in accelerator.waits if wait.functions], AT_AN_EVALUATION)
    assert all(map(torch.equal, expected, found)), "the numbers are not those of the CPU"


# ---------------------------------------------------------------------------------------------------------------------
# Faults, put in on purpose


Fault = Callable[[torch.Tensor, Batch], Any]
"""Of a loss and the batch that it is of."""


def faulty(fault: Fault) -> Callable[[Trainer], None]:
    """Lets an objective do something on the way, and add to the loss what comes of it."""

    class Faulty(CE):
        def outcome(self, student: Any, teacher: Any, batch: Batch) -> Outcome:
            found = super().outcome(student, teacher, batch)
            extra = fault(found.loss, batch)
            scalar = isinstance(extra, torch.Tensor) and extra.dim() == 0
            return replace(found, loss=found.loss + extra) if scalar else found

    def change(trainer: Trainer) -> None:
        trainer.objective = Faulty()

    return change


FAULTS: dict[str, tuple[Fault, str]] = {
    "a tensor of the CPU": (lambda _, batch: batch.images * torch.ones(6, 1, 1, 1), "to be on the same device"),
    "an index of the CPU": (lambda _, batch: batch.images[torch.arange(2)], "to be on the same device"),
    "another generator": (
        lambda loss, _: torch.rand(2, device=loss.device, generator=torch.Generator()),
        "the generator is of cpu",
    ),
    "numpy": (lambda _, batch: batch.images.numpy(), "can't convert pretend:0 device type tensor to numpy"),
    "item": (lambda loss, _: loss.item(), "read by aten._local_scalar_dense"),
    "float": (lambda loss, _: float(loss.detach()), "read by aten._local_scalar_dense"),
    "an if": (lambda loss, _: loss if loss > 100 else None, "read by aten._local_scalar_dense"),
    "tolist": (lambda _, batch: batch.labels.tolist(), "read by tolist"),
    "a copy to the CPU": (lambda _, batch: batch.labels.cpu(), "read by aten._to_copy"),
    "a comparison": (lambda _, batch: torch.equal(batch.labels, batch.labels), "read by aten.equal"),
    "nonzero": (lambda _, batch: batch.labels.nonzero(), "shape by aten.nonzero"),
    "a mask as an index": (lambda _, batch: batch.images[batch.labels > 2], "shape by aten.index"),
    "a number from Python": (lambda loss, _: torch.tensor([1.0], device=loss.device), "upload by aten._to_copy"),
    "a copy from the CPU": (lambda loss, _: torch.ones(6).to(loss.device), "upload by aten._to_copy"),
    "another result": (lambda loss, _: loss if loss.device.type == pretend.NAME else 2 * loss, "not those of the CPU"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, pair: Pair) -> None:
    act, message = FAULTS[fault]
    with pytest.raises((AssertionError, RuntimeError, TypeError), match=re.escape(message)):
        pair.check(1 + list(PHASES).index("objective ce"), change=faulty(act))


def test_a_sampler_that_reads_in_every_step_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = 1 + list(PHASES).index("sampler robustness")
    monkeypatch.setattr(robustness.Robustness, "update", lambda self, architecture, signals: float(signals.divergence))
    with pytest.raises(AssertionError, match=r"read by aten\._local_scalar_dense\.default"):
        pair.check(phase, steps=3)
