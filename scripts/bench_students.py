"""What does one more student cost, in a step and after training? Time and memory.

A step with 1, 2, 4 and 8 students: the largest alone, then with random ones. Time is that of the trainer's own step;
memory is the peak of a process of its own (of the device, on CUDA) that does nothing but three such steps. With
``--run``, also what a further budget costs of a trained run: choose, cut, calibrate, measure, write.

python scripts/bench_students.py --run runs/quickstart --out docs/results/bench_students
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import Table, interleaved, ratios, train_on, trainer, with_quartiles

from proard import extract
from proard.common.device import keep_freed_memory, peak_memory, resolve_device
from proard.supernet import Architecture, SearchSpace

COUNTS = (1, 2, 4, 8)
BUDGETS = 5


def students(space: SearchSpace, count: int) -> list[Architecture]:
    """The largest, and random ones: the same few wherever there are more of them."""
    generator = random.Random(0)
    return [space.largest(), *(space.sample(generator) for _ in range(count - 1))]


def memory_of(count: int, options: argparse.Namespace) -> int:
    """Bytes of a fresh process that takes steps with so many students."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    return int(json.loads(done.stdout.splitlines()[-1]))


def report_memory(options: argparse.Namespace) -> None:
    """What the fresh process does: steps, then one line with its peak."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        made = trainer(Path(place), options.batch_size, family=options.family, steps=2, device=options.device)
        step = train_on(made, students(made.supernet.space, options.only))
        for _ in range(3):
            step()
    print(peak_memory(made.device))


def step_table(table: Table, options: argparse.Namespace) -> None:
    """A row for every number of students."""
    with tempfile.TemporaryDirectory() as place:
        common: dict[str, Any] = {"family": options.family, "steps": options.steps, "device": options.device}
        made = trainer(Path(place), options.batch_size, **common)
        space = made.supernet.space
        ways = {str(count): train_on(made, students(space, count)) for count in COUNTS}
        for step in ways.values():
            step()  # the first is slower
        seconds = interleaved(ways, options.repetitions, made.device)
    costs = {count: sum(space.cost(student).multiply_adds for student in students(space, count)) for count in COUNTS}
    memory = {count: memory_of(count, options) for count in COUNTS}
    for count in COUNTS:
        relative = ratios(seconds, str(count), "1")
        numbers = {
            "students": count,
            "multiply_adds": costs[count],
            "seconds": seconds[str(count)],
            "relative": relative,
            "peak_memory_bytes": memory[count],
        }
        cells = [count, f"{costs[count] / costs[1]:.2f}", f"{1000 * median(seconds[str(count)]):.0f}"]
        cells += [with_quartiles(relative), f"{memory[count] / 2**20:.0f}", f"{memory[count] / memory[1]:.2f}"]
        table.add(cells, numbers)


def extract_table(table: Table, run: Path) -> None:
    """Seconds of one command for one budget, and for several."""
    table.head(["budgets in one `extract`", "seconds", "seconds per further budget"])
    first = 0.0
    for count in (1, BUDGETS):
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            extract([("flops", f"{500_000 * 2**n}") for n in range(count)], run=run, out=Path(out) / "students")
            seconds = time.perf_counter() - started
        further = f"{(seconds - first) / (count - 1):.1f}" if count > 1 else ""
        first = first or seconds
        table.add([count, f"{seconds:.1f}", further], {"budgets": count, "seconds": seconds})


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="of the attack")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--run", type=Path, help="a trained run, for the cost of a further budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        report_memory(options)
        return
    table = Table(
        options.out,
        "What one more student costs",
        resolve_device(options.device),
        f"`{options.family}`, batches of {options.batch_size} images of 32x32, RSLAD, PGD with {options.steps} steps. "
        "The first student is the largest, the others are random. Medians of "
        f"{options.repetitions} repetitions in which all take turns, ratios with quartiles.",
        ["students in a step", "multiply-adds, relative", "ms", "time, relative", "peak MiB", "memory, relative"],
    )
    step_table(table, options)
    if options.run is not None:
        extract_table(table, options.run)


if __name__ == "__main__":
    main()
