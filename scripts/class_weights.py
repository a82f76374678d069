"""Do class weights help where classes differ in size? Trainings with and without, on an unbalanced part of a set.

python scripts/class_weights.py --out docs/results/class_weights_fashion_mnist
python scripts/class_weights.py --data image_folder --root CIFAR --most 4500 --epochs 15 \\
    --out docs/results/class_weights_cifar10_jpeg

Of the training images of class k, in their order, MOST * RATIO ** (-k / (K - 1)) are kept, so that the last class has
one for every RATIO of the first (long-tailed sets, as arXiv 1901.05555 makes them); test images stay balanced. Each
seed trains one supernet by ``recipe: strong`` without weights and one with ``class_weights: balanced``, as long: they
see the same images and cost the same. Five students of each are measured on the same test images: of all classes, and
of the three that are rarest. Every result is a row of OUT.jsonl, and OUT.md is the table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sampler_arms import PLACES
from sampler_study import EPS, FAMILY, FOLDER, RATE, places
from sampler_tables import interval, spread

from proard import train
from proard.attacks import ThreatModel, attacks
from proard.commands.extract import Extractor
from proard.common.environment import environment
from proard.config import parse_config
from proard.data import ImageSet, given_arrays, load_data
from proard.evaluation.accuracy import measure
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import evaluation_batches
from proard.runs.run import Run, read_metrics

WEIGHTS = (None, "balanced")
RARE = 3  # classes


def unbalanced(images: ImageSet, classes: int, most: int, ratio: float, seed: int) -> tuple[ImageSet, list[int]]:
    """A random part with fewer images of each class than of the one before, and how many of each."""
    generator = torch.Generator().manual_seed(seed)
    counts = [round(most * ratio ** (-k / (classes - 1))) for k in range(classes)]
    chosen = []
    for k, count in enumerate(counts):
        own = (images.labels == k).nonzero()[:, 0]
        if len(own) < count:
            raise SystemExit(f"--most {most}: class {k} has {len(own)} training images, {count} are wanted")
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return images.select(torch.cat(chosen)), counts


def run(arguments: argparse.Namespace) -> None:
    """Train and measure what is missing."""
    folder: dict[str, Any] = FOLDER if arguments.data == "image_folder" else {}
    augmentation = {**folder.get("data", {}).get("augmentation", {}), **({"crop_padding": 1} if folder else {})}
    root = {"root": str(arguments.root)} if arguments.root else {}
    data: dict[str, Any] = {"name": arguments.data, **root, **folder.get("data", {}), "augmentation": augmentation}
    phase = {"name": "students", "epochs": arguments.epochs, **RATE[arguments.data], "elastic": ["all"]}
    config: dict[str, Any] = {
        "batch_size": 64,
        **folder,
        "supernet": {**FAMILY, **folder.get("supernet", {})},
        "threat": {"norm": "linf", "eps": EPS[arguments.data]},
        "validation": {"every": 1000, "images": 64, "students": 0},
        "phases": [{**phase, "recipe": "strong"}],
        "data": data,
    }
    splits = load_data(parse_config(config).data)
    classes, tensors = len(splits.class_names), splits.test.tensors()
    file = Path(f"{arguments.out}.jsonl")
    for seed in arguments.seeds:
        part, counts = unbalanced(splits.train, classes, arguments.most, arguments.ratio, seed)
        given = (*part.tensors().values(), *tensors.values(), splits.class_names)
        for weights in WEIGHTS:
            done = [row["attack"] for row in rows(file) if (row["seed"], row["weights"]) == (seed, weights)]
            counts_by_attack = {"pgd20": arguments.test_images, "autoattack": arguments.autoattack}
            wanted = {name: count for name, count in counts_by_attack.items() if count and name not in done}
            if not wanted:
                continue
            path = Path(arguments.work) / arguments.data / f"{weights}-{seed}"
            settings = {**config, "seed": seed, "class_weights": weights}
            there = (path / "checkpoint.pt").exists()
            if not there or not load_checkpoint(path / "checkpoint.pt")["finished"]:
                train(settings, run=path, data=given, quiet=True, resume=there)
            extractor = Extractor(Run(path, None, given_arrays(given)), quiet=True)
            epochs = [row for row in read_metrics(Run(path).metrics) if row["kind"] == "epoch"]
            about = environment()
            for name, count in wanted.items():
                row = {
                    "seed": seed,
                    "weights": weights,
                    "attack": name,
                    "counts": counts,
                    "epochs": arguments.epochs,
                    "seconds": sum(row["processor_seconds"] for row in epochs),
                    "multiply_adds": sum(sum(row["compute"].values()) for row in epochs),
                    "students": measured(extractor, seed, classes, name, count),
                    "commit": about["git_commit"],
                    "processor": about["processor"],
                    "threads": torch.get_num_threads(),
                    "command": shlex.join(["python", *sys.argv]),
                }
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
                file.with_suffix(".md").write_text("\n".join(tables(rows(file))), encoding="utf-8")


def measured(extractor: Extractor, seed: int, classes: int, name: str, count: int) -> dict[str, dict[str, float]]:
    """Clean and robust accuracy of calibrated students, on balanced test images and on those of rare classes.

    They are five, and three of them under AutoAttack.
    """
    threat = ThreatModel("linf", extractor.config.threat.eps)
    kind, options = ("autoattack", {}) if name == "autoattack" else ("pgd", {"steps": 20})
    attack = attacks.build(kind, options, threat=threat, seed=0, targeted=False)
    images = extractor.data.test.subset(min(count, len(extractor.data.test)), 0)
    is_rare = images.labels >= classes - RARE
    parts = [images.select(some.nonzero()[:, 0]) for some in (is_rare, ~is_rare)]
    results: dict[str, dict[str, float]] = {}
    for place, architecture in places(extractor.supernet.space, seed).items():
        if name == "autoattack" and place not in ("smallest", "middle", "largest"):
            continue
        student = extractor.supernet.extract(architecture, extractor.calibration)
        results[place] = {"multiply_adds": extractor.supernet.space.cost(architecture).multiply_adds}
        loaded = (evaluation_batches(part, extractor.data.input_shape, extractor.device) for part in parts)
        rare, others = (measure(student, batches, {"attack": attack}, seed=0) for batches in loaded)
        for part, of in (("all", (rare, others)), ("rare", (rare,))):
            total = sum(m.clean.total for m in of)
            results[place] |= {
                f"{part}, clean": sum(m.clean.correct for m in of) / total,
                f"{part}, robust": sum(m.robust["attack"].correct for m in of) / total,
                f"{part}, images": total,
            }
    return results


def rows(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


COLUMNS = {  # head: places, or all five, and what was measured
    "smallest": (("smallest",), "all, robust"),
    "middle": (("middle",), "all, robust"),
    "largest": (("largest",), "all, robust"),
    "mean of all": (PLACES, "all, robust"),
    "clean, mean": (PLACES, "all, clean"),
    "rare classes": (PLACES, "rare, robust"),
    "rare classes, clean": (PLACES, "rare, clean"),
}


def tables(results: list[dict[str, Any]]) -> list[str]:
    """Markdown, a table for every attack."""
    attacked = dict.fromkeys(row["attack"] for row in results)
    return [
        line for name in attacked for line in (f"{name}:", "", *table([r for r in results if r["attack"] == name]), "")
    ]


def table(results: list[dict[str, Any]]) -> list[str]:
    """Accuracies in percent, and paired differences with a 95 % interval over seeds (Student's t)."""
    lines = ["| class weights | seeds | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (2 + len(COLUMNS))]
    by_weights = {weights: {row["seed"]: row for row in results if row["weights"] == weights} for weights in WEIGHTS}

    def values(row: dict[str, Any]) -> list[float]:
        students = row["students"]
        return [100 * mean(students[p][name] for p in some if p in students) for some, name in COLUMNS.values()]

    for weights, seeds in by_weights.items():
        if seeds:
            cells = [spread(list(column)) for column in zip(*map(values, seeds.values()), strict=True)]
            lines.append("| " + " | ".join([weights or "none", str(len(seeds)), *cells]) + " |")
    without, balanced = by_weights.values()
    if common := sorted(set(without) & set(balanced)):
        pairs = [zip(values(balanced[seed]), values(without[seed]), strict=True) for seed in common]
        columns = zip(*([b - w for b, w in pair] for pair in pairs), strict=True)
        lines.append("| " + " | ".join(["difference", str(len(common)), *map(interval, map(list, columns))]) + " |")
    return lines


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=EPS, default="fashion_mnist")
    parser.add_argument("--root", type=Path, help="where the images are")
    parser.add_argument("--most", type=int, default=600, help="training images of the first class")
    parser.add_argument("--ratio", type=float, default=20.0, help="of the first class's images to the last one's")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--autoattack", type=int, default=0, help="test images for AutoAttack on three of the students")
    parser.add_argument("--work", default="runs/class_weights", help="where runs are kept")
    parser.add_argument("--out", required=True, help="the table and its rows, without suffix")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
