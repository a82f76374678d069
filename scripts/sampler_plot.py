"""One picture of the sampler study: robust accuracy over compute, a line for every arm.

python scripts/sampler_plot.py docs/results/compute_fashion_mnist.jsonl --out docs/results/compute.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sampler_arms import ARMS, COMPUTE
from sampler_tables import by_arm, robust

Points = dict[str, list[tuple[float, list[float]]]]


def points(rows: list[dict[str, Any]], place: str) -> Points:
    """By arm of the study, whatever its share of compute: 10^12 multiply-adds, and robust accuracies in percent."""
    found: Points = {}
    for arm, seeds in by_arm(rows, "students").items():
        if arm not in ARMS or not seeds:
            continue
        words = max((words for words in COMPUTE if arm.endswith(words)), key=len)
        spent = mean(entry["multiply_adds"] for entry in seeds.values()) / 1e12
        name = arm.removesuffix(words)
        found.setdefault(name, []).append((spent, [robust(entry, place) for entry in seeds.values()]))
    return {name: sorted(values) for name, values in found.items()}


def draw(axes: Axes, lines: Points, title: str) -> None:
    """A line for every arm; bars are the standard deviation over seeds."""
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for name, values in lines.items():
        deviations = [stdev(v) if len(v) > 1 else 0.0 for _, v in values]
        seeds = max(len(v) for _, v in values)
        axes.errorbar(
            [spent for spent, _ in values],
            [mean(v) for _, v in values],
            deviations,
            marker="o",
            markersize=4,
            capsize=2,
            label=f"{name} ({seeds})",
        )
    axes.set_xlabel("10^12 multiply-adds of training, the teacher's answers included")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def main() -> None:
    """Parse, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw(left, points(rows, "mean"), "mean of five students")
    draw(right, points(rows, "smallest"), "the smallest student")
    left.set_ylabel("accuracy under PGD-20, %")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, title="arm (seeds)"
    )
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
