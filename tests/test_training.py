"""The trainer: exact continuation, phases, teachers, and what it writes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from proard import train
from proard.common.errors import UserError
from proard.common.files import RunLock
from proard.config import load_config, parse_config
from proard.data import load_data
from proard.objectives import Batch
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import supernet_for, threat_model
from proard.runs.run import Run, read_metrics
from proard.training.interruption import Interrupted
from proard.training.optimizer import learning_rate
from proard.training.phases import build_phases
from proard.training.trainer import Trainer, TrainingDiverged

TIMES = ("seconds", "processor_seconds", "images_per_second", "peak_memory_bytes")


def final_state(run: Path) -> dict[str, Any]:
    state = load_checkpoint(run / "checkpoint.pt")
    state["compute"].pop("processor_seconds")
    state.pop("metrics_bytes")  # rows hold times, whose number of digits differs
    state["config"].pop("checkpoint_minutes")
    return state


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def rows_without_times(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(run / "metrics.jsonl")]


def start(config: dict[str, Any], run: Path, *arguments: str) -> subprocess.Popen[str]:
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "proard", "train", "--config", str(file), "--run", str(run), *arguments]

    def hang_up_counts() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup

    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=hang_up_counts, **pipes)


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_same_configuration_and_seed_give_the_same_numbers(
    tiny: dict[str, Any], trained_run: Path, tmp_path: Path
) -> None:
    again = train(tiny, run=tmp_path / "again", quiet=True)
    assert same(final_state(again), final_state(trained_run))
    assert rows_without_times(again) == rows_without_times(trained_run)
    other = train({**tiny, "seed": 2}, run=tmp_path / "other", quiet=True)
    assert not same(final_state(other)["supernet"], final_state(trained_run)["supernet"])


def test_stopping_after_any_step_and_resuming_changes_nothing(
    tiny: dict[str, Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal in the first epoch, in a later phase, and at an epoch's end; resumed each time."""
    directory = tmp_path / "stopped"
    stops = [3, 12, 15, 21]
    original = Trainer._step

    def step_with_signal(self: Trainer, *batch: torch.Tensor) -> None:
        original(self, *batch)
        if stops and self.position.step + 1 == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step_with_signal)
    for attempt in range(5):
        torch.manual_seed(attempt)  # whatever the process did before must not matter
        torch.rand(7)
        if attempt < 4:
            with pytest.raises(Interrupted) as stopped:
                train(tiny if attempt == 0 else None, run=directory, resume=attempt > 0, quiet=True)
            assert stopped.value.exit_code == 143
        else:
            train(run=directory, resume=True, quiet=True)
    assert stops == []
    assert same(final_state(directory), final_state(trained_run))
    validations = [row for row in rows_without_times(directory) if row["kind"] == "validation"]
    assert validations == [row for row in rows_without_times(trained_run) if row["kind"] == "validation"]


def test_a_phase_may_have_an_attack_of_its_own(tiny: dict[str, Any]) -> None:
    """Fewer steps, or another attack; the others keep the run's. A teacher that trains too has the phase's."""
    tiny["phases"][0]["attack"] = {"name": "nfgsm"}
    tiny["phases"][1]["attack"] = {"steps": 7}
    tiny["teacher"] = {"mode": "joint"}
    config = parse_config(tiny)
    phases = build_phases(config, supernet_for(config, load_data(config.data)).space)
    assert [phase.objective.attack.name for phase in phases] == ["nfgsm", "pgd7", "pgd2"]
    assert [phase.joint.attack.name for phase in phases] == ["nfgsm", "pgd7", "pgd2"]
    assert all(phase.attack.threat == threat_model(config) for phase in phases)


def test_killed_in_the_middle_and_resumed_bit_for_bit(tiny: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL leaves no time to save: the run continues from its last checkpoint, to the same numbers.

    With averaged weights, a teacher that trains too and an optimizer with moments; the tests above have none of them.
    """
    tiny |= {"ema_decay": 0.9, "teacher": {"mode": "joint"}, "optimizer": {"name": "adamw"}}
    tiny["phases"] = [{**phase, "learning_rate": 0.002} for phase in tiny["phases"][1:]]
    whole = train(tiny, run=tmp_path / "whole", quiet=True)
    killed = tmp_path / "killed"
    process = start({**tiny, "checkpoint_minutes": 0.0005}, killed)
    wait_for(lambda: (killed / "checkpoint.pt").exists(), process)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    resumed = subprocess.run(
        [sys.executable, "-m", "proard", "train", "--resume", "--run", str(killed)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert same(final_state(killed), final_state(whole))
    validations = [[r for r in rows_without_times(run) if r["kind"] == "validation"] for run in (killed, whole)]
    assert validations[0] == validations[1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_signals_save_and_exit(tiny: dict[str, Any], tmp_path: Path, number: int, code: int) -> None:
    tiny["phases"][0]["epochs"] = 500
    run = tmp_path / "run"
    process = start(tiny, run)
    wait_for(lambda: (run / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "saved" in errors
    assert "Traceback" not in errors
    position = load_checkpoint(run / "checkpoint.pt")["position"]
    assert position["step"] > 0


@pytest.mark.slow
def test_two_processes_cannot_write_one_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["phases"][0]["epochs"] = 500
    run = tmp_path / "run"
    process = start(tiny, run)
    wait_for(lambda: (run / "checkpoint.pt").exists(), process)
    try:
        with pytest.raises(UserError, match=f"{process.pid}"):
            train(run=run, resume=True, quiet=True)
    finally:
        process.kill()
        process.communicate()


def test_names_of_runs_that_begin_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: Run.fresh("a/mine.yaml").path, range(40)))
    assert len(set(runs)) == 40
    assert all(path.is_dir() and path.name.startswith("mine-20260101-000000") for path in runs)


@pytest.mark.slow
def test_a_job_array(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Trainings that begin in the same second, in one folder."""
    tiny["phases"] = tiny["phases"][:1]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tiny))
    program = (
        "import time; time.strftime = lambda *_: '20260101-000000'\n"
        "from proard.commands.cli import main; main(['train', '--config', 'c.yaml', '--quiet'])"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 3
    for job in jobs:
        assert job.stdout is not None
        job.stdout.close()


def test_two_of_one_name(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The second is refused in one line, and the first is not disturbed, whenever the second begins."""
    config = parse_config(tiny)
    run = Run(tmp_path / "run")
    run.make()
    with RunLock(run.path):
        with pytest.raises(UserError, match="in use by"):
            train(config, run=run.path, quiet=True)
        assert {path.name for path in run.path.iterdir()} == {".lock"}
        run.create(config)
    with pytest.raises(UserError, match="already holds a run"):
        train(config, run=run.path, quiet=True)


def test_what_is_refused_leaves_nothing(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong: tuple[dict[str, Any], ...] = (
        {"data": {"name": "image_folder", "root": "nowhere", "image_size": 8}},
        {"teacher": "nowhere"},
        {"trackers": [{"name": "tensorboard", "folder": 3}]},
        {"supernet": {"family": "resnet", "widths": []}},
    )
    for change in wrong:
        with pytest.raises(UserError):
            train({**tiny, **change}, quiet=True)
        assert not list(tmp_path.iterdir()), change
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match="runs"):
        train(tiny, quiet=True)


def test_resume_refuses_a_changed_configuration(tiny: dict[str, Any], trained_run: Path) -> None:
    tiny["phases"][1]["learning_rate"] = 0.3
    tiny["threads"] = 1  # how it is computed may change
    with pytest.raises(UserError, match=r"phases\.1\.learning_rate differ") as caught:
        train(tiny, run=trained_run, resume=True)
    assert "threads" not in str(caught.value)


def test_an_existing_run_is_not_overwritten(tiny: dict[str, Any], trained_run: Path) -> None:
    before = (trained_run / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny, run=trained_run)
    assert (trained_run / "checkpoint.pt").read_bytes() == before


def test_the_run_directory(tiny: dict[str, Any], trained_run: Path) -> None:
    assert load_config(trained_run / "config.yaml") == parse_config(tiny)
    environment = json.loads((trained_run / "environment.json").read_text())
    assert {"torch", "python", "git_commit", "seed", "processor"} <= set(environment)
    assert json.loads((trained_run / "energy.json").read_text())["seconds"] > 0
    rows = read_metrics(trained_run / "metrics.jsonl")
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [(row["phase"], row["epoch"]) for row in epochs] == [
        *[("teacher", 0), ("teacher", 1), ("width", 0), ("width", 1), ("all", 0)]
    ]
    assert all(0 <= row["clean"] <= 1 and 0 <= row["robust"] <= 1 and row["images_per_second"] > 0 for row in epochs)
    validations = [row for row in rows if row["kind"] == "validation"]
    assert set(validations[0]["students"]) == {"largest"}  # nothing else is trained in the first phase
    assert set(validations[-1]["students"]) == {"largest", "smallest", "random1"}
    assert load_checkpoint(trained_run / "checkpoint.pt")["finished"]


def test_the_best_weights_of_a_phase_go_on(trained_run: Path) -> None:
    """The checkpoint's best weights are those of the epoch with the best mean robust validation accuracy."""
    rows = [r for r in read_metrics(trained_run / "metrics.jsonl") if r["kind"] == "validation" and r["phase"] == "all"]
    best = load_checkpoint(trained_run / "checkpoint.pt")["best"]
    assert best["robust"] == max(row["robust"] for row in rows)
    mean = sum(student["robust"] for student in rows[-1]["students"].values()) / len(rows[-1]["students"])
    assert math.isclose(rows[-1]["robust"], mean)


def make_trainer(values: dict[str, Any], tmp_path: Path) -> Trainer:
    config = parse_config(values)
    (tmp_path / "run").mkdir(exist_ok=True)
    return Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)


def test_a_step_is_the_sum_of_its_students_gradients(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Against plain autograd over each student's own weights, cut by hand."""
    tiny["phases"] = [
        {
            "name": "all",
            "epochs": 1,
            "learning_rate": 0.1,
            "elastic": ["width", "depth", "expand"],
            "objective": {"name": "ce"},
            "sampler": {"name": "sandwich", "students": 4},
        }
    ]
    tiny["supernet"]["dropout"] = 0.0
    tiny["precision"] = "float32"
    trainer = make_trainer(tiny, tmp_path)
    images, labels = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    students = trainer.sampler.sample(0)
    assert len(students) >= 3
    trainer.sampler.sample = lambda step: students  # type: ignore[method-assign]
    weights = {name: parameter.detach().clone() for name, parameter in trainer.supernet.named_parameters()}
    expected = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for architecture in students:
        network = trainer.supernet.family.network(trainer.supernet.family.plan(architecture))
        for name, parameter in network.named_parameters():
            index = tuple(slice(size) for size in parameter.shape)
            parameter.data = weights[name][index].clone()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        for name, parameter in network.named_parameters():
            expected[name][tuple(slice(size) for size in parameter.shape)] += parameter.grad
    trainer._step(images, labels)
    for name, parameter in trainer.supernet.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4)


def test_no_student_in_training_has_running_statistics(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Batch statistics in training and attack alike: nothing to go stale, nothing mixed over students."""
    trainer = make_trainer(tiny, tmp_path)
    student = trainer.supernet.student(trainer.supernet.space.smallest())
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean is None and norm.training for norm in norms)
    assert not any("running" in name for name in trainer.supernet.state_dict())


def test_joint_teacher_is_the_largest_student_of_the_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["teacher"] = {"mode": "joint", "objective": {"name": "trades", "beta": 1.0}}
    tiny["phases"] = [{**tiny["phases"][2], "sampler": {"name": "uniform", "students": 2}}]
    trainer = make_trainer(tiny, tmp_path)
    seen: list[tuple[str, Any]] = []

    class Spy:
        def __init__(self, name: str, objective: Any) -> None:
            self.name, self.objective = name, objective

        def outcome(self, student: Any, teacher: Any, batch: Batch) -> Any:
            outcome = self.objective.outcome(student, teacher, batch)
            targets = None if teacher is None else teacher(batch.images)
            seen.append((self.name, targets if teacher is not None else outcome.clean_logits.detach()))
            return outcome

    trainer.joint, trainer.objective = Spy("joint", trainer.joint), Spy("student", trainer.objective)  # type: ignore[assignment]
    images, labels = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    trainer._step(images, labels)
    assert [name for name, _ in seen][:1] == ["joint"]
    assert "student" in [name for name, _ in seen]
    for _, logits in seen[1:]:
        assert torch.equal(logits, seen[0][1])
        assert not logits.requires_grad


def test_frozen_teacher_is_the_largest_after_its_phase(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["phases"] = tiny["phases"][:2]
    tiny["phases"][1]["epochs"] = 1
    run = train(tiny, run=tmp_path / "run", quiet=True)
    teacher = load_checkpoint(run / "checkpoint.pt")["teacher"]
    first = train({**tiny, "phases": tiny["phases"][:1]}, run=tmp_path / "first", quiet=True)
    best = load_checkpoint(first / "checkpoint.pt")["best"]["weights"]
    config = parse_config(tiny)
    supernet = supernet_for(config, load_data(config.data))
    x = torch.rand(5, 1, 8, 8)
    logits = []
    for weights in (
        best,
        {name: tensor for name, tensor in teacher.items() if "running" not in name and "num_batches" not in name},
    ):
        supernet.load_state_dict(weights)
        logits.append(supernet.student(supernet.space.largest()).eval()(x))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)  # channels were sorted in between


def test_divergence_stops_with_a_clear_message(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["phases"] = [{"name": "teacher", "epochs": 30, "learning_rate": 1e12, "objective": {"name": "sat"}}]
    with pytest.raises(TrainingDiverged, match=r"phase 'teacher'.*learning_rate"):
        train(tiny, run=tmp_path / "run", quiet=True)


def test_gradient_clipping_bounds_the_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["optimizer"] = {"gradient_clip": 1e-3}
    trainer = make_trainer(tiny, tmp_path)
    images, labels = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    trainer._step(images, labels)
    norm = torch.stack([p.grad.norm() for p in trainer.supernet.parameters()]).norm()
    assert norm <= 1e-3 + 1e-6


def test_weight_decay_spares_batch_norm_and_biases(tiny: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(tiny, tmp_path)
    decayed, spared = trainer.optimizer.param_groups
    assert decayed["weight_decay"] == 5e-4
    assert spared["weight_decay"] == 0
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in spared["params"])
    count = len(decayed["params"]) + len(spared["params"])
    assert count == len(list(trainer.supernet.parameters()))


def test_learning_rate_schedule() -> None:
    rates = [learning_rate(step, 100, 0.4, 10) for step in range(100)]
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert rates[10] == 0.4
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert math.isclose(rates[55], 0.2)
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(0, 1, 0.1) == 0.1


def test_mistakes_in_the_last_phase_show_before_the_first_runs(tiny: dict[str, Any], tmp_path: Path) -> None:
    for change, message in (
        ({"objective": {"name": "rslda"}}, "phases.2.objective: unknown objective 'rslda'"),
        ({"objective": {"name": "rslad", "weight": 1}}, "phases.2.objective: objective 'rslad' has no option 'weight'"),
        (
            {"sampler": {"name": "sandwich", "students": 1}},
            "phases.2.sampler: sampler 'sandwich': students must be at least 2",
        ),
        ({"elastic": ["width", "kernel"]}, "phases.2.elastic: unknown kind of decision 'kernel'"),
        ({"warmup_epochs": 5}, "phases.2: warmup_epochs"),
    ):
        values = {**tiny, "phases": [*tiny["phases"][:2], {**tiny["phases"][2], **change}]}
        with pytest.raises(UserError) as caught:
            train(values, run=tmp_path / "run", quiet=True)
        assert message in str(caught.value)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no phase before it trains one"):
        train({**tiny, "phases": tiny["phases"][1:]}, run=tmp_path / "run", quiet=True)


def test_a_damaged_checkpoint_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["phases"] = [{**tiny["phases"][0], "epochs": 1}]
    run = train(tiny, run=tmp_path / "run", quiet=True)
    data = bytearray((run / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "checkpoint.pt").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        train(run=run, resume=True, quiet=True)


def test_a_full_disk_keeps_the_last_checkpoint(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proard.runs.checkpoint import save_checkpoint

    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"value": 2})
    monkeypatch.undo()
    (tmp_path / "to-full").symlink_to("/dev/full")
    if Path("/dev/full").exists():  # PyTorch's own words for a full disk
        save = torch.save
        monkeypatch.setattr(torch, "save", lambda value, _: save(value, tmp_path / "to-full"))
        with pytest.raises(OSError, match="disk may be full") as raised:
            save_checkpoint(path, {"value": torch.zeros(10**6)})
        monkeypatch.undo()
        assert raised.value.filename == str(path)
    (tmp_path / "to-full").unlink()
    assert load_checkpoint(path)["value"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.sha256"]


def test_batches_that_batch_norm_cannot_use(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"batch_size": 1, "phases": tiny["phases"][:1]}
    with pytest.raises(UserError, match=r"batch_size: 1.*2 images or more") as raised:
        train(tiny, run=tmp_path / "run", quiet=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
    assert train({**tiny, "batch_size": 2}, run=tmp_path / "two", quiet=True)
    tiny |= {
        "supernet": {
            "family": "vit",
            "width_choices": [32],
            "depth_choices": [1],
            "heads_choices": [1],
            "stem": "patch",
        },
        "data": {"name": "digits", "limit": 20},
    }
    assert train(tiny, run=tmp_path / "vit", quiet=True)  # which has none
