"""The guide to methods of one's own: its module, its configuration and its checks are run as they stand."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import yaml

from proard import evaluate, extract, train
from proard.attacks import attacks
from proard.objectives import objectives
from proard.runs.run import read_metrics
from proard.samplers import samplers
from proard.supernet import build_supernet

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "your_own_methods.md").read_text(encoding="utf-8")
MODULE, CHECK = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
(CONFIGURATION,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
SHORT = {
    "validation": {"students": 0, "images": 20, "calibration_images": 64, "attack": {"steps": 1}},
    "search": {"candidates": 1, "mutations": 0, "images": 20, "attack": {"steps": 1}},
    "energy": {"enabled": False},
}


pytestmark = pytest.mark.documentation


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the guide, in the working directory; its names are forgotten afterwards."""
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        mock.patch.dict(objectives._entries),
        mock.patch.dict(attacks._entries),
        mock.patch.dict(samplers._entries),
    ):
        yield import_module("mine")
    del sys.modules["mine"]  # not all that was imported since: PyTorch's modules cannot be imported twice


def test_the_configuration_trains_and_its_student_is_evaluated(mine: ModuleType) -> None:
    values = yaml.safe_load(CONFIGURATION)
    values["data"]["limit"] = 200
    values["evaluation"]["limit"] = 40
    run = train({**values, **SHORT}, run="run", quiet=True)
    epochs = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch"]
    assert [row["phase"] for row in epochs] == ["teacher", "students"]
    assert sum(entry["sampled"] for entry in epochs[1]["bins"]) == 4 * epochs[1]["steps"]
    (student,) = extract(flops="500K", run=run, quiet=True)
    assert student.card["evaluation"]["robust"][0]["attack"]["method"] == "guess"
    (again,) = evaluate(student.path)
    assert list(again.attacks.values()) == [mine.Guess(again.attacks["guess50"].threat, tries=50)]
    assert again.measurement.worst.correct == student.card["evaluation"]["robust"][0]["correct"]


def test_the_checks_of_the_guide_hold(mine: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    exec(CHECK, {})
    assert capsys.readouterr().out.endswith("guess500\n")


def test_the_sampler_goes_on_where_it_was(mine: ModuleType) -> None:
    space = build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 16], blocks=[1, 1]).space
    whole, part, resumed = (mine.Again(space, seed=3) for _ in range(3))
    expected = [whole.sample(step) for step in range(8)]
    assert [part.sample(step) for step in range(4)] == expected[:4]
    resumed.load_state_dict(json.loads(json.dumps(part.state_dict())))
    assert [resumed.sample(step) for step in range(4, 8)] == expected[4:]
    assert expected[2][1] in expected[0]  # trained longest ago


def test_the_names_are_forgotten() -> None:
    assert "pairing" not in objectives.names()
    assert "mine" not in sys.modules
