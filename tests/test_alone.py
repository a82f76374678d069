"""Training a run's student alone: the baseline to compare with, and going on from what was cut out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from proard import load_student, train
from proard.commands.baseline import baseline
from proard.commands.extract import extract
from proard.commands.finetune import finetune
from proard.commands.single_student import alone_config, teacher_of
from proard.common.errors import UserError
from proard.config import SupernetConfig, TeacherConfig, parse_config
from proard.export.student_directory import read_card
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run, read_metrics
from proard.supernet.budgets import Budget


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, with a student for a budget."""
    copy = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(trained_run, copy)
    extract(flops="400K", run=copy, quiet=True)
    return copy


@pytest.fixture(scope="module")
def compared(run: Path) -> dict[str, Any]:
    return baseline([Budget.parse("flops", "400K"), Budget.parse("flops", "1M")], run=run, quiet=True).as_dict()


def test_alone_gets_what_it_had_in_the_supernet(run: Path, compared: dict[str, Any]) -> None:
    before, alone = Run(run).config(), Run(run / "baselines" / "flops-400K").config()
    assert alone.mode == "student"
    chosen = read_card(run / "students" / "flops-400K")
    assert alone.student.architecture == chosen["architecture"]
    assert [(p.name, p.epochs, p.learning_rate, p.objective) for p in alone.phases] == [
        (p.name, p.epochs, p.learning_rate, p.objective) for p in before.phases[1:]
    ]
    for key in ("data", "attack", "threat", "batch_size", "optimizer", "seed"):
        assert getattr(alone, key) == getattr(before, key)
    teacher = load_student(str(alone.teacher.source)).state_dict()
    frozen = load_checkpoint(run / "checkpoint.pt")["teacher"]
    assert teacher.keys() == frozen.keys()
    assert all(torch.equal(teacher[name], frozen[name]) for name in frozen)
    assert read_card(str(alone.teacher.source))["evaluation"]["split"] == "validation"


def test_the_table(run: Path, compared: dict[str, Any]) -> None:
    assert json.loads((run / "baseline.json").read_text()) == compared
    first, second = compared["comparisons"]
    cards = {name: read_card(run / "students" / name) for name in ("flops-400K", "flops-400K-alone", "flops-1M")}
    assert cards["flops-400K"]["architecture"] == cards["flops-400K-alone"]["architecture"]
    assert first["clean_accuracy_extracted"] == cards["flops-400K"]["clean_accuracy"]
    assert first["robust_accuracy_alone"] == cards["flops-400K-alone"]["robust_accuracy"]
    assert first["robust_accuracy_difference"] == pytest.approx(
        cards["flops-400K"]["robust_accuracy"] - cards["flops-400K-alone"]["robust_accuracy"]
    )
    assert second["multiply_adds"] == cards["flops-1M"]["multiply_adds"] <= 1e6
    commands = json.loads((run / "energy.json").read_text())["commands"]
    assert [entry["command"] for entry in commands[:4]] == ["train", "extract", "extract", "baseline"]
    assert [entry.get("students") for entry in commands[:4]] == [None, 1, 1, None]  # flops-1M was extracted for it
    seconds = [row["seconds_alone"] for row in compared["comparisons"]]
    assert commands[3]["seconds"] > sum(seconds)
    gain = (sum(seconds) - commands[1]["seconds"] - commands[2]["seconds"]) / 2
    expected = compared["seconds_of_the_run"] / gain if gain > 0 else None
    assert compared["break_even_budgets"] == (expected and pytest.approx(expected))
    assert (compared["break_even_by"], compared["kwh_of_the_run"]) == ("seconds", None)


def test_what_is_done_is_not_done_again(run: Path, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("proard.commands.single_student.train", refuse)
    assert (
        baseline([Budget.parse("flops", "400K")], run=run, quiet=True).as_dict()["comparisons"]
        == compared["comparisons"][:1]
    )


def test_finetuning_goes_on_from_the_student(run: Path, tmp_path: Path) -> None:
    (student,) = extract(flops="500K", run=run, out=tmp_path, quiet=True)
    before = load_student(student.path)
    done = finetune(student.path, 2, run=run, quiet=True)
    assert done.path == student.path
    after = load_student(student.path)
    assert done.card["finetuned_epochs"] == 2
    assert done.card["architecture"] == student.card["architecture"]
    assert done.card["budget"] == student.card["budget"]
    (distances,) = [
        [
            float(((a - b).norm() / b.norm()).detach())
            for a, b in zip(after.parameters(), before.parameters(), strict=True)
            if b.dim() > 1
        ]
    ]
    assert all(0 < distance < 0.5 for distance in distances)  # moved, from where it was
    config = Run(run / "finetuned" / student.path.name).config()
    (phase,) = config.phases
    assert phase.epochs == 2
    assert phase.learning_rate == pytest.approx(0.1 * Run(run).config().phases[-1].learning_rate)
    rows = [
        row for row in read_metrics(run / "finetuned" / student.path.name / "metrics.jsonl") if row["kind"] == "epoch"
    ]
    assert len(rows) == 2
    assert json.loads((run / "energy.json").read_text())["commands"][-1]["command"] == "finetune"


def test_options_of_many_students_are_left_behind(tiny: dict[str, Any]) -> None:
    tiny["supernet"] |= {"weights": "somewhere/else"}
    tiny["phases"][2] |= {"sampler": {"name": "sandwich"}, "crafting": {"name": "shared"}}
    config = parse_config(tiny)
    alone = alone_config(config, {"stage1.width": 0.5}, TeacherConfig(source="somewhere"))
    again = parse_config(alone.model_dump(mode="json"))
    assert again.supernet == SupernetConfig.model_validate({**tiny["supernet"], "weights": None})
    assert {(phase.sampler.name, phase.crafting.name) for phase in again.phases} == {("robustness", "own")}


def test_a_joint_teacher_is_the_largest_in_the_end(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["teacher"] = "joint"
    tiny["phases"] = [{**tiny["phases"][2]}]
    path = train(tiny, run=tmp_path / "run", quiet=True)
    directory = Run(path)
    teacher = teacher_of(directory, directory.config(), load_checkpoint(directory.checkpoint))
    assert teacher.mode == "frozen"
    weights = load_checkpoint(directory.checkpoint)["best"]["weights"]
    network = load_student(str(teacher.source))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in network.named_parameters())


def test_mistakes(run: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="baseline needs a budget"):
        baseline([], run=run)
    with pytest.raises(UserError, match="below the smallest student"):
        baseline([Budget.parse("flops", "1")], run=run, quiet=True)
    with pytest.raises(UserError, match="trained one student alone already"):
        baseline([Budget.parse("flops", "1M")], run=run / "baselines" / "flops-400K")
    with pytest.raises(UserError, match="--finetune 0: must be at least 1"):
        finetune(run / "students" / "flops-400K", 0, run=run)
