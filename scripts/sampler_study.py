"""Which students should train in a step? Samplers, shared attacks and conflict options, compared at equal compute.

python scripts/sampler_study.py --data digits --seeds 0 1 2 3 4 --out docs/results/samplers_digits
python scripts/sampler_study.py --data fashion_mnist --seeds 0 1 2 --out docs/results/samplers_fashion_mnist
python scripts/sampler_study.py --out docs/results/samplers_fashion_mnist --arms sandwich robustness --autoattack 50

For every seed one teacher (the largest student, TRADES) is trained, then from its weights every arm: the same images,
epochs, students per step and attack steps, with RSLAD; five students of each (the smallest, three of middle cost, the
largest: the same ones in every arm) are calibrated and measured on the same test images. ``alone`` trains each of the
five by itself from random weights, for as many epochs, with the same teacher. Every result is a row of OUT.jsonl, with
the commit and command, written as it comes; what is there is not measured again, so that the study may be spread over
several sittings and processes. OUT.md is the table. Seconds are of the processor, so that other work on the machine
does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from proard import train
from proard.attacks import Attack, ThreatModel, attacks
from proard.commands.extract import Extractor
from proard.common.environment import environment
from proard.evaluation.accuracy import measure
from proard.runs.components import evaluation_batches
from proard.runs.run import Run
from proard.supernet import Architecture, SearchSpace

WIDTHS = {
    "digits": [16, 32, 64],
    "fashion_mnist": [16, 32, 64],
    "cifar10": [64, 128, 256],
    "image_folder": [16, 32, 64],
}
EPS = {"digits": 0.1, "fashion_mnist": 0.1, "cifar10": 8 / 255, "image_folder": 8 / 255}
EPOCHS = {"digits": (15, 10), "fashion_mnist": (10, 10), "cifar10": (30, 30), "image_folder": (10, 10)}
IMAGES = {"digits": None, "fashion_mnist": 2400, "cifar10": None, "image_folder": 2400}
PLACES = ("smallest", "low", "middle", "high", "largest")
SANDWICH = {"name": "sandwich", "students": 4}
ROBUSTNESS = {"name": "robustness", "students": 4}
# What differs from four students per step by the sandwich rule, each attacked by itself, gradients summed.
SAMPLERS: dict[str, dict[str, Any]] = {
    "epoch-uniform": {"sampler": {"name": "epoch-uniform", "students": 4}},
    "uniform": {"sampler": {"name": "uniform", "students": 4}},
    "sandwich": {},
    "robustness": {"sampler": ROBUSTNESS},
    "robustness, best": {"sampler": ROBUSTNESS | {"prefer": "best"}},
    "robustness, as drawn": {"sampler": ROBUSTNESS | {"candidates": 1}},
    "robustness, of 8": {"sampler": ROBUSTNESS | {"candidates": 8}},
    "robustness, of 8 on 16": {"sampler": ROBUSTNESS | {"candidates": 8, "scored_images": 16}},
    "robustness, no gap": {"sampler": ROBUSTNESS | {"floor": 1.0, "candidates": 1}},
    "robustness, ends in turn": {"sampler": ROBUSTNESS | {"largest_every": 2}},
}
CRAFTING: dict[str, dict[str, Any]] = {
    "own, 3 steps": {"crafting": {"name": "own", "steps": 3}},
    "own, 2 steps": {"crafting": {"name": "own", "steps": 2}},
    "own, 1 step": {"crafting": {"name": "own", "steps": 1}},
    "shared, largest": {"crafting": {"name": "shared", "source": "largest"}},
    "shared, drawn": {"crafting": {"name": "shared", "source": "drawn"}},
    "refined 1, largest": {"crafting": {"name": "refined", "steps": 1}},
    "refined 2, largest": {"crafting": {"name": "refined", "steps": 2}},
    "refined 2, drawn": {"crafting": {"name": "refined", "steps": 2, "source": "drawn"}},
    "refined 2, previous": {"crafting": {"name": "refined", "steps": 2, "source": "previous"}},
    "refined 2, smallest": {"crafting": {"name": "refined", "steps": 2, "source": "smallest"}},
    "refined 1, smallest": {"crafting": {"name": "refined", "steps": 1, "source": "smallest"}},
    "robustness, refined 2, smallest": {
        "sampler": ROBUSTNESS,
        "crafting": {"name": "refined", "steps": 2, "source": "smallest"},
    },
    "robustness, refined 1, smallest": {
        "sampler": ROBUSTNESS,
        "crafting": {"name": "refined", "steps": 1, "source": "smallest"},
    },
}
CONFLICT: dict[str, dict[str, Any]] = {
    "weights averaged": {"ema_decay": 0.98},
    "joint teacher": {"teacher": {"mode": "joint"}},
}
ARMS = {**SAMPLERS, **CRAFTING, **CONFLICT}
ALONE = "alone"
BASE = "sandwich"


class Study:
    """Trains, measures and remembers.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.rows_file = Path(f"{arguments.out}.jsonl")
        self.work = Path(arguments.work) / arguments.data
        self.threat = ThreatModel("linf", EPS[arguments.data])
        self.teacher_epochs, self.epochs = EPOCHS[arguments.data]

    # -----------------------------------------------------------------------------------------------------------------
    # What is done, and what is missing

    def run(self) -> None:
        """Everything that is missing, seed by seed."""
        for seed in self.arguments.seeds:
            teacher = self.teacher(seed)
            for arm in self.arguments.arms:
                if arm == ALONE:
                    self.students_alone(seed, teacher)
                else:
                    self.arm(arm, seed, teacher)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far; another process may be adding some."""
        lines = self.rows_file.read_text(encoding="utf-8").splitlines() if self.rows_file.exists() else []
        return [json.loads(line) for line in lines]

    def missing(self, measured: str, arm: str, seed: int, place: str | None = None) -> bool:
        """Whether there is no such row yet."""
        key = {"measured": measured, "arm": arm, "seed": seed, "place": place}
        return not any(all(row[name] == value for name, value in key.items()) for row in self.rows())

    def remember(self, **row: Any) -> None:
        """Append a row, and write the table anew."""
        about = environment()
        row |= {name: about[source] for name, source in {"commit": "git_commit", "processor": "processor"}.items()}
        command = f"python scripts/sampler_study.py --data {self.arguments.data} --seeds {row['seed']}"
        command += f" --arms '{row['arm']}'" if row["arm"] != "teacher" else ""
        command += f" --autoattack {self.arguments.autoattack}" if row["measured"] == "autoattack" else ""
        row |= {"threads": torch.get_num_threads(), "command": command}
        self.rows_file.parent.mkdir(parents=True, exist_ok=True)
        with self.rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        Path(f"{self.arguments.out}.md").write_text("\n".join(tables(self.rows())) + "\n", encoding="utf-8")
        shown = {k: v for k, v in row.items() if k in ("measured", "arm", "seed", "place", "robust", "seconds")}
        print(json.dumps(shown), flush=True)

    # -----------------------------------------------------------------------------------------------------------------
    # Trainings

    def config(self, seed: int) -> dict[str, Any]:
        """What all trainings share."""
        name = self.arguments.data
        data: dict[str, Any] = {"name": name, "limit": IMAGES[name]}
        if self.arguments.root:
            data["root"] = str(self.arguments.root)
        if name == "image_folder":
            data["image_size"] = 32
        widths = WIDTHS[name]
        return {
            "seed": seed,
            "data": data,
            "supernet": {
                "family": "resnet",
                "widths": widths,
                "blocks": [1, 1, 1],
                "depth_choices": [0, 1],
                "width_choices": [0.5, 0.75, 1.0],
                "expand_choices": [0.5, 0.75, 1.0],
            },
            "threat": {"norm": "linf", "eps": self.threat.eps},
            "attack": {"steps": 5},
            "batch_size": 64,
            "validation": {"every": 1000, "images": 64, "students": 0},
            "evaluation": {"limit": 100},
        }

    def teacher(self, seed: int) -> Path:
        """The run that trained the largest student."""
        place = self.work / f"teacher-{seed}"
        phase = {
            "name": "teacher",
            "epochs": self.teacher_epochs,
            "learning_rate": 0.1,
            "objective": {"name": "trades", "beta": 3},
        }
        seconds, energy = self.trained({**self.config(seed), "phases": [phase]}, place)
        if self.missing("students", "teacher", seed):
            extractor = Extractor(Run(place), quiet=True)
            largest = {"largest": extractor.supernet.space.largest()}
            self.remember(
                measured="students",
                arm="teacher",
                seed=seed,
                place=None,
                seconds=seconds,
                kwh=energy,
                students=self.measured(extractor, largest),
            )
        return place

    def arm(self, arm: str, seed: int, teacher: Path) -> None:
        """One supernet, and its five students."""
        changed = ARMS[arm]
        config = self.config(seed)
        config["supernet"]["weights"] = str(teacher)
        config |= {key: changed[key] for key in ("ema_decay", "teacher") if key in changed}
        phase = {
            "name": "students",
            "epochs": self.epochs,
            "learning_rate": 0.1,
            "elastic": ["all"],
            "sampler": SANDWICH,
        }
        phase |= {key: changed[key] for key in ("sampler", "crafting") if key in changed}
        place = self.work / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
        attacked = not self.arguments.autoattack or not self.missing("autoattack", arm, seed)
        if attacked and not self.missing("students", arm, seed):
            return
        seconds, energy = self.trained({**config, "phases": [phase]}, place)
        if self.missing("students", arm, seed):
            extractor = Extractor(Run(place), quiet=True)
            students = self.measured(extractor, places(extractor.supernet.space, seed))
            self.remember(
                measured="students", arm=arm, seed=seed, place=None, seconds=seconds, kwh=energy, students=students
            )
        if not attacked:
            extractor = Extractor(Run(place), quiet=True)
            students = self.measured(extractor, places(extractor.supernet.space, seed), autoattack=True)
            self.remember(measured="autoattack", arm=arm, seed=seed, place=None, students=students)

    def students_alone(self, seed: int, teacher: Path) -> None:
        """The five students, each trained by itself from random weights."""
        extractor = Extractor(Run(teacher), quiet=True)
        directory = teacher / "students" / "student"
        if not directory.exists():
            extractor.write(None, teacher / "students", "robust", ())
        for place, architecture in places(extractor.supernet.space, seed).items():
            path = self.work / f"{ALONE}-{place}-{seed}"
            phase = {"name": "student", "epochs": self.epochs, "learning_rate": 0.1, "objective": {"name": "rslad"}}
            attacked = not self.arguments.autoattack or not self.missing("autoattack", ALONE, seed, place)
            if attacked and not self.missing("students", ALONE, seed, place):
                continue
            config = {
                **self.config(seed),
                "mode": "student",
                "student": {"architecture": dict(architecture)},
                "teacher": {"source": str(directory)},
                "phases": [phase],
            }
            seconds, energy = self.trained(config, path)
            if self.missing("students", ALONE, seed, place):
                students = self.measured(Extractor(Run(path), quiet=True), {place: architecture})
                self.remember(
                    measured="students",
                    arm=ALONE,
                    seed=seed,
                    place=place,
                    seconds=seconds,
                    kwh=energy,
                    students=students,
                )
            if not attacked:
                students = self.measured(Extractor(Run(path), quiet=True), {place: architecture}, autoattack=True)
                self.remember(measured="autoattack", arm=ALONE, seed=seed, place=place, students=students)

    def trained(self, config: dict[str, Any], place: Path) -> tuple[float, float | None]:
        """Train unless that was done: processor seconds and kilowatt hours."""
        record = place / "cost.json"
        if not record.exists():
            started = time.process_time()
            train(config, run=place, quiet=True, resume=(place / "checkpoint.pt").exists())
            # A training that was interrupted has spent more than this process saw.
            energy = json.loads((place / "energy.json").read_text(encoding="utf-8")).get("kwh")
            record.write_text(json.dumps([time.process_time() - started, energy]), encoding="utf-8")
        seconds, energy = json.loads(record.read_text(encoding="utf-8"))
        return seconds, energy

    def measured(
        self, extractor: Extractor, architectures: dict[str, Architecture], autoattack: bool = False
    ) -> dict[str, Any]:
        """Clean and robust accuracy of calibrated students on test images."""
        attack: Attack
        if autoattack:
            count = self.arguments.autoattack
            attack = attacks.build("autoattack", {}, threat=self.threat, seed=0, targeted=False)
        else:
            count = self.arguments.test_images
            attack = attacks.build("pgd", {"steps": 20}, threat=self.threat, seed=0, targeted=False)
        images = extractor.data.test.subset(min(count, len(extractor.data.test)), 0)
        results: dict[str, Any] = {}
        for place, architecture in architectures.items():
            student = extractor.supernet.extract(architecture, extractor.calibration)
            batches = evaluation_batches(images, extractor.data.input_shape, extractor.device)
            result = measure(student, batches, {"attack": attack}, seed=0)
            results[place] = {
                "multiply_adds": extractor.supernet.space.cost(architecture).multiply_adds,
                "clean": result.clean.value,
                "robust": result.robust["attack"].value,
                "images": result.clean.total,
                "attack": attack.name,
            }
        return results


def places(space: SearchSpace, seed: int) -> dict[str, Architecture]:
    """The smallest, the largest, and three random students between them, at equal ratios of multiply-adds."""
    rng = random.Random(seed)
    some = [space.sample(rng) for _ in range(1000)]
    low, high = (space.cost(end).multiply_adds for end in (space.smallest(), space.largest()))

    def nearest_to(part: float) -> Architecture:
        return min(some, key=lambda a: abs(math.log(space.cost(a).multiply_adds / low) - part * math.log(high / low)))

    middle = {name: nearest_to((index + 1) / 4) for index, name in enumerate(PLACES[1:-1])}
    return {PLACES[0]: space.smallest(), **middle, PLACES[-1]: space.largest()}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def by_arm(rows: list[dict[str, Any]], measured: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm to seed to ``{"students": ..., "seconds": ...}``; the parts of ``alone`` are put together, complete ones."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["measured"] != measured:
            continue
        entry = arms.setdefault(row["arm"], {}).setdefault(row["seed"], {"students": {}, "seconds": 0.0, "kwh": 0.0})
        entry["students"] |= row["students"]
        for name in ("seconds", "kwh"):
            entry[name] += row.get(name) or 0.0
    return {
        arm: {seed: e for seed, e in seeds.items() if arm == "teacher" or len(e["students"]) == len(PLACES)}
        for arm, seeds in arms.items()
    }


def robust(entry: dict[str, Any], place: str, name: str = "robust") -> float:
    """Accuracy in percent at one place, or the mean over all."""
    chosen = PLACES if place == "mean" else (place,)
    return 100 * mean(entry["students"][p][name] for p in chosen)


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: what every arm gives, and its difference from the base arm."""
    lines: list[str] = []
    for measured, title in (("students", "PGD-20"), ("autoattack", "AutoAttack")):
        arms = by_arm(rows, measured)
        teachers = arms.pop("teacher", {})
        order = [arm for arm in dict.fromkeys([ALONE, *ARMS, *arms]) if arms.get(arm)]  # last, arms that are gone
        if not order:
            continue
        count = next(iter(next(iter(arms[order[0]].values()))["students"].values()))["images"]
        lines += [f"### {title}, % of {count} test images", ""]
        heads = ["arm", "seeds", *PLACES, "mean", "clean, mean"] + (["CPU s", "Wh"] if measured == "students" else [])
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for arm in order:
            entries = list(arms[arm].values())
            cells = [spread([robust(e, place) for e in entries]) for place in (*PLACES, "mean")]
            cells.append(spread([robust(e, "mean", "clean") for e in entries]))
            if measured == "students":
                cells += [f"{mean(e['seconds'] for e in entries):.0f}", f"{1000 * mean(e['kwh'] for e in entries):.2f}"]
            lines.append("| " + " | ".join([arm, str(len(entries)), *cells]) + " |")
        if measured == "students" and teachers:
            entries = list(teachers.values())
            seconds = mean(entry["seconds"] for entry in entries)
            accuracy = spread([robust(entry, "largest") for entry in entries])
            lines += [
                "",
                f"Teachers ({len(entries)}): {accuracy} robust, {seconds:.0f} CPU s each, not in the rows above.",
            ]
        lines += [
            "",
            f"Paired differences from `{BASE}`, points of {title}, with a 95 % interval over seeds (Student's t)",
        ]
        heads = ["arm", "seeds", *PLACES, "mean"]
        lines += ["", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for arm in order:
            common = sorted(set(arms[arm]) & set(arms.get(BASE, {})))
            if arm == BASE or not common:
                continue
            cells = []
            for place in (*PLACES, "mean"):
                cells.append(interval([robust(arms[arm][s], place) - robust(arms[BASE][s], place) for s in common]))
            lines.append("| " + " | ".join([arm, str(len(common)), *cells]) + " |")
        lines.append("")
    gone = dict.fromkeys(row["arm"] for row in rows if row["arm"] not in ("teacher", ALONE, *ARMS))
    if gone:
        lines += [f"Options that are gone, whose code commit 4dcd4b2 has: {'; '.join(gone)}.", ""]
    return lines


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def interval(values: list[float]) -> str:
    """Mean of paired differences, and the half width of its 95 % interval (Student's t)."""
    from scipy.stats import t  # comes with scikit-learn

    if len(values) < 2:
        return f"{values[0]:+.1f}"
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.1f} ± {half:.1f}"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=WIDTHS, default="fashion_mnist")
    parser.add_argument("--root", type=Path, help="where the images are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=[ALONE, *ARMS], default=[ALONE, *ARMS])
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--autoattack", type=int, default=0, help="test images for AutoAttack; 0 leaves it out")
    parser.add_argument("--work", default="runs/samplers", help="where runs are kept")
    parser.add_argument("--out", required=True, help="the tables and their rows, without suffix")
    Study(parser.parse_args()).run()


if __name__ == "__main__":
    main()
