"""How much faster do several processes train than one, each with one thread (on CUDA: one GPU)?

Every measurement is a whole `proard train` under torchrun, of a few epochs; its throughput is that of the fastest epoch
in metrics.jsonl, so that start-up does not count. Numbers of processes take turns.

python scripts/bench_processes.py --processes 1 2 --out docs/results/bench_processes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmark import Table, with_quartiles

from proard.common.device import resolve_device

CONFIG = """
data: {{name: {data}, limit: {limit}}}
batch_size: {batch_size}
supernet: {{family: {family}, widths: [32, 64, 128], blocks: [1, 1, 1]}}
attack: {{name: pgd, steps: {steps}}}
validation: {{every: 1000, students: 0, images: 60, calibration_images: 60, attack: {{steps: 1}}}}
phases:
  - {{name: students, epochs: {epochs}, learning_rate: 0.01, elastic: [all], objective: {{name: trades}}}}
"""


def throughput(processes: int, config: Path, place: Path) -> float:
    """Images per second of a run with so many processes."""
    run = place / f"run-{processes}"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command += ["-m", "--", "proard", "train", "--config", str(config), "--run", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode:
        sys.exit(done.stderr)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for file in sorted(run.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    return max(row["images_per_second"] for row in rows if row["kind"] == "epoch")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="the first is what others relate to")
    parser.add_argument("--data", default="fashion_mnist", help="its root is read from PROARD_DATA")
    parser.add_argument("--limit", type=int, default=640)
    parser.add_argument("--family", default="resnet", help="with the options widths and blocks")
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
    parser.add_argument("--steps", type=int, default=3, help="of the attack")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    found: dict[int, list[float]] = {count: [] for count in options.processes}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config = place / "config.yaml"
        config.write_text(CONFIG.format(**vars(options)), encoding="utf-8")
        for repetition in range(options.repetitions):
            for count in options.processes[:: 1 if repetition % 2 else -1]:
                found[count].append(throughput(count, config, place))
    table = Table(
        options.out,
        "Several processes",
        resolve_device("auto"),
        f"A small `{options.family}`, {options.limit} images of {options.data}, batches of {options.batch_size} over "
        f"all processes, 4 students a step, TRADES, PGD with {options.steps} steps; one thread a process. Medians of "
        f"{options.repetitions} runs in turns, ratios with quartiles.",
        ["processes", "images/s", "times as fast"],
    )
    one = found[options.processes[0]]
    for count, values in found.items():
        relative = [a / b for a, b in zip(values, one, strict=True)]
        row = {"processes": count, "images_per_second": values, "relative": relative}
        table.add([count, f"{median(values):.1f}", with_quartiles(relative)], row)


if __name__ == "__main__":
    main()
