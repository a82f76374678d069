"""Compute is counted as it happens: against PyTorch's own counter, over processes, and over an interruption."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from proard import train
from proard.attacks import NFGSM, PGD, ThreatModel
from proard.commands.subjects import outside_costs
from proard.config import parse_config
from proard.data import load_data
from proard.objectives import KDIGA, RSLAD, SAT, TRADES, Batch, Objective
from proard.runs.run import Run, read_metrics
from proard.supernet import build_supernet
from proard.supernet.measured_network import multiply_adds
from proard.training import Trainer
from proard.training.compute import PURPOSES, ComputeMeter
from proard.training.interruption import Interrupted
from proard.training.teachers import ExternalTeacher
from proard.training.time_estimate import seconds_per_step

THREAT = ThreatModel(eps=0.1)
IMAGES = 4


class Operations(TorchDispatchMode):
    """Multiply-adds of all operators, by PyTorch's formulas (its FlopCounterMode refuses gradients by images)."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and count."""
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.multiply_adds += formula(*args, **(kwargs or {}), out_val=result) / 2
        return result


def network() -> tuple[nn.Module, int]:
    """A student whose first layer is a small part of it: its images' gradient, which no loss needs, counts little."""
    options: dict[str, Any] = {"widths": [32, 64], "blocks": [2, 2]}
    supernet = build_supernet("resnet", num_classes=4, input_shape=(1, 16, 16), **options)
    largest = supernet.space.largest()
    return supernet.student(largest), supernet.space.cost(largest).multiply_adds


@pytest.mark.parametrize(
    ("objective", "attack", "update"),
    [
        (SAT(PGD(THREAT, steps=3)), 3 * 2, 3),
        (TRADES(PGD(THREAT, steps=2)), 2 * 2, 2 * 3),
        (RSLAD(PGD(THREAT, steps=5)), 5 * 2, 2 * 3),
        (RSLAD(NFGSM(THREAT)), 2, 2 * 3),
        (KDIGA(), None, None),
    ],
)
def test_passes_are_those_that_pytorch_counts(objective: Objective, attack: int | None, update: int | None) -> None:
    student, cost = network()
    teacher = network()[0].requires_grad_(False)
    meter = ComputeMeter()
    meter.watch(student, cost)
    meter.watch(teacher, cost, "teacher")
    batch = Batch(torch.rand(IMAGES, 1, 16, 16), torch.arange(4), torch.Generator().manual_seed(0))
    with Operations() as counted:
        objective.outcome(student, teacher, batch).loss.backward()
    if attack is not None:
        assert meter.spent["attack"] == attack * cost * IMAGES
        assert meter.spent["update"] == update * cost * IMAGES
    assert sum(meter.spent.values()) == pytest.approx(counted.multiply_adds, rel=0.04)


def test_watching_changes_nothing() -> None:
    (plain, _), (watched, cost) = network(), network()
    ComputeMeter().watch(watched, cost)
    batch = Batch(torch.rand(IMAGES, 1, 16, 16), torch.arange(4))
    for student in (plain, watched):
        TRADES(PGD(THREAT, steps=2)).outcome(student, None, batch).loss.backward()
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_a_network_without_a_plan_is_counted_by_pytorch() -> None:
    student, cost = network()
    assert multiply_adds(student, (1, 16, 16), torch.device("cpu")) == cost


def test_fused_attention_is_counted() -> None:
    """On a CPU, whose kernel PyTorch's counter does not know."""
    width, tokens = 192, 64 + 1
    block = tokens * (3 + 1 + 2 * 4) * width**2 + 2 * tokens**2 * width  # q, k, v; output; MLP; scores and values
    expected = 64 * 3 * 4 * 4 * width + 2 * block + width * 5
    shape = {"img_size": 32, "patch_size": 4, "depth": 2, "num_classes": 5}
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, **shape).eval()
    assert multiply_adds(network, (3, 32, 32), torch.device("cpu")) == expected
    assert outside_costs(network, (3, 32, 32))["multiply_adds"] == expected


def spent(path: Path) -> dict[tuple[str, str], float]:
    """Multiply-adds of a whole run by phase and purpose."""
    total: dict[tuple[str, str], float] = {}
    for row in read_metrics(Run(path).metrics):
        for purpose, amount in row.get("compute", {}).items():
            total[row["phase"], purpose] = total.get((row["phase"], purpose), 0.0) + amount
    return total


def test_a_run_counts_the_students_that_trained(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Phase by phase, from costs and epochs: TRADES of the largest, then RSLAD of what the sampler drew."""
    tiny["phases"] = tiny["phases"][:2]
    config = parse_config(tiny)
    data = load_data(config.data)
    drawn: list[int] = []
    trainer = Trainer(config, data, Run(tmp_path / "run"), quiet=True)
    space = trainer.supernet.space
    cut = trainer._cut
    (tmp_path / "run").mkdir()

    def note(architecture: Any) -> Any:
        drawn.append(space.cost(architecture).multiply_adds)
        return cut(architecture)

    trainer._cut = note  # type: ignore[method-assign]
    trainer.fit()
    found, largest = spent(tmp_path / "run"), space.cost(space.largest()).multiply_adds
    steps, first, second = len(trainer._batches()), *config.phases
    images = steps * trainer.batch_size  # of an epoch, which leaves out the last few
    assert found["teacher", "attack"] == images * first.epochs * 2 * 2 * largest
    assert found["teacher", "update"] == images * first.epochs * 2 * 3 * largest
    of_students = sum(drawn[first.epochs * steps :])
    assert found[second.name, "attack"] == pytest.approx(images / steps * 2 * 2 * of_students, rel=0.05)
    assert found[second.name, "update"] == pytest.approx(1.5 * found[second.name, "attack"])
    assert found[second.name, "teacher"] == images * second.epochs * largest
    assert {purpose for _, purpose in found} <= set(PURPOSES)


def test_an_interrupted_run_counts_as_one_that_was_not(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny, run=tmp_path / "whole", quiet=True)
    step, stopped = Trainer._step, []  # type: ignore[var-annotated]

    def interrupted(self: Trainer, *arguments: Any) -> None:
        step(self, *arguments)
        if self.position.step == 7 and not stopped:
            stopped.append(True)
            self.signals.received = signal.SIGTERM

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(Interrupted):
        train(tiny, run=tmp_path / "parts", quiet=True)
    train(run=tmp_path / "parts", resume=True, quiet=True)
    assert spent(tmp_path / "parts") == pytest.approx(spent(whole))


def test_the_estimate_of_the_time_is_not_counted(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Of a teacher from elsewhere too, which is the same network in the training and in its rehearsal."""
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)
    network = trainer.supernet.student(trainer.supernet.space.largest())
    trainer.external = ExternalTeacher(network, source="elsewhere")
    trainer._learn_from(trainer.external)
    assert all(seconds > 0 for seconds in seconds_per_step(trainer))
    assert set(trainer.compute.spent.values()) == {0.0}
    trainer.external(torch.rand(1, *trainer.data.input_shape))
    assert trainer.compute.spent["teacher"] == trainer.teacher_cost
