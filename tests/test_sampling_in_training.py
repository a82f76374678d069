"""What the trainer does with samplers: signals, candidates, records per bin."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import final_state, same
from torch import nn

from proard import train
from proard.config import parse_config
from proard.data import load_data
from proard.objectives import Outcome
from proard.runs.run import Run, read_metrics
from proard.samplers import Signals
from proard.supernet import Architecture, families
from proard.training.interruption import Interrupted
from proard.training.student_record import StudentRecord, signals
from proard.training.teachers import BatchTeacher
from proard.training.trainer import Trainer


def make_trainer(config: dict[str, Any], tmp_path: Path) -> Trainer:
    settings = parse_config(config)
    return Trainer(settings, load_data(settings.data), Run(tmp_path / "run"), quiet=True)


@pytest.fixture
def elastic(tiny: dict[str, Any]) -> dict[str, Any]:
    """One phase in which everything varies, without a teacher."""
    tiny["supernet"]["dropout"] = 0.0
    tiny["precision"] = "float32"
    tiny["phases"] = [{**tiny["phases"][2], "objective": {"name": "trades"}}]
    return tiny


# ---------------------------------------------------------------------------------------------------------------------
# Signals


def test_signals_are_what_they_say() -> None:
    teacher_logits, clean, adversarial = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1, 2)
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    images = torch.rand(6, 1, 2, 2)
    found = signals(
        Outcome(torch.tensor(1.0), clean, adversarial),
        BatchTeacher(nn.Identity(), images, teacher_logits),
        images,
        labels,
    )
    target = teacher_logits.double().softmax(1)
    divergence = (target * (target.log() - adversarial.double().log_softmax(1))).sum(1).mean()
    assert float(found.divergence) == pytest.approx(float(divergence), abs=1e-6)
    assert float(found.clean) == pytest.approx(float((clean.argmax(1) == labels).float().mean()))
    assert float(found.robust) == pytest.approx(float((adversarial.argmax(1) == labels).float().mean()))
    without = signals(Outcome(torch.tensor(1.0), clean), None, images, labels)
    assert float(without.divergence) == pytest.approx(float(nn.functional.cross_entropy(clean, labels)), abs=1e-6)
    assert torch.as_tensor(without.robust).isnan()


def test_two_processes_average_their_signals(tmp_path: Path) -> None:
    """Different images on every rank, the same signals, and so the same students."""
    program = f"""
import random, sys, torch
from torch import distributed
from proard.objectives import Outcome
from proard.samplers import samplers
from proard.supernet import families
from proard.training.student_record import signals
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=rank, world_size=2)
space = families.build("resnet", {{"num_classes": 10, "input_shape": (1, 8, 8)}}).space()
sampler = samplers.build("robustness", {{}}, space=space, seed=0)
generator = torch.Generator().manual_seed(rank)
for step in range(40):
    for student in sampler.sample(step):
        logits = torch.randn(4, 10, generator=generator) * (1 + len(student))
        found = signals(Outcome(torch.tensor(0.0), logits, logits), None, torch.zeros(4, 1), torch.arange(4))
        sampler.update(student, found)
print([a.to_json() for a in sampler.sample(40)], float(found.divergence), float(logits.sum() > 0))
distributed.destroy_process_group()
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    first, second = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert first.split("]")[0] == second.split("]")[0]
    assert first.split("]")[1].split()[0] == second.split("]")[1].split()[0]


def test_the_trainer_tells_the_sampler(elastic: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(elastic, tmp_path)
    told: list[tuple[Architecture, Signals]] = []
    trainer.sampler.update = lambda architecture, found: told.append((architecture, found))  # type: ignore[method-assign]
    drawn = trainer.sampler.sample(0)
    trainer.sampler.sample = lambda step: drawn  # type: ignore[method-assign]
    images, labels = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    trainer._step(images, labels)
    assert [architecture for architecture, _ in told] == drawn
    assert all(0 <= float(found.clean) <= 1 and float(found.divergence) > 0 for _, found in told)


# ---------------------------------------------------------------------------------------------------------------------
# The record


def test_record_by_hand() -> None:
    space = families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
    record = StudentRecord(space, torch.device("cpu"))
    nan = float("nan")
    record.count(space.largest(), torch.tensor(2.0), Signals(0.1, 0.9, 0.8))
    record.count(space.largest(), torch.tensor(2.0), Signals(0.3, 0.7, 0.6))
    record.count(space.smallest(), torch.tensor(4.0), Signals(1.0, nan, 0.5))
    record.count(space.smallest(), torch.tensor(4.0), Signals(2.0, 0.4, nan))
    rows = record.rows()
    assert record.means() == pytest.approx({"loss": 3.0, "clean": 2.0 / 3, "robust": 1.9 / 3})
    assert len(rows) == 6
    assert rows[0]["multiply_adds"][0] == space.cost(space.smallest()).multiply_adds
    assert rows[-1]["multiply_adds"][1] == space.cost(space.largest()).multiply_adds
    assert [row["sampled"] for row in rows] == [2, 0, 0, 0, 0, 2]
    assert rows[0]["robust_gap"] == pytest.approx(1.5 - 0.2)
    assert (rows[0]["clean"], rows[0]["robust"]) == pytest.approx((0.4, 0.5))
    assert rows[-1]["robust_gap"] == pytest.approx(0.0)
    assert (rows[-1]["clean"], rows[-1]["robust"]) == pytest.approx((0.8, 0.7))
    assert rows[2] == {**rows[2], "sampled": 0, "robust_gap": None, "clean": None, "robust": None}
    record.count(space.smallest(), torch.tensor(nan), Signals(nan, 0.5, 0.5))
    assert math.isnan(record.means()["loss"] or 0.0)  # a training that diverges must show


def test_every_trained_student_is_recorded(trained_run: Path) -> None:
    epochs = [row for row in read_metrics(trained_run / "metrics.jsonl") if row["kind"] == "epoch"]
    for row in epochs:
        sampled = sum(entry["sampled"] for entry in row["bins"])
        assert sampled == row["steps"] if row["phase"] == "teacher" else 2 * row["steps"] < sampled <= 4 * row["steps"]
        assert len(row["bins"]) == (1 if row["phase"] == "teacher" else 6)
        assert row["bins"][-1]["robust_gap"] == pytest.approx(0.0, abs=1e-9) or row["phase"] != "teacher"


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": {"name": "robustness"}, "crafting": {"name": "refined", "source": "previous"}},
        {"sampler": {"name": "robustness", "students": 1}},
        {"sampler": {"name": "epoch-uniform", "students": 2}, "crafting": {"name": "shared", "source": "drawn"}},
    ],
    ids=["robustness", "one student", "epoch-uniform"],
)
def test_an_interrupted_run_continues_bit_for_bit(
    changes: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["phases"][2] |= {**changes, "epochs": 2}
    tiny["phases"][0]["epochs"] = 1
    tiny["phases"].pop(1)
    tiny["data"]["limit"] = 150
    tiny["ema_decay"] = 0.9
    whole = train(tiny, run=tmp_path / "whole", quiet=True)
    run = tmp_path / "parts"
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(run), quiet=True)
    Run(run).create(config)
    step = trainer._step

    def stop_in_the_middle(*arguments: Any) -> None:
        step(*arguments)
        if trainer.position.phase == 1 and trainer.position.batch == 3:
            trainer.signals.received = 15

    trainer._step = stop_in_the_middle  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.fit()
    train(run=run, resume=True, quiet=True)
    assert same(final_state(run), final_state(whole))
