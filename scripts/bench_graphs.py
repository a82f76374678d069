"""What do CUDA graphs save? The trainer's own step of the smallest and of the largest student, with and without them.

Both take turns on one trainer, batch 128, optimizer and teacher included; ratios are medians over repetitions.

python scripts/bench_graphs.py --out docs/results/bench_graphs
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark import CIFAR10_SMALL, Table, Way, interleaved, ratios, train_on, trainer, with_quartiles

from proard.supernet import Architecture
from proard.training import Trainer
from proard.training.graphs import WARM_UP

STEPS = 10  # of a measurement
COLUMNS = ("supernet", "attack", "student", "10^6 multiply-adds", "plain ms", "graph ms", "plain / graph", "peak MB")
CASES: dict[str, dict[str, Any]] = {
    "cifar10_small": {"family": "resnet", "options": CIFAR10_SMALL, "attack": {"name": "nfgsm"}},
    "resnet": {"family": "resnet"},
    "resnet50": {"family": "resnet50"},
}


def ways(made: Trainer, student: Architecture) -> dict[str, Way]:
    """Some steps without graphs, and with them."""
    step, graphs = train_on(made, [student]), made.graphs

    def steps(with_graphs: bool) -> None:
        made.graphs = graphs if with_graphs else None
        for _ in range(STEPS):
            step()

    for _ in range(WARM_UP + 1):  # the last one is captured
        steps(True)
    return {"plain": lambda: steps(False), "graph": lambda: steps(True)}


def main() -> None:
    """Measure all cases on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_graphs.py: there is no CUDA device")
    table = Table(arguments.out, "Steps as CUDA graphs", torch.device("cuda"), __doc__.split("\n\n")[1], COLUMNS)
    for name in arguments.cases:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as place:
            made = trainer(Path(place), arguments.batch_size, device="cuda", **case)
            space = made.supernet.space
            for end, student in (("smallest", space.smallest()), ("largest", space.largest())):
                torch.cuda.reset_peak_memory_stats()
                seconds = interleaved(ways(made, student), arguments.repetitions, made.device)
                plain, graph = (1000 * median(seconds[way]) / STEPS for way in ("plain", "graph"))
                cost = space.cost(student).multiply_adds / 1e6
                row = {"supernet": name, "student": end, "plain_ms": plain, "graph_ms": graph}
                faster = with_quartiles(ratios(seconds, "plain", "graph"))
                peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
                attack = case.get("attack", {"name": "pgd, 10 steps"})["name"]
                table.add((name, attack, end, f"{cost:.1f}", f"{plain:.1f}", f"{graph:.1f}", faster, peak), row)


if __name__ == "__main__":
    main()
