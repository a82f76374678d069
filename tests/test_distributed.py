"""Several processes train one supernet: same students, different images, the gradients of the whole batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from proard import train
from proard.attacks import FGSM, ThreatModel
from proard.common.distributed import (
    first_one_first,
    from_first,
    gathered,
    highest,
    mean_over_ranks,
    process_group,
    rank,
    share,
    sum_over_ranks,
    world_size,
)
from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import load_data
from proard.evaluation.accuracy import measure
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.runs.trackers import trackers
from proard.training import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
TORCHRUN += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # a free port, so that tests can run side by side
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(arguments: list[str], directory: Path, **options: Any) -> subprocess.Popen[str]:
    command = [*TORCHRUN, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, text=True, **pipes, **options)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=300)


# ---------------------------------------------------------------------------------------------------------------------
# One process


def test_alone_everything_is_as_if_there_were_no_others() -> None:
    values = torch.tensor([1.0, 2.0])
    with process_group(), first_one_first():
        assert (rank(), world_size(), share(7)) == (0, 1, slice(0, 7))
        assert mean_over_ranks(values) is values
        sum_over_ranks([values], 0.5)
        assert torch.equal(values, torch.tensor([1.0, 2.0]))
        assert (from_first("a"), gathered("a"), highest(3, 4)) == ("a", ["a"], (3, 4))


def test_shares_are_all_of_it_and_almost_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 7, 64):
        for ranks in (1, 2, 3, 5):
            monkeypatch.setattr("proard.common.distributed.world_size", lambda ranks=ranks: ranks)
            parts = []
            for here in range(ranks):
                monkeypatch.setattr("proard.common.distributed.rank", lambda here=here: here)
                parts.append(list(range(count))[share(count)])
            assert [index for part in parts for index in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_incomplete_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT missing"), process_group():
        pass


# ---------------------------------------------------------------------------------------------------------------------
# Two


GRADIENTS = """
import sys, torch, yaml
from proard.attacks import FGSM, ThreatModel
from proard.config import parse_config
from proard.data import load_data
from proard.common.distributed import process_group, rank, share, world_size
from proard.runs.run import Run
from proard.runs.trackers import trackers
from proard.training import Trainer

settings = parse_config(yaml.safe_load(open(sys.argv[1])))
with process_group():
    trainer = Trainer(settings, load_data(settings.data), Run(sys.argv[2]), quiet=True)
    trainer.supernet.double()
    trainer.optimizer.step = lambda: None  # the gradients stay
    images = torch.rand(9, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trainer.batch_size = 9
    mine = share(9)  # 4 and 5 images: the shares need not be equal
    students, update = [], trainer.sampler.update
    trainer.sampler.update = lambda a, signals: (students.append(a.to_json()), update(a, signals))
    trainer._step(images[mine], torch.arange(9)[mine])
    gradients = {name: p.grad for name, p in trainer.supernet.named_parameters()}
    torch.save({"gradients": gradients, "students": students}, f"{sys.argv[2]}-{world_size()}-{rank()}.pt")
"""


def test_two_ranks_with_half_the_batch_have_the_gradients_of_one_with_all(tiny: dict[str, Any], tmp_path: Path) -> None:
    """In float64, without batch norm, which would normalise each half by itself."""
    tiny["supernet"] = {"family": "vit", "patch_size": 4, "stem": "patch", "dropout": 0.0}
    tiny["precision"] = "float32"  # no autocast; the network itself is of float64
    tiny["attack"] = {"name": "fgsm"}  # begins at the clean images: nothing is random
    phase = {"name": "all", "epochs": 1, "learning_rate": 0.1, "elastic": ["all"], "objective": {"name": "sat"}}
    tiny["phases"] = [{**phase, "sampler": {"name": "sandwich", "students": 3}}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny))
    (tmp_path / "program.py").write_text(GRADIENTS)
    arguments = [str(tmp_path / "program.py"), str(tmp_path / "config.yaml"), str(tmp_path / "run")]
    process = start(arguments, tmp_path)
    assert process.wait(300) == 0, finished(process)[1]
    subprocess.run([sys.executable, *arguments], check=True, env=ENVIRONMENT, timeout=300)
    one, *two = (torch.load(tmp_path / f"run-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert one["students"] == two[0]["students"] == two[1]["students"]
    expected, first, second = (ranks["gradients"] for ranks in (one, *two))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert torch.equal(first[name], second[name])
        assert (first[name] - gradient).abs().max() < 1e-9 * largest


TRACKER = """
import json
from proard.runs.trackers import Tracker, trackers

@trackers.register("own")
class Own(Tracker):
    def start(self, run, config):
        self.file = (run / "tracked.jsonl").open("a", buffering=1)

    def log(self, row):
        self.file.write(json.dumps(row) + chr(10))
"""


def test_two_processes_train_and_a_killed_one_can_be_resumed_by_one(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both draw the same students and end with the same weights; output and files are those of one process.

    They read additional images, too.
    """
    generator = np.random.default_rng(0)
    others = {"image": generator.integers(256, size=(30, 8, 8), dtype=np.uint8), "label": np.arange(30) % 10}
    np.savez(tmp_path / "others.npz", **others)
    tiny["data"]["extra"] = {"file": "others.npz", "fraction": 0.4}
    tiny["checkpoint_minutes"] = 0.0005
    tiny["phases"].pop(1)
    tiny["phases"][1]["epochs"] = 5  # time to kill one of the two before they are done
    tiny |= {"imports": ["own_tracker"], "trackers": ["own"]}
    (tmp_path / "own_tracker.py").write_text(TRACKER)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny))
    train_arguments = ["-m", "--", "proard", "train", "--config", "config.yaml", "--run"]
    output, errors = finished(process := start([*train_arguments, "whole", "--quiet"], tmp_path))
    assert process.returncode == 0, errors
    assert output.count("trained: whole") == 1
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint.pt")
    assert whole["finished"]
    assert len(whole["random"]) == 2
    assert not torch.equal(whole["random"][0]["generator"], whole["random"][1]["generator"])
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["kind"], row["phase"], row["epoch"]) for row in rows})
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "tracked.jsonl").read_text()

    process = start([*train_arguments, "killed", "--quiet"], tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert process.poll() is None, finished(process)[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_second_rank(process.pid)
    errors = finished(process)[1]
    assert process.returncode != 0
    assert "another process of the job has ended" in errors or "stopped in step" in errors, errors
    position = load_checkpoint(tmp_path / "killed" / "checkpoint.pt")["position"]
    assert position["step"] < whole["position"]["step"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(trackers, "_entries", dict(trackers._entries))
    train(run=tmp_path / "killed", resume=True, quiet=True)
    assert load_checkpoint(tmp_path / "killed" / "checkpoint.pt")["finished"]
    assert (tmp_path / "killed" / "metrics.jsonl").read_text() == (tmp_path / "killed" / "tracked.jsonl").read_text()


def kill_second_rank(parent: int) -> None:
    """SIGKILL to the process of rank 1 among the children of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of_parent = f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if of_parent and b"RANK=1" in environment:
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError("no process of rank 1")


def test_fewer_images_than_processes(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proard.training.trainer.world_size", lambda: 99)
    settings = parse_config(tiny)
    with pytest.raises(UserError, match=r"batch_size: \d+ images for 99 processes"):
        Trainer(settings, load_data(settings.data), Run(tmp_path), quiet=True)


def test_evaluation_is_spread_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank measures its share, an empty one too, and the counts add up to those of one process."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).eval()
    generator = torch.Generator().manual_seed(0)
    nn.init.orthogonal_(network[1].weight, generator=generator)
    images = [torch.rand(count, 1, 2, 2, generator=generator) for count in (7, 1)]
    batches = [(part, network(part).argmax(1)) for part in images]
    attacks = {"fgsm": FGSM(ThreatModel("linf", 0.2))}
    whole = measure(network, batches, attacks)
    assert 0 < whole.robust["fgsm"].correct < whole.clean.correct == 8
    counts: list[Any] = []
    monkeypatch.setattr("proard.evaluation.accuracy.gathered", lambda value: counts.append(value) or [value])
    for here in (0, 1):
        monkeypatch.setattr(
            "proard.evaluation.accuracy.share", lambda n, here=here: slice(n * here // 2, n * (here + 1) // 2)
        )
        measure(network, batches, attacks, spread=True)
    monkeypatch.setattr("proard.evaluation.accuracy.gathered", lambda value: counts)
    assert measure(network, batches, attacks, spread=True) == whole


@pytest.mark.slow
def test_a_wrong_configuration_is_the_last_that_torchrun_says(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tiny, "sed": 1}))
    process = start(["-m", "proard", "train", "--config", "c.yaml"], tmp_path)
    _, errors = finished(process)
    assert process.returncode == 1
    last = errors[errors.rindex("Root Cause") :]
    assert "unknown key 'sed'" in last
    assert "did you mean 'seed'?" in last


SRUN = """#!/bin/bash
trap 'kill -TERM $(jobs -p)' TERM
$TRY "$@" & $TRY "$@" &
wait; wait; wait
"""  # on every node the same command, which gets the signals that srun gets


@pytest.mark.documentation
def test_the_guides_script_for_slurm_saves_on_the_signal_before_the_end(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Two nodes that are this machine, with a process each; a job that is submitted again resumes."""
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "many_processes.md").read_text(encoding="utf-8")
    script = guide[guide.index("#!/bin/bash") :].partition("```")[0]
    assert "--signal=B:TERM@" in script  # to the script alone
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for old, new in (("--nproc-per-node=4", "--nproc-per-node=1"), (":29500", f":{port}"), ("imagenet.yaml", "c.yaml")):
        assert old in script
        script = script.replace(old, new)
    tiny["phases"][0]["epochs"] = 1000
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tiny))
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho localhost\n"), ("job", script)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    folders = f"{tmp_path}:{Path(sys.executable).parent}"
    environment = {**ENVIRONMENT, "PATH": f"{folders}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "here", "TRY": ""}
    checkpoint = tmp_path / "runs" / "imagenet" / "checkpoint.pt"
    with (tmp_path / "output").open("w") as output:
        job = subprocess.Popen(["./job"], cwd=tmp_path, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 200
        while not checkpoint.exists():
            assert job.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        job.wait(100)
    said = (tmp_path / "output").read_text()
    assert "saved in runs/imagenet, continue with --resume" in said
    assert not load_checkpoint(checkpoint)["finished"]
    again = subprocess.run(["./job"], cwd=tmp_path, env={**environment, "TRY": "echo"}, capture_output=True, text=True)
    assert again.stdout.count("--run runs/imagenet --resume") == 2
