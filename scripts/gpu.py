"""What a GPU makes of proard, in the minutes that there are: one step after the other, each with its result at once.

bash scripts/gpu.sh 30 --data-root DIR --out docs/results/gpu     # on a machine with a GPU
bash scripts/gpu.sh --tiny                                        # a rehearsal on any machine, in some minutes

The machine; the tests; steps as CUDA graphs; one epoch of every phase, for the throughput; then the configuration with
as many epochs as the remaining time holds, students at four budgets, PGD-20 and AutoAttack, and the same students
trained alone. A step that fails, or is out of time, does not stop the next. The training saves itself every two
minutes; the same command, given again, goes on where it was: steps that ended well are not repeated. OUT.md is the
page, OUT/ has the run and what every command printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proard.common.environment import environment
from proard.common.files import atomic_write, write_json
from proard.common.units import short
from proard.config import load_config
from proard.runs.run import Run, read_metrics

SCRIPTS = Path(__file__).parent
BUDGETS = {False: ("20M", "60M", "180M", "560M"), True: ("150K", "400K", "1M", "4M")}
CONFIG = {False: "cifar10.yaml", True: "quickstart.yaml"}
TESTS = {False: ["-n", "8"], True: ["tests/test_graphs.py"]}
PROBE = 1e-6  # by which epochs are scaled: every phase has one
SHARES = {  # of the minutes, at which a step must be over, so that one that takes long leaves something to the next
    **{"tests": 0.25, "graphs": 0.28, "throughput": 0.33, "train": 0.65},
    **{"extract": 0.7, "pgd20": 0.75, "autoattack": 0.85, "alone": 1.0},
}
AFTER_TRAINING = ("extract", "pgd20", "autoattack", "alone")
LAST_WORDS = 12  # lines of what a step printed
GRACE = 60  # seconds in which an interrupted training saves itself


class FirstHalfHour:
    """Does the steps, and keeps the page.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.tiny: bool = arguments.tiny
        self.minutes: float = arguments.minutes
        self.started = time.monotonic()
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.record = self.out / "steps.json"
        self.steps: dict[str, dict[str, Any]] = json.loads(self.record.read_text()) if self.record.exists() else {}
        self.root = ["--data-root", str(arguments.data_root)] if arguments.data_root else []
        self.settings = [f"--set={setting}" for setting in arguments.set]
        self.config = arguments.config or CONFIG[self.tiny]

    def run(self) -> bool:
        """Every step that has not ended well before.

        Returns:
            Whether all of them have, now.
        """
        limit = ["--limit", "20" if self.tiny else "500"]
        budgets = [word for budget in BUDGETS[self.tiny] for word in ("--flops", budget)]
        probe, trained = self.out / "probe", self.out / "run"
        if "machine" not in self.steps:
            self.steps["machine"] = {"environment": environment(), "code": 0}
        self.step("tests", [sys.executable, "-m", "pytest", "-q", *TESTS[self.tiny]])
        if environment()["cuda_device"]:
            graphs = ["--out", str(self.out / "bench_graphs")]
            self.step("graphs", [sys.executable, str(SCRIPTS / "bench_graphs.py"), *graphs])
        self.step("throughput", self.train(probe, PROBE))
        scale = self.scale(probe)
        self.step("train", self.train(trained, scale))
        self.step("extract", [*self.proard("extract"), *budgets, "--run", str(trained)])
        for attack in ("pgd20", "autoattack"):
            self.step(attack, [*self.proard("evaluate"), str(trained), "--attack", attack, *limit])
        alone = ["--scale-epochs", f"{PROBE}"] if self.tiny else []
        self.step("alone", [*self.proard("baseline"), *budgets, "--run", str(trained), *alone])
        return all(step["code"] == 0 for step in self.steps.values())

    def left(self, name: str) -> float:
        """Seconds until a step must be over."""
        return max(1.0, 60 * self.minutes * SHARES[name] - (time.monotonic() - self.started))

    def proard(self, name: str) -> list[str]:
        """The words with which a command begins."""
        return [sys.executable, "-m", "proard", name, *self.root]

    def train(self, run: Path, scale: float) -> list[str]:
        """A training that goes on where it was."""
        resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
        settings = ["--set=checkpoint_minutes=2", *self.settings]
        start = ["--config", self.config, "--scale-epochs", f"{scale:.4g}", *settings]
        return [*self.proard("train"), *(resume or start), "--run", str(run), "--quiet"]

    def scale(self, probe: Path) -> float:
        """By which to scale all phases, so that they fit: from the time that one epoch of each takes."""
        if self.tiny or not probe.exists():
            return PROBE
        phases = {phase.name: phase.epochs for phase in load_config(self.config).phases}
        seconds = {row["phase"]: row["seconds"] for row in epochs(probe)}
        if not seconds:
            return PROBE
        slowest = max(seconds.values())  # for a phase that the probe had no time for
        whole = sum(count * seconds.get(name, slowest) for name, count in phases.items())
        return min(1.0, 0.85 * self.left("train") / whole)

    def step(self, name: str, command: Sequence[str]) -> None:
        """Run a command unless it has ended well before, and write the page; out of time it is interrupted."""
        if self.steps.get(name, {}).get("code") == 0:
            return
        if name == "train":  # what was made of an earlier state of it is made anew
            self.steps = {known: step for known, step in self.steps.items() if known not in AFTER_TRAINING}
        print(f"{name}: {shlex.join(command)}", flush=True)
        begun = time.monotonic()
        log = self.out / f"{name}.log"
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "120"}
            )
            try:
                code: int | str = process.wait(self.left(name))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                code = "out of time"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        seconds = round(time.monotonic() - begun, 1)
        shown = [word.replace(sys.executable, "python") for word in command]
        self.steps[name] = {"command": shlex.join(shown), "code": code, "seconds": seconds, "last": lines[-LAST_WORDS:]}
        print(f"  {code} after {seconds:.0f} s", flush=True)
        write_json(self.record, self.steps)
        self.write()

    def write(self) -> None:
        """The page."""
        about = self.steps["machine"]["environment"]
        where = about["cuda_device"] or f"{about['processor']}, no GPU"
        lines = ["# A first half hour" + (", rehearsed" if self.tiny else ""), ""]
        lines += [f"{where}; torch {about['torch']}, commit {str(about['git_commit'])[:12]}.", ""]
        lines += ["| step | exit code | seconds |", "|---|---|---|"]
        done = {name: step for name, step in self.steps.items() if name != "machine"}
        lines += [f"| {name} | {step['code']} | {step['seconds']} |" for name, step in done.items()]
        lines += ["", *throughput(self.out / "probe"), *throughput(self.out / "run")]
        for name, step in done.items():
            lines += [f"## {name}", "", f"`{step['command']}`", "", "```text", *step["last"], "```", ""]
        atomic_write(self.out.with_suffix(".md"), ("\n".join(lines)).encode())


def epochs(run: Path) -> list[dict[str, Any]]:
    """What a training wrote of its epochs, so far."""
    place = Run(run).metrics
    return [row for row in read_metrics(place) if row["kind"] == "epoch"] if place.exists() else []


def throughput(run: Path) -> list[str]:
    """A table: images per second and peak memory, by phase."""
    rows = epochs(run)
    if not rows:
        return []
    lines = [f"`{run.name}`, medians over the epochs of a phase:", ""]
    lines += [
        "| phase | epochs | images a second | peak memory, MB | multiply-adds a second |",
        "|---|---|---|---|---|",
    ]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = sorted((row for row in rows if row["phase"] == phase), key=lambda row: row["images_per_second"])
        middle = own[len(own) // 2]
        rate = short(sum(middle["compute"].values()) / middle["seconds"])
        peak = max(row["peak_memory_bytes"] for row in own) / 2**20
        lines.append(f"| {phase} | {len(own)} | {middle['images_per_second']:.0f} | {peak:.0f} | {rate} |")
    return [*lines, ""]


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=30.0, help="for all of it")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: embedded data, one epoch of each phase")
    parser.add_argument("--config", help="default cifar10.yaml, and quickstart.yaml with --tiny")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--data-root", type=Path, help="where the images are")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder; the page lies beside it")
    arguments = parser.parse_args()
    if not arguments.minutes > 0:
        parser.error(f"minutes: must be more than 0, got {arguments.minutes:g}")
    sys.exit(0 if FirstHalfHour(arguments).run() else 1)


if __name__ == "__main__":
    main()
