"""One of each thing that can be added from outside of the package, in one module that a configuration imports."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from proard import load_student, train
from proard.attacks import ThreatModel, attacks, named_attack
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.data import data_sets
from proard.export.formats import FORMATS
from proard.objectives import craftings, objectives
from proard.runs.run import read_metrics
from proard.runs.trackers import trackers
from proard.samplers import samplers
from proard.supernet import families

REGISTRIES = (attacks, craftings, data_sets, families, objectives, samplers, trackers)

MODULE = '''
import csv
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from itertools import cycle

import numpy as np
import torch
from torch import nn

from proard.attacks import Attack, attacks
from proard.attacks.losses import cross_entropy
from proard.data import ImageSet, data_sets
from proard.export.formats import FORMATS, Format, Runner
from proard.objectives import Crafting, craftings, objectives
from proard.objectives.base import AdversarialObjective, Outcome
from proard.runs.trackers import Tracker, scalars, trackers
from proard.samplers import Sampler, samplers
from proard.supernet import Decision, Family, families
from proard.supernet.cost import Activation

CALLS = Counter()


@data_sets.register("stripes")
def stripes(config):
    """Stripes across or along, in noise."""
    size = config.image_size or 4

    def images(count, seed):
        labels = torch.arange(count) % 2
        pixels = torch.randint(0, 80, (count, 1, size, size), generator=torch.Generator().manual_seed(seed))
        pixels[labels == 0, :, ::2] += 150
        pixels[labels == 1, :, :, ::2] += 150
        return ImageSet(pixels.to(torch.uint8), labels)

    return images(160, 0), images(40, 1), ("across", "along")


class Perceptron(nn.Module):
    def __init__(self, family, hidden):
        super().__init__()
        self.normalize = family.normalize()
        self.hidden = nn.Linear(family.inputs, hidden)
        self.classifier = nn.Linear(hidden, family.num_classes)

    def forward(self, images):
        return self.classifier(self.hidden(self.normalize(images).flatten(1)).relu())


@families.register("perceptron")
@dataclass(frozen=True)
class PerceptronFamily(Family):
    hidden: int = 16

    @property
    def inputs(self):
        channels, height, width = self.input_shape
        return channels * height * width

    def decisions(self):
        return [Decision("hidden.width", "width", (0.25, 0.5, 1.0))]

    def plan(self, architecture):
        return int(self.hidden * architecture["hidden.width"])

    def measure(self, plan, meter, images):
        meter.normalize(images)
        meter.linear(meter.linear(Activation(self.inputs), plan), self.num_classes)

    def network(self, plan):
        return Perceptron(self, plan)


@attacks.register("corner")
@dataclass(frozen=True)
class Corner(Attack):
    """Every pixel to the end of its range that one gradient step points to."""

    _: KW_ONLY
    steps: int = 1

    @property
    def name(self):
        return f"corner{self.steps}"

    def perturb(self, model, images, labels, *, loss=None, generator=None):
        CALLS["corner"] += 1
        x = images
        for _ in range(self.steps):
            x = x.detach().requires_grad_()
            raised = (loss or (lambda logits, _: cross_entropy(logits, labels)))(model(x), x).sum()
            (gradient,) = torch.autograd.grad(raised, x)
            x = (images + self.threat.eps * gradient.sign()).clamp(*self.threat.bounds)
        return x.detach()


@craftings.register("counted")
@dataclass(frozen=True)
class Counted(Crafting):
    def images(self, attack, student, batch, loss):
        CALLS["counted"] += 1
        return attack.perturb(student, batch.images, batch.labels, loss=loss, generator=batch.generator)


@objectives.register("squared")
@dataclass(frozen=True)
class Squared(AdversarialObjective):
    """Squared distance of probabilities from the labels, at attacked images."""

    factor: float = 1.0

    def outcome(self, student, teacher, batch):
        CALLS["squared"] += 1
        images = self.attacked(student, batch)
        logits = student(images)
        wanted = nn.functional.one_hot(batch.labels, logits.shape[1])
        loss = self.factor * (logits.float().softmax(1) - wanted).square().sum(1).mean()
        return Outcome(loss, adversarial_logits=logits, adversarial_images=images)


@samplers.register("narrow")
class Narrow(Sampler):
    """The smallest student, and no other."""

    def draw(self, step):
        return [self.space.smallest()]


@trackers.register("table")
class Table(Tracker):
    def __init__(self, file="table.csv"):
        self.name = file

    def start(self, run, config):
        self.file = (run / self.name).open("a", newline="")

    def log(self, row):
        csv.writer(self.file).writerows((row["step"], name, value) for name, value in scalars(row).items())

    def finish(self, complete):
        self.file.close()


class Npz(Format):
    """Weights for numpy, which is all that a perceptron needs."""

    name, file = "npz", "student.npz"

    def write(self, source, path):
        np.savez(path, **{name: tensor.numpy() for name, tensor in source.student.state_dict().items()})
        return {"runs_with": "numpy"}

    def load(self, path):
        weights = dict(np.load(path))

        def run(images):
            x = ((images.numpy() - weights["normalize.mean"]) / weights["normalize.std"]).reshape(len(images), -1)
            x = np.maximum(x @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
            return torch.from_numpy(x @ weights["classifier.weight"].T + weights["classifier.bias"])

        return Runner(run)


FORMATS["npz"] = Npz()
'''

CONFIGURATION: dict[str, Any] = {
    "imports": ["outside"],
    "data": {"name": "stripes", "image_size": 6},
    "supernet": {"family": "perceptron", "hidden": 8},
    "threat": {"eps": 0.1},
    "attack": {"name": "corner"},
    "batch_size": 36,
    "phases": [
        {"name": "teacher", "epochs": 6, "learning_rate": 0.5, "objective": {"name": "squared", "factor": 2}},
        {
            "name": "students",
            "epochs": 6,
            "learning_rate": 0.5,
            "elastic": ["all"],
            "objective": {"name": "squared"},
            "sampler": {"name": "narrow", "students": 1},
            "crafting": {"name": "counted"},
        },
    ],
    "validation": {"students": 0, "images": 16, "calibration_images": 36, "attack": {"name": "corner"}},
    "search": {"candidates": 1, "mutations": 0, "images": 16, "attack": {"name": "corner"}},
    "evaluation": {"attack": {"name": "corner"}},
    "energy": {"enabled": False},
    "trackers": [{"name": "table", "file": "numbers.csv"}],
}
SMALLEST = 36 * 2 + 2 * 2  # multiply-adds: 6 x 6 pixels, a quarter of 8 hidden units, 2 classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the module and a configuration that imports it; its names are forgotten afterwards."""
    place = tmp_path_factory.mktemp("outside")
    (place / "outside.py").write_text(MODULE, encoding="utf-8")
    (place / "outside.yaml").write_text(yaml.safe_dump(CONFIGURATION), encoding="utf-8")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(place)
        patch.setattr(sys, "path", [*sys.path])
        for names in (*(registry._entries for registry in REGISTRIES), FORMATS):
            stack.enter_context(mock.patch.dict(names))  # type: ignore[arg-type]
        yield place
        sys.modules.pop("outside", None)


def command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Trained, and a student extracted."""
    train("outside.yaml", run="run", quiet=True)  # the command also makes steps to estimate its time
    command("extract", "--run", "run", "--flops", str(SMALLEST), "--format", "npz", "--quiet")
    return folder / "run"


@pytest.fixture
def outside(run: Path) -> ModuleType:
    return import_module("outside")


@pytest.fixture
def card(run: Path) -> dict[str, Any]:
    return json.loads((run / "students" / f"flops-{SMALLEST}" / "student.json").read_text(encoding="utf-8"))


def test_data_set(card: dict[str, Any]) -> None:
    assert card["data"]["name"] == "stripes"
    assert card["classes"] == ["across", "along"]
    assert card["input_shape"] == [1, 6, 6]
    assert card["evaluation"]["clean"]["images"] == 40
    assert card["clean_accuracy"] == 1  # stripes are easy


def test_family(card: dict[str, Any], run: Path) -> None:
    assert card["family"] == "perceptron"
    assert card["multiply_adds"] == SMALLEST
    assert card["parameters"] == SMALLEST + 2 + 2  # and biases
    student = load_student(run / "students" / f"flops-{SMALLEST}")
    assert student.hidden.weight.shape == (2, 36)


def test_objective_sampler_and_crafting(outside: ModuleType, run: Path) -> None:
    teacher, students = (
        row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch" and row["epoch"] == 5
    )
    steps = 6 * 4  # 144 images train, 36 in a batch
    assert (teacher["step"], students["step"]) == (steps, 2 * steps)
    assert outside.CALLS["squared"] == 2 * steps  # one student in each
    assert outside.CALLS["counted"] == steps
    assert students["loss"] < 0.5  # which is that of a coin
    assert [entry["sampled"] for entry in students["bins"] if entry["sampled"]] == [4]


def test_tracker(run: Path) -> None:
    with (run / "numbers.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    losses = {row["step"]: row["loss"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch"}
    assert {int(step): float(value) for step, name, value in rows if name.endswith("/loss")} == losses
    assert len(losses) == 12


def test_attack(outside: ModuleType, card: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert card["evaluation"]["robust"][0]["attack"]["method"] == "corner"
    threat = ThreatModel("linf", 0.1)
    assert named_attack("corner", threat) == outside.Corner(threat)
    assert named_attack("corner3", threat) == outside.Corner(threat, steps=3)
    with pytest.raises(UserError, match="unknown; did you mean 'corner'"):
        named_attack("corne", threat)
    capsys.readouterr()
    student = f"run/students/flops-{SMALLEST}"
    command("evaluate", student, "--import", "outside", "--attack", "corner", "--attack", "corner2", "--json")
    (result,) = json.loads(capsys.readouterr().out)
    assert [name for name in result if name.startswith("corner")] == ["corner1", "corner2"]
    assert result["corner1"]["correct"] == card["evaluation"]["robust"][0]["correct"] >= result["corner2"]["correct"]


def test_format(outside: ModuleType, card: dict[str, Any], run: Path) -> None:
    entry = card["formats"]["npz"]
    assert entry["settings"] == {"runs_with": "numpy"}
    assert entry["agreement"]["equal_predictions"] == 1
    assert entry["clean"]["correct"] == card["evaluation"]["clean"]["correct"]
    student = run / "students" / f"flops-{SMALLEST}"
    images = torch.rand(5, 1, 6, 6)
    with torch.no_grad():
        expected = load_student(student)(images)
    np.testing.assert_allclose(FORMATS["npz"].load(student / "student.npz")(images), expected, atol=1e-5)
    assert "| npz | `student.npz` |" in (student / "README.md").read_text(encoding="utf-8")


def test_without_the_import_the_names_are_unknown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**CONFIGURATION, "imports": [], "data": {"name": "strypes"}}
    (folder / "without.yaml").write_text(yaml.safe_dump({**values, "trackers": []}), encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["train", "--config", "without.yaml", "--run", "without"])
    assert left.value.code == 2
    assert "data.name: unknown data set 'strypes'" in capsys.readouterr().err
    assert not (folder / "without").exists()
