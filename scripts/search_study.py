"""Is searching by prediction better than measuring as many random students? On a trained run, over several seeds.

python scripts/search_study.py runs/quickstart-... --labels 60 --verify 24 --out docs/results/search_quickstart

For every seed the run is searched anew (its own validation images, labels, predictor and NSGA-II), and as many students
as that measured are drawn at random and measured on the same images. Compared is the hypervolume of (clean accuracy,
robust accuracy, log multiply-adds), each scaled to [0, 1] over the space: larger is better. A part of the advantage may
be luck of the images that chose; so the students of both fronts are measured on test images too. OUT.json has every
number, OUT.md the table that is printed, OUT.png the fronts of the first seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import yaml
from pymoo.indicators.hv import HV

from proard.commands.search import search
from proard.common.environment import environment
from proard.common.files import write_json
from proard.data import sequential_batches
from proard.evaluation.accuracy import measure
from proard.runs.run import Run
from proard.runs.trained_run import TrainedRun
from proard.search.front import undominated
from proard.search.labeller import Labeller
from proard.search.selection import Label
from proard.supernet import Architecture, SearchSpace

Measured = dict[Architecture, Label]


def study(run: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search and random search with one seed, in a copy of the run; what was done before is read."""
    place = arguments.work / f"{run.name}-{seed}"
    done = place / "study.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    if not place.exists():
        place.mkdir(parents=True)
        shutil.copy(run / "checkpoint.pt", place)
        for checksum in run.glob("checkpoint.pt.*"):
            shutil.copy(checksum, place)
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        (place / "config.yaml").write_text(yaml.safe_dump({**config, "seed": seed}), encoding="utf-8")
    started = time.process_time()
    result = search(place, labels=arguments.labels, verify=arguments.verify, quiet=True)
    assert result is not None
    seconds = time.process_time() - started
    trained = TrainedRun(Run(place))
    space = trained.supernet.space
    found: Measured = {point.architecture: point.label for point in result.front.measured}
    rng, labeller = random.Random(seed), Labeller(trained)
    drawn: Measured = {}
    while len(drawn) < len(found):
        architecture = space.sample(rng)
        drawn.setdefault(architecture, labeller(architecture))
    on_test = {
        name: tested(trained, best(space, students), arguments.test_images)
        for name, students in (("search", found), ("random", drawn))
    }
    row = {
        "seed": seed,
        "measured": len(found),
        "seconds": seconds,
        "report": result.report,
        "hypervolume": {"search": hypervolume(space, found), "random": hypervolume(space, drawn)},
        "hypervolume_on_test": {name: hypervolume(space, students) for name, students in on_test.items()},
        "fronts": {
            name: [[space.cost(a).multiply_adds, students[a].clean, students[a].robust] for a in best(space, students)]
            for name, students in (("search", found), ("random", drawn))
        },
    }
    write_json(done, row)
    return row


def tested(trained: TrainedRun, architectures: Iterable[Architecture], count: int) -> Measured:
    """The same students on test images, under the same attack."""
    labeller = Labeller(trained)
    count = min(len(trained.data.test), count)
    images = trained.data.test.subset(count, trained.config.seed)
    batches = list(images.batches(sequential_batches(count, 256), trained.device))
    results: Measured = {}
    for architecture in architectures:
        student = trained.supernet.extract(architecture, trained.calibration)
        result = measure(student, batches, {"attack": labeller.attack}, seed=0)
        results[architecture] = Label(result.clean.value, result.robust["attack"].value)
    return results


def values(space: SearchSpace, students: Measured) -> np.ndarray:
    """Rows to be minimised, in [0, 1]: error on clean images, on adversarial ones, relative log multiply-adds."""
    low, high = (math.log(space.cost(end).multiply_adds) for end in (space.smallest(), space.largest()))
    return np.array(
        [
            [1 - label.clean, 1 - label.robust, (math.log(space.cost(a).multiply_adds) - low) / (high - low)]
            for a, label in students.items()
        ]
    )


def best(space: SearchSpace, students: Measured) -> list[Architecture]:
    """Those that no other dominates."""
    return [a for a, fine in zip(students, undominated(values(space, students)), strict=True) if fine]


def hypervolume(space: SearchSpace, students: Measured) -> float:
    """Of accuracies and cost, in [0, 1]."""
    return float(HV(ref_point=np.array([1.0, 1.0, 1.0]))(values(space, students)))


def plot(row: dict[str, Any], path: Path) -> None:
    """Both fronts of one seed: robust accuracy over multiply-adds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, marker, colour in (("search", "o", "tab:red"), ("random", "x", "0.4")):
        points = np.array(row["fronts"][name])
        axes.plot(points[:, 0] / 1e6, 100 * points[:, 2], marker, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("million multiply-adds")
    axes.set_ylabel("robust accuracy on validation images, %")
    axes.set_title(f"measured fronts after {row['measured']} measurements each (seed {row['seed']})", fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Every seed: how good predictions of unseen students are, and the hypervolumes of both fronts."""
    heads = ["seed", "labels", "measured", "tau clean", "tau robust"]
    heads += ["search", "random", "search, test images", "random, test images"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        report = row["report"]
        taus = [report["predictor"][target] for target in ("clean", "robust")]
        values = [t["compared"][t["chosen"]]["tau"] for t in taus]
        volumes = [row[key][name] for key in ("hypervolume", "hypervolume_on_test") for name in ("search", "random")]
        cells = [str(row["seed"]), str(report["labels"]), str(row["measured"]), *(f"{v:.2f}" for v in values)]
        lines.append("| " + " | ".join([*cells, *(f"{v:.3f}" for v in volumes)]) + " |")
    return lines


def main() -> None:
    """Every seed, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", type=int, default=60)
    parser.add_argument("--verify", type=int, default=24)
    parser.add_argument("--test-images", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs/search_study"))
    parser.add_argument("--out", required=True, help="without suffix")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        rows.append(study(arguments.run, seed, arguments))
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("report", "fronts")}), flush=True)
    lines = [*table(rows), ""]
    for key in ("hypervolume", "hypervolume_on_test"):
        differences = [row[key]["search"] - row[key]["random"] for row in rows]
        deviation = f" ± {stdev(differences):.4f}" if len(rows) > 1 else ""
        better = sum(difference > 0 for difference in differences)
        lines.append(
            f"{key}: search minus random {mean(differences):+.4f}{deviation}, better in {better} of {len(rows)} seeds  "
        )
    print("\n".join(lines))
    about = {name: environment()[name] for name in ("git_commit", "processor", "threads")}
    command = f"python {' '.join(sys.argv)}"
    source = f"Command: `{command}`  \nCommit {about['git_commit']}, {about['processor']}, {about['threads']} threads."
    Path(f"{arguments.out}.md").write_text("\n".join([source, "", *lines]) + "\n", encoding="utf-8")
    content = json.dumps({**about, "command": command, "rows": rows}, indent=1)
    Path(f"{arguments.out}.json").write_text(content + "\n", encoding="utf-8")
    plot(rows[0], Path(f"{arguments.out}.png"))


if __name__ == "__main__":
    main()
