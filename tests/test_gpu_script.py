"""The first half hour on a GPU, `scripts/gpu.sh`: its steps, and what becomes of those that fail."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))

import gpu  # noqa: E402

SAY = "print('words of', __import__('sys').argv[1]); raise SystemExit(int(__import__('sys').argv[2]))"


def half_hour(out: Path, **changed: Any) -> gpu.FirstHalfHour:
    """With its default options, but for some."""
    values = {"tiny": True, "minutes": 30.0, "out": out, "data_root": None, "set": [], "config": None}
    return gpu.FirstHalfHour(argparse.Namespace(**{**values, **changed}))


def said(name: str, code: int) -> list[str]:
    """A command that says its name, and ends with a code."""
    return [sys.executable, "-c", SAY, name, str(code)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something to write about."""
    monkeypatch.setattr(
        gpu, "environment", lambda: {"cuda_device": None, "processor": "p", "torch": "t", "git_commit": "c"}
    )


@pytest.fixture
def every_step(machine: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that were run, each of which says something; "extract" fails the first time."""
    ran: list[str] = []
    step = gpu.FirstHalfHour.step

    def spoken(self: gpu.FirstHalfHour, name: str, command: list[str]) -> None:
        if self.steps.get(name, {}).get("code") != 0:
            ran.append(name)
        step(self, name, said(name, 3 if name == "extract" and ran.count("extract") == 1 else 0))

    monkeypatch.setattr(gpu.FirstHalfHour, "step", spoken)
    return ran


def test_a_step_that_fails_does_not_stop_the_next_and_alone_is_repeated(every_step: list[str], tmp_path: Path) -> None:
    everything = ["tests", "throughput", "train", "extract", "pgd20", "autoattack", "alone"]
    assert not half_hour(tmp_path / "gpu").run()
    assert every_step == everything
    page = (tmp_path / "gpu.md").read_text()
    assert "| extract | 3 |" in page
    assert "| alone | 0 |" in page
    assert "words of pgd20" in page
    assert half_hour(tmp_path / "gpu").run()
    assert every_step == [*everything, "extract"]


def test_what_follows_a_training_is_repeated_with_it(every_step: list[str], tmp_path: Path) -> None:
    half_hour(tmp_path / "gpu").run()
    record = tmp_path / "gpu" / "steps.json"
    steps = json.loads(record.read_text())
    steps["train"]["code"] = "out of time"
    record.write_text(json.dumps(steps))
    every_step.clear()
    half_hour(tmp_path / "gpu").run()
    assert every_step == ["train", "extract", "pgd20", "autoattack", "alone"]


def test_a_step_that_is_out_of_time_may_save_itself(
    machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = (  # like proard, it listens to Ctrl-C even where the shell's background jobs do not
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('saved', flush=True)"
    )
    everything = half_hour(tmp_path / "gpu")
    everything.steps["machine"] = {"environment": gpu.environment(), "code": 0}
    monkeypatch.setattr(everything, "left", lambda name: 2.0)
    started = time.monotonic()
    everything.step("train", [sys.executable, "-c", saves])
    assert time.monotonic() - started < 30
    assert everything.steps["train"]["code"] == "out of time"
    assert everything.steps["train"]["last"] == ["saved"]


def test_epochs_are_scaled_to_the_time_that_is_left(machine: None, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """The phases have 2, 2 and 1 epochs; at 10, 20 and 40 s each all of it takes 100 s."""
    import yaml

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    everything = half_hour(tmp_path / "gpu", tiny=False, minutes=1.0, config=str(tmp_path / "tiny.yaml"))
    probe = tmp_path / "gpu" / "probe"
    probe.mkdir()
    rows = [("teacher", 10.0), ("width", 20.0), ("all", 40.0)]
    keys = {"kind": "epoch", "images_per_second": 1.0, "peak_memory_bytes": 2**20, "compute": {"attack": 5e6}}
    lines = [json.dumps({**keys, "phase": phase, "seconds": seconds}) for phase, seconds in rows]
    (probe / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    expected = 0.85 * 60 * gpu.SHARES["train"] / 100
    assert everything.scale(probe) == pytest.approx(expected, rel=0.05)
    assert "| width | 1 | 1 | 1 | 250K |" in gpu.throughput(probe)
    (probe / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")  # out of time: 20 s for the third
    assert everything.scale(probe) == pytest.approx(expected * 100 / 80, rel=0.05)


@pytest.mark.slow
def test_the_rehearsal_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    command = [sys.executable, str(ROOT / "scripts" / "gpu.py"), "20", "--tiny", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (tmp_path / "gpu.md").read_text()
