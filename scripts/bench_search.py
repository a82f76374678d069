"""What a search costs after its labels, and a further budget after the search; on a run that was searched.

python scripts/bench_search.py runs/quickstart --out docs/results/bench_search.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from proard.commands.extract import Extractor
from proard.common.environment import environment
from proard.common.files import atomic_write
from proard.runs.run import Run
from proard.search.genotypes import Genotypes
from proard.search.labels import LabelStore
from proard.search.nsga2 import nsga2
from proard.search.predictor import Predictor, as_values
from proard.supernet import SearchSpace, families
from proard.supernet.budgets import Budget, Limits

ARCHITECTURES = 20_000
DEFAULT_SPACES = ("resnet", "resnet50", "mobilenetv3", "vit")
Case = tuple[str, str, float]  # what, with what, seconds


def times(work: Callable[[], object], repetitions: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def costs_of(name: str, space: SearchSpace, repetitions: int) -> list[str]:
    """How fast random architectures get their costs: ones that are new, and ones that were seen before."""
    genotypes = Genotypes(space)
    rows = genotypes.sample(ARCHITECTURES, np.random.default_rng(0))
    new = times(lambda: Genotypes(space).cost(rows, "multiply_adds"), repetitions)
    genotypes.cost(rows, "multiply_adds")
    known = times(lambda: genotypes.cost(rows, "multiply_adds"), repetitions)
    return [name, f"{space.size:.3g}", f"{ARCHITECTURES / new:,.0f}", f"{ARCHITECTURES / known:,.0f}"]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    about = environment()
    lines = [
        "# The time of a search after its labels",
        "",
        f"Command: `python {' '.join(sys.argv)}`  ",
        f"Commit {about['git_commit']}, {about['processor']}, {about['threads']} threads; medians of "
        f"{arguments.repetitions}.",
        "",
        f"Costs of {ARCHITECTURES:,} architectures, default spaces at 3x32x32.",
        "",
        "| family | size of the space | new architectures per second | known ones per second |",
        "|---|---|---|---|",
    ]
    for name in DEFAULT_SPACES:
        space = families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
        lines.append("| " + " | ".join(costs_of(name, space, arguments.repetitions)) + " |")
        print(lines[-1], flush=True)

    extractor = Extractor(Run(arguments.run), quiet=True)
    genotypes = Genotypes(extractor.space)
    store = LabelStore(extractor.run.path, extractor.labeller.fingerprint, extractor.space, 0)
    known = list(store.labels)
    fitted = times(
        lambda: Predictor(genotypes, genotypes.encode(known), as_values(list(store.labels.values())), None), 1
    )
    predictor = Predictor(genotypes, genotypes.encode(known), as_values(list(store.labels.values())), None)
    evolved = times(
        lambda: nsga2(genotypes, predictor, Limits(()), population=100, generations=100, seed=0), arguments.repetitions
    )

    def budget() -> None:
        fresh = Extractor(Run(arguments.run), quiet=True)  # from reading the checkpoint on
        low, high = (fresh.space.cost(end).multiply_adds for end in (fresh.space.smallest(), fresh.space.largest()))
        architecture, about = fresh.select(Limits((Budget("flops", (low * high) ** 0.5, "middle"),)), "robust")
        assert about["method"] == "front", about
        fresh.supernet.extract(architecture, fresh.calibration)

    further = times(budget, arguments.repetitions)
    lines += [
        "",
        f"A run with {len(known)} labels ({', '.join(dict.fromkeys(predictor.chosen.values()))} predict):",
        "",
        "| | seconds | wanted |",
        "|---|---|---|",
        f"| comparing and fitting the predictors | {fitted:.1f} | |",
        f"| NSGA-II, population 100, 100 generations | {evolved:.1f} | 20 |",
        f"| a further budget: read the run, choose from the front, calibrate | {further:.1f} | 10 |",
    ]
    print("\n".join(lines[-3:]))
    atomic_write(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
