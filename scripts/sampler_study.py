"""Which students should train in a step? Samplers and cheaper attacks, compared at equal compute.

python scripts/sampler_study.py --data fashion_mnist --limit 2400 --out docs/results/compute_fashion_mnist
python scripts/sampler_study.py --data digits --seeds 0 1 2 3 4 --out docs/results/compute_digits
python scripts/sampler_study.py --out docs/results/compute_fashion_mnist --arms sandwich uniform-1 --autoattack 200

For every seed one teacher (the largest student, TRADES) is trained, then from its weights every arm with RSLAD: the
same images, and as many epochs as make its multiply-adds those of the base arm times the arm's ``compute``. They are
counted as the networks run, and a row has them beside the seconds of the processor. Five students of each (the
smallest, three of middle cost, the largest: the same ones in every arm) are calibrated and measured on the same test
images. ``alone`` trains each of the five by itself from random weights, with the same teacher, for the epochs of the
arm it is compared with, and ``alone, its share`` for a fifth of that arm's multiply-adds. Every result is a row of
OUT.jsonl, with the commit and command, written as it comes; what is there is not measured again, so that the study may
be spread over several sittings and processes. OUT.md is the table.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sampler_arms import ALONE, ARMS, BASE, PLACES, SHARE
from sampler_tables import tables

from proard import train
from proard.attacks import Attack, ThreatModel, attacks
from proard.commands.extract import Extractor
from proard.common.environment import environment
from proard.config import parse_config
from proard.data import load_data
from proard.evaluation.accuracy import measure
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import evaluation_batches, supernet_for
from proard.runs.run import Run, read_metrics
from proard.supernet import Architecture, SearchSpace
from proard.training.phases import build_phases

EPS = {"digits": 0.1, "fashion_mnist": 0.1, "image_folder": 8 / 255}
EPOCHS = {"digits": (15, 10), "fashion_mnist": (10, 10), "image_folder": (8, 2)}  # of the teacher, and of the base arm
RATE: dict[str, dict[str, float]] = {  # of students, in every arm
    "digits": {"learning_rate": 0.1},
    "fashion_mnist": {"learning_rate": 0.1},
    "image_folder": {"learning_rate": 0.3, "warmup_epochs": 0.5},
}
FAMILY = {
    "family": "resnet",
    "widths": [16, 32, 64],
    "blocks": [1, 1, 1],
    "depth_choices": [0, 1],
    "width_choices": [0.5, 0.75, 1.0],
    "expand_choices": [0.5, 0.75, 1.0],
}
# What differs where the images are a folder, such as all 50,000 of CIFAR-10: 1.7M to 26.7M multiply-adds.
FOLDER: dict[str, Any] = {
    "data": {"image_size": 32, "augmentation": {"crop_padding": 4, "flip": True}},
    "supernet": {"widths": [32, 64, 128], "stem": "strided", "activation": "silu"},
    "batch_size": 128,
    "ema_decay": 0.995,
}


class Study:
    """Trains, measures and remembers.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.rows_file = Path(f"{arguments.out}.jsonl")
        self.work = Path(arguments.work) / f"{arguments.data}-{arguments.limit or 'all'}"
        self.threat = ThreatModel("linf", EPS[arguments.data])
        self.teacher_epochs, self.epochs = EPOCHS[arguments.data]
        self.rate = RATE[arguments.data]

    # -----------------------------------------------------------------------------------------------------------------
    # What is done, and what is missing

    def run(self) -> None:
        """Everything that is missing, seed by seed."""
        for seed in self.arguments.seeds:
            fresh = all(ARMS.get(arm, {}).get("fresh") for arm in self.arguments.arms)
            teacher = self.work / "none" if fresh else self.teacher(seed)
            for arm in self.arguments.arms:
                if arm in (ALONE, SHARE):
                    self.students_alone(arm, seed, teacher)
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
        row |= {"threads": torch.get_num_threads(), "command": shlex.join(["python", *sys.argv])}
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
        name, folder = self.arguments.data, FOLDER if self.arguments.data == "image_folder" else {}
        root = {"root": str(self.arguments.root)} if self.arguments.root else {}
        return {
            "batch_size": 64,
            **folder,
            "seed": seed,
            "data": {"name": name, "limit": self.arguments.limit, **root, **folder.get("data", {})},
            "supernet": {**FAMILY, **folder.get("supernet", {})},
            "threat": {"norm": "linf", "eps": self.threat.eps},
            "attack": {"steps": 5},
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
            **self.arguments.teacher,
        }
        spent = self.trained({**self.config(seed), "phases": [phase]}, place)
        if self.missing("students", "teacher", seed):
            extractor = Extractor(Run(place), quiet=True)
            students = self.measured(extractor, {"largest": extractor.supernet.space.largest()})
            self.remember(measured="students", arm="teacher", seed=seed, place=None, **spent, students=students)
        return place

    def arm(self, arm: str, seed: int, teacher: Path) -> None:
        """One supernet, and its five students."""
        wanted = [kind for kind in self.kinds if self.missing(kind, arm, seed)]
        if not wanted:
            return
        place = self.work / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
        spent = self.trained(self.arm_config(arm, seed, teacher), place)
        extractor = Extractor(Run(place), quiet=True)
        for kind in wanted:
            students = self.measured(extractor, places(extractor.supernet.space, seed), kind == "autoattack")
            self.remember(measured=kind, arm=arm, seed=seed, place=None, **spent, students=students)

    def arm_config(self, arm: str, seed: int, teacher: Path) -> dict[str, Any]:
        """The arm's training, as long as its share of the base arm's multiply-adds."""
        base, own = (self.supernet_config(name, seed, teacher) for name in (BASE, arm))
        late = [{**own["phases"][0], **ARMS[arm]["late"]}] if "late" in ARMS[arm] else []
        shares = [5 / 6, 1 / 6] if late else [1.0]
        own["phases"] += late
        per_epoch = sum(s * work({**own, "phases": [phase]}) for s, phase in zip(shares, own["phases"], strict=True))
        epochs = self.epochs * ARMS[arm]["compute"] * work(base) / per_epoch
        for share, phase in zip(shares, own["phases"], strict=True):
            phase["epochs"] = max(1, round(share * epochs))
        return own

    def supernet_config(self, arm: str, seed: int, teacher: Path) -> dict[str, Any]:
        """The arm's training for as many epochs as the base arm's."""
        settings = ARMS[arm]
        phase = {"name": "students", "epochs": self.epochs, **self.rate, "elastic": ["all"]}
        config = self.config(seed)
        if not settings.get("fresh"):
            config["supernet"] |= {"weights": str(teacher)}
        config |= {key: settings[key] for key in ("attack", "teacher", "ema_decay") if key in settings}
        if "augmentation" in settings:
            config["data"]["augmentation"] = {**config["data"].get("augmentation", {}), **settings["augmentation"]}
        phase |= {key: settings[key] for key in ("objective", "sampler") if key in settings}
        return {**config, "phases": [phase]}

    def students_alone(self, arm: str, seed: int, teacher: Path) -> None:
        """The five students, each trained by itself from random weights, beside the arm that they are compared with."""
        extractor = Extractor(Run(teacher), quiet=True)
        directory = teacher / "students" / "student"
        if not directory.exists():
            extractor.write(None, teacher / "students", "robust", ())
        like = self.arm_config(self.arguments.alone_like, seed, teacher)
        (phase,) = like["phases"]
        plain = {key: value for key, value in phase.items() if key not in ("elastic", "sampler")}
        students = places(extractor.supernet.space, seed)
        for place, architecture in students.items():
            epochs = phase["epochs"]
            if arm == SHARE:
                alone = work(like, [extractor.supernet.space.cost(architecture).multiply_adds])
                epochs = max(1, round(epochs * work(like) / len(students) / alone))
            wanted = [kind for kind in self.kinds if self.missing(kind, arm, seed, place)]
            if not wanted:
                continue
            config = {
                **self.config(seed),
                "attack": like["attack"],
                "mode": "student",
                "student": {"architecture": dict(architecture)},
                "teacher": {"source": str(directory)},
                "phases": [{"objective": {"name": "rslad"}, **plain, "epochs": epochs}],
            }
            path = self.work / f"{arm.replace(', ', '-').replace(' ', '-')}-{epochs}-{place}-{seed}"
            spent = self.trained(config, path)
            for kind in wanted:
                measured = self.measured(Extractor(Run(path), quiet=True), {place: architecture}, kind == "autoattack")
                self.remember(measured=kind, arm=arm, seed=seed, place=place, **spent, students=measured)

    @property
    def kinds(self) -> list[str]:
        """What is measured of every arm."""
        return ["students"] + ["autoattack"] * bool(self.arguments.autoattack)

    def trained(self, config: dict[str, Any], place: Path) -> dict[str, Any]:
        """Train unless that was done: epochs, processor seconds, and multiply-adds by purpose, validation left out."""
        if not (place / "checkpoint.pt").exists() or not load_checkpoint(place / "checkpoint.pt")["finished"]:
            train(config, run=place, quiet=True, resume=(place / "checkpoint.pt").exists())
        spent: dict[str, float] = {}
        seconds = 0.0
        for row in read_metrics(Run(place).metrics):
            if row["kind"] == "epoch":
                seconds += row["processor_seconds"]
                for purpose, amount in row["compute"].items():
                    spent[purpose] = spent.get(purpose, 0.0) + amount
        epochs = sum(phase["epochs"] for phase in config["phases"])
        return {"epochs": epochs, "seconds": seconds, "multiply_adds": spent}

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
            if autoattack and place not in self.arguments.attacked:
                continue
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


def work(config: dict[str, Any], students: list[int] | None = None, steps: int = 2000) -> float:
    """Multiply-adds of an arm's step per image, expected: an attack there and back, and the loss's pass or two.

    A pass of the loss is worth three forward passes, one of the attack two; the teacher answers as often as asked.

    Args:
        config: the arm's.
        students: the multiply-adds of those that train in a step; default what its sampler draws.
        steps: of which that is the mean.
    """
    built = parse_config(config)
    data = load_data(built.data)
    space = supernet_for(built, data).space
    (phase,) = build_phases(built, space)
    if students is None:
        sampler = phase.sampler(steps)
        drawn = mean(sum(space.cost(a).multiply_adds for a in sampler.sample(step)) for step in range(steps))
    else:
        drawn = sum(students)
    taught = phase.objective.needs_teacher
    losses = 1 if not taught or phase.settings.objective.options.get("adversarial_weight") == 1 else 2
    teacher = space.cost(space.largest()).multiply_adds if taught else 0
    return drawn * (2 * (phase.attack.passes - 1) + losses * 3) + teacher


def places(space: SearchSpace, seed: int) -> dict[str, Architecture]:
    """The smallest, the largest, and three random students between them, at equal ratios of multiply-adds."""
    rng = random.Random(seed)
    some = [space.sample(rng) for _ in range(1000)]
    low, high = (space.cost(end).multiply_adds for end in (space.smallest(), space.largest()))

    def nearest_to(part: float) -> Architecture:
        return min(some, key=lambda a: abs(math.log(space.cost(a).multiply_adds / low) - part * math.log(high / low)))

    middle = {name: nearest_to((index + 1) / 4) for index, name in enumerate(PLACES[1:-1])}
    return {PLACES[0]: space.smallest(), **middle, PLACES[-1]: space.largest()}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=EPS, default="fashion_mnist")
    parser.add_argument("--root", type=Path, help="where the images are")
    parser.add_argument("--limit", type=int, help="images for training and validation; default all")
    parser.add_argument("--teacher", type=json.loads, default={}, help="what its phase has instead, in JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=[ALONE, SHARE, *ARMS], default=[ALONE, BASE])
    parser.add_argument(
        "--alone-like", choices=ARMS, default=BASE, help="whose attack, epochs and multiply-adds 'alone' has"
    )
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--autoattack", type=int, default=0, help="test images for AutoAttack; 0 leaves it out")
    parser.add_argument("--attacked", nargs="+", choices=PLACES, default=PLACES, help="students that it attacks")
    parser.add_argument("--work", default="runs/samplers", help="where runs are kept")
    parser.add_argument("--out", required=True, help="the tables and their rows, without suffix")
    Study(parser.parse_args()).run()


if __name__ == "__main__":
    main()
