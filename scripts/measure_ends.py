"""Measure the smallest, the middle and the largest student of a run on test images, whatever a search would choose.

python scripts/measure_ends.py RUN_DIR [--limit N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from proard.commands.extract import Extractor
from proard.evaluation.accuracy import Accuracy, measure
from proard.runs import components
from proard.runs.components import evaluation_batches, threat_model
from proard.runs.run import Run
from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost import Cost


def ends(space: SearchSpace) -> dict[str, Architecture]:
    """Every decision at its first, its middle and its last choice."""
    middle = {decision.name: decision.choices[len(decision.choices) // 2] for decision in space.decisions}
    return {"smallest": space.smallest(), "middle": space.canonical(middle), "largest": space.largest()}


def measure_ends(run: Path, limit: int | None = None) -> dict[str, tuple[Cost, Accuracy, Accuracy]]:
    """Cost, clean and robust accuracy (the attack of `evaluation` in the run's configuration) of the three."""
    extractor = Extractor(Run(run), quiet=True)
    config, space = extractor.config, extractor.supernet.space
    attack = components.attack(config.evaluation.attack, threat_model(config), "evaluation.attack")
    images = extractor.data.test.subset(limit, config.seed)
    results = {}
    for name, architecture in ends(space).items():
        student = extractor.supernet.extract(architecture, extractor.calibration)
        batches = evaluation_batches(images, extractor.data.input_shape, extractor.device)
        result = measure(student, batches, {"attack": attack}, seed=config.seed)
        results[name] = (space.cost(architecture), result.clean, result.robust["attack"])
    return results


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--limit", type=int, help="test images")
    arguments = parser.parse_args()
    print("| student | multiply-adds | parameters | clean % | robust % | images |")
    print("|---|---|---|---|---|---|")
    for name, (cost, clean, robust) in measure_ends(arguments.run, arguments.limit).items():
        low, high = robust.interval
        print(
            f"| {name} | {cost.multiply_adds / 1e6:.2f} M | {cost.parameters:,} | {clean} "
            f"| {robust} ({100 * low:.1f}-{100 * high:.1f}) | {clean.total} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
