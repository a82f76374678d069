"""One picture of the sampler study, from its rows; and a table of the arms that share attack work, on standard output.

Arms are compared with the base arm of the same seed and the same file: one file holds the rows of one kind of machine.

python scripts/sampler_plot.py docs/results/samplers_fashion_mnist*.jsonl --out docs/results/samplers.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sampler_study import ALONE, BASE, CRAFTING, PLACES, by_arm, interval, robust

SHOWN = {
    ALONE: ("black", ":", "each student trained alone"),
    "epoch-uniform": ("0.55", "-.", "epoch-uniform"),
    "uniform": ("tab:blue", "--", "uniform"),
    BASE: ("tab:orange", "--", "sandwich"),
    "robustness": ("tab:red", "-", "robustness"),
}
Arms = dict[str, dict[int, dict[str, Any]]]


def deviation(values: list[float]) -> float:
    """Standard deviation, 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def draw_samplers(axes: Axes, arms: Arms) -> None:
    """Robust accuracy over multiply-adds, an arm per line; the seeds that all shown arms have."""
    shown = {arm: style for arm, style in SHOWN.items() if arms.get(arm)}
    seeds = sorted(set.intersection(*(set(arms[arm]) for arm in shown)))
    for index, (arm, (colour, line, label)) in enumerate(shown.items()):
        entries = [arms[arm][seed] for seed in seeds]
        costs = [mean(entry["students"][place]["multiply_adds"] for entry in entries) / 1e6 for place in PLACES]
        values = [[robust(entry, place) for entry in entries] for place in PLACES]
        axes.errorbar(
            [cost * 1.015**index for cost in costs],  # beside each other, so that the bars can be told apart
            [mean(v) for v in values],
            [deviation(v) for v in values],
            color=colour,
            linestyle=line,
            marker="o",
            markersize=4,
            capsize=2,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xticks(costs, [f"{cost:.1f}" for cost in costs])
    axes.minorticks_off()
    axes.set_xlabel("million multiply-adds of the student")
    axes.set_ylabel("accuracy under PGD-20, %")
    axes.set_title(f"who trains in a step ({len(seeds)} seeds, mean and standard deviation)", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def paired(files: list[Arms], arm: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of all files and seeds that have both: what the arm gave, and what the base gave."""
    return [(arms[arm][s], arms[BASE][s]) for arms in files for s in arms.get(arm, {}) if s in arms.get(BASE, {})]


def draw_crafting(axes: Axes, files: list[Arms]) -> None:
    """Robust accuracy of the smallest student and on average, over training time relative to own attacks."""
    for arm in CRAFTING:
        pairs = paired(files, arm)
        if not pairs:
            continue
        time = mean(one["seconds"] / base["seconds"] for one, base in pairs)
        for place, marker, colour in (("mean", "o", "tab:purple"), ("smallest", "v", "tab:green")):
            differences = [robust(one, place) - robust(base, place) for one, base in pairs]
            axes.errorbar(
                100 * time,
                mean(differences),
                deviation(differences),
                marker=marker,
                color=colour,
                linestyle="",
                capsize=2,
            )
            if place == "mean":
                label = arm if len(pairs) == 1 else f"{arm} ({len(pairs)} seeds)"
                axes.annotate(label, (100 * time, mean(differences)), (4, 4), textcoords="offset points", fontsize=7)
    axes.plot([], [], "o", color="tab:purple", label="mean of five students")
    axes.plot([], [], "v", color="tab:green", label="smallest student")
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axhline(-1, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=2)
    axes.set_yticks([-50, -20, -10, -5, -2, -1, 0, 1], ["-50", "-20", "-10", "-5", "-2", "-1", "0", "1"])
    axes.minorticks_off()
    axes.set_xlabel("processor time of training, % of each student's own attack")
    axes.set_ylabel("points of PGD-20 from own attacks")
    axes.set_title("sharing attack work", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def table(files: list[Arms]) -> list[str]:
    """Paired differences of every sharing arm from the base arm, all files and seeds together."""
    heads = ["arm", "seeds", *PLACES, "mean", "processor time"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for arm in CRAFTING:
        if pairs := paired(files, arm):
            cells = [
                interval([robust(one, place) - robust(base, place) for one, base in pairs])
                for place in (*PLACES, "mean")
            ]
            time = mean(one["seconds"] / base["seconds"] for one, base in pairs)
            lines.append("| " + " | ".join([arm, str(len(pairs)), *cells, f"{100 * time:.0f} %"]) + " |")
    return lines


def main() -> None:
    """Read the rows, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = [
        by_arm([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], "students")
        for path in arguments.rows
    ]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_samplers(left, files[0])
    draw_crafting(right, files)
    figure.savefig(arguments.out, dpi=130)
    print("\n".join(table(files)))


if __name__ == "__main__":
    main()
