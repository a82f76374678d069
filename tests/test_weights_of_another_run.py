"""Supernets that begin with the weights of another run (``supernet.weights``)."""

from __future__ import annotations

import copy
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from proard import train
from proard.common.errors import UserError
from proard.config import load_config, parse_config
from proard.data import load_data
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import supernet_for
from proard.runs.run import Run
from proard.training.interruption import Interrupted
from proard.training.trainer import Trainer


@pytest.fixture
def short(tiny: dict[str, Any]) -> dict[str, Any]:
    """One epoch for the teacher, one for students of all kinds."""
    teacher, _, students = tiny["phases"]
    return {**tiny, "phases": [{**teacher, "epochs": 1}, students], "ema_decay": 0.5}


def students_of(run: Path, values: dict[str, Any]) -> dict[str, Any]:
    """A configuration of student phases alone, which begins with the run's weights."""
    values = copy.deepcopy(values)
    return {**values, "phases": values["phases"][1:], "supernet": {**values["supernet"], "weights": str(run)}}


def state_of(run: Path) -> dict[str, Any]:
    state = load_checkpoint(run / "checkpoint.pt")
    best = state["best"]["weights"] if state["best"] else {}
    return {**state["supernet"], **{f"best {name}": tensor for name, tensor in best.items()}}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer._step

    def step_with_signal(self: Trainer, *batch: Any) -> None:
        original(self, *batch)
        if self.position.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step_with_signal)


def test_the_path_is_no_option_of_the_family(short: dict[str, Any], tmp_path: Path) -> None:
    short["supernet"] |= {"weights": "runs/a"}
    config = parse_config(short)
    assert "weights" not in config.supernet.options
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


def test_mode_student_refuses(tiny: dict[str, Any]) -> None:
    del tiny["phases"]
    with pytest.raises(UserError, match=r"supernet\.weights is for mode supernet"):
        parse_config({**tiny, "mode": "student", "supernet": {**tiny["supernet"], "weights": "runs/a"}})


def test_students_alone_begin_with_another_runs_weights(
    short: dict[str, Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = students_of(trained_run, short)
    config = parse_config(values)
    data = load_data(config.data)
    trainer = Trainer(config, data, Run(tmp_path / "unused"), quiet=True)
    theirs = load_checkpoint(trained_run / "checkpoint.pt")["best"]["weights"]
    other = supernet_for(load_config(trained_run / "config.yaml"), data)
    other.load_state_dict(theirs)
    largest = other.space.largest()
    x = torch.rand(8, 1, 8, 8)
    torch.testing.assert_close(
        trainer.supernet.student(largest).eval()(x), other.student(largest).eval()(x), rtol=1e-3, atol=1e-4
    )
    assert trainer.teacher is not None
    assert not (tmp_path / "unused").exists()

    moved = tmp_path / "moved"
    trained_copy = tmp_path / "source"
    shutil.copytree(trained_run, trained_copy)
    whole = train(values, run=tmp_path / "whole", quiet=True)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        stop_at(3, patched)
        with pytest.raises(Interrupted):
            train({**values, "supernet": {**values["supernet"], "weights": "source"}}, run=tmp_path / "b", quiet=True)
    assert load_config(tmp_path / "b" / "config.yaml").supernet.weights == trained_copy
    trained_copy.rename(moved)  # not read again
    train(run=tmp_path / "b", resume=True, quiet=True)
    assert_equal(state_of(tmp_path / "b"), state_of(whole))


def test_the_other_runs_weights_are_taken_as_they_are(short: dict[str, Any], trained_run: Path, tmp_path: Path) -> None:
    values = {**students_of(trained_run, short), "sort_channels": False}
    config = parse_config(values)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path), quiet=True)
    weights = load_checkpoint(trained_run / "checkpoint.pt")["best"]["weights"]
    assert_equal(trainer.supernet.state_dict(), weights)
    assert trainer.averaged is not None
    assert_equal(trainer.averaged.state_dict(), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supernet": {"widths": [16, 32]}}, r"supernet.widths is \(16, 24\) there and \(16, 32\) here"),
        ({"supernet": {"mean": [0.9]}}, r"normalised otherwise; set supernet.mean: \[0\.3"),
        ({"data": {"name": "fashion_mnist"}}, "data.name"),
    ],
)
def test_weights_of_another_network(
    short: dict[str, Any], trained_run: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = students_of(trained_run, short)
    data = load_data(parse_config(values).data)
    values["supernet"] |= change.get("supernet", {})
    values["data"] |= change.get("data", {})
    with pytest.raises(UserError, match=rf"supernet.weights {trained_run}: .*{message}"):
        Trainer(parse_config(values), data, Run(tmp_path / "new"), quiet=True)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_not_there(short: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"supernet.weights .*: no config.yaml there"):
        train(students_of(tmp_path / "none", short), run=tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()
