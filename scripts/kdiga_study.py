"""When does robustness transfer? The questions of KDIGA (arXiv 2110.12072) in miniature, on real images.

python scripts/kdiga_study.py --data fashion_mnist --seeds 0 1 2 --out docs/results/kdiga_fashion_mnist
python scripts/kdiga_study.py --data image_folder --root cifar10-jpeg --out docs/results/kdiga_cifar10_jpeg

Two robust teachers (TRADES; a ResNet and a ViT) are trained once, then students: of the same family and of the other
one, from random weights and from clean pre-trained ones, each with several objectives. Every measurement is a row of
OUT.jsonl, written as it comes; what is there is not measured again, so that a study may be spread over several
sittings. OUT.md is the table, with mean and standard deviation over the seeds of the students. Seconds are of the
processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from proard import evaluate, extract, train
from proard.attacks import ThreatModel
from proard.common.device import resolve_device
from proard.common.environment import environment
from proard.config import DataConfig
from proard.data import DataSplits, load_data
from proard.evaluation.transfer import diagnose
from proard.export.student_directory import load_student
from proard.runs.components import evaluation_batches

DATA: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"eps": 0.05, "options": {}},
    "image_folder": {"eps": 4 / 255, "options": {"image_size": 32}},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {
        "supernet": {"family": "resnet", "widths": [16, 32, 64], "blocks": [1, 1, 1], "depth_choices": [0]},
        "learning_rate": 0.1,
        "optimizer": {"name": "sgd"},
    },
    "vit": {
        "supernet": {
            "family": "vit",
            "patch_size": 4,
            "width_choices": [64],
            "depth_choices": [4],
            "heads_choices": [2],
            "mlp_choices": [2],
        },
        "learning_rate": 0.002,
        "optimizer": {"name": "adamw", "weight_decay": 0.05, "gradient_clip": 1.0},
    },
}
SCRATCH, PRETRAINED = "random weights", "clean weights"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ce": {"name": "ce"},
    "kd": {"name": "kd", "distillation_weight": 0.9, "temperature": 2.0},
    "kdiga": {"name": "kdiga", "distillation_weight": 0.9, "temperature": 2.0, "alignment_weight": 1.0},
    "sat": {"name": "sat"},
    "ard": {"name": "ard", "temperature": 2.0},
    "kdiga-ard-a": {
        "name": "kdiga",
        "distillation_weight": 1.0,
        "temperature": 2.0,
        "alignment_weight": 1.0,
        "distil": "adversarial",
        "align": "adversarial",
    },
}
# Which student (family, start) learns with which objectives, and from whom.
ARMS: list[tuple[str, str, str, list[str]]] = [
    ("resnet", SCRATCH, "resnet", ["ce", "kd", "kdiga", "sat", "ard", "kdiga-ard-a"]),
    ("vit", SCRATCH, "resnet", ["ce", "kd", "kdiga"]),
    ("resnet", SCRATCH, "vit", ["kd", "kdiga"]),
    ("resnet", PRETRAINED, "resnet", ["ce", "kd", "kdiga"]),
]


class Study:
    """Trains, measures and remembers.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.eps = DATA[arguments.data]["eps"]
        self.threat = ThreatModel("linf", self.eps)
        self.rows_file = Path(f"{arguments.out}.jsonl")
        self.work = Path(arguments.work) / arguments.data
        self.data_config = {
            "name": arguments.data,
            "root": str(arguments.root) if arguments.root else None,
            "limit": arguments.images,
            **DATA[arguments.data]["options"],
        }
        self.data: DataSplits = load_data(DataConfig.model_validate(self.data_config))
        lines = self.rows_file.read_text(encoding="utf-8").splitlines() if self.rows_file.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def run(self) -> None:
        """All that is missing: teachers first, then seed by seed."""
        teachers = {family: self.student(family, SCRATCH, "none", "trades", seed=100) for family in FAMILIES}
        for seed in self.arguments.seeds:
            for family, start, teacher, objectives in [ARMS[index] for index in self.arguments.arms]:
                for name in [name for name in objectives if name in self.arguments.objectives]:
                    teacher_name = "none" if name in ("ce", "sat") else teacher
                    self.student(family, start, teacher_name, name, seed, teachers)

    def student(
        self, family: str, start: str, teacher: str, objective: str, seed: int, teachers: dict[str, Path] | None = None
    ) -> Path:
        """The directory of a trained student; trains and measures it unless that has been done."""
        key = {"student": family, "start": start, "teacher": teacher, "objective": objective, "seed": seed}
        name = "-".join(str(value).replace(" ", "-") for value in key.values())
        place = self.work / name
        directory = place / "students" / "student"
        if any(all(row[k] == v for k, v in key.items()) for row in self.rows) and directory.exists():
            return directory
        config = self.config(family, objective, seed)
        if start == PRETRAINED:
            pretrained = self.student(family, SCRATCH, "none", "ce", seed, teachers)
            config.pop("supernet")
            config["student"] = {"directory": str(pretrained)}
            config["phases"][0] |= {
                "epochs": max(1, config["phases"][0]["epochs"] // 2),
                "learning_rate": config["phases"][0]["learning_rate"] / 5,
            }
        if teacher != "none":
            assert teachers is not None
            config["teacher"] = {"source": str(teachers[teacher])}
        started = time.process_time()
        train(config, run=place, quiet=True, resume=(place / "checkpoint.pt").exists())
        seconds = time.process_time() - started
        if not directory.exists():
            extract(run=place, quiet=True)
        self.remember({**key, "seconds": seconds, **self.measure(directory, teachers or {}, teacher)})
        return directory

    def config(self, family: str, objective: str, seed: int) -> dict[str, Any]:
        """A run that trains one fixed network."""
        described = FAMILIES[family]
        teacher = objective == "trades"
        epochs = self.arguments.teacher_epochs if teacher else self.arguments.epochs
        phase = {
            "name": "student",
            "epochs": epochs,
            "learning_rate": described["learning_rate"],
            "warmup_epochs": 1.0 if epochs > 2 else 0.0,
            "objective": {"name": "trades"} if teacher else OBJECTIVES[objective],
        }
        return {
            "mode": "student",
            "seed": seed,
            "data": self.data_config,
            "supernet": described["supernet"],
            "threat": {"norm": "linf", "eps": self.eps},
            "attack": {"steps": 5},
            "batch_size": 64,
            "optimizer": described["optimizer"],
            "phases": [phase],
            "validation": {"every": 1000, "images": 200},
            "evaluation": {"limit": self.arguments.test_images},
            "energy": {"enabled": False},
        }

    def measure(self, directory: Path, teachers: dict[str, Path], teacher: str) -> dict[str, Any]:
        """Clean and robust accuracy, and how the student's loss reacts to the image beside the teacher's."""
        (result,) = evaluate(directory, [], limit=self.arguments.test_images)
        (robust,) = result.measurement.robust.values()
        student = load_student(directory)
        reference = load_student(teachers[teacher]) if teacher != "none" else None
        images = self.data.test.subset(self.arguments.diagnosed, 0)
        batches = list(evaluation_batches(images, self.data.input_shape, resolve_device("cpu")))
        diagnosis = diagnose(student, reference, batches, self.threat)
        return {
            "clean": result.measurement.clean.value,
            "robust": robust.value,
            "images": result.measurement.clean.total,
            "diagnostics": diagnosis.as_dict(),
        }

    def remember(self, row: dict[str, Any]) -> None:
        """Append a row, and write the table anew."""
        about = environment()
        row |= {"commit": about["git_commit"], "processor": about["processor"], "threads": about["threads"]}
        self.rows.append(row)
        self.rows_file.parent.mkdir(parents=True, exist_ok=True)
        with self.rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        Path(f"{self.arguments.out}.md").write_text("\n".join(self.table()) + "\n", encoding="utf-8")
        print(json.dumps({k: v for k, v in row.items() if k != "diagnostics"}), flush=True)

    def table(self) -> Iterator[str]:
        """Markdown, a line for every arm."""
        heads = (
            "student | start | teacher | objective | seeds | clean % | PGD-20 % | cosine to teacher | linearity | CPU s"
        )
        yield f"| {heads} |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        arms: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            arms.setdefault((row["student"], row["start"], row["teacher"], row["objective"]), []).append(row)
        for arm, rows in arms.items():
            clean, robust = (spread([100 * row[name] for row in rows]) for name in ("clean", "robust"))
            cosine = spread([c for row in rows if (c := cosine_of(row)) is not None], 2)
            linearity = spread([linearity_of(row) for row in rows], 3)
            seconds = mean(row["seconds"] for row in rows)
            yield f"| {' | '.join(arm)} | {len(rows)} | {clean} | {robust} | {cosine} | {linearity} | {seconds:.0f} |"


def cosine_of(row: dict[str, Any]) -> float | None:
    """Mean cosine of the input gradients of student and teacher."""
    transfer = row["diagnostics"].get("transfer")
    return None if transfer is None else transfer["cosine"]["mean"]


def linearity_of(row: dict[str, Any]) -> float:
    """Mean local linearity measure of the student; 0 is linear."""
    return row["diagnostics"]["student"]["local_linearity"]["mean"]


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, and standard deviation where there are several."""
    if not values:
        return ""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="fashion_mnist")
    parser.add_argument("--root", type=Path, help="where the images are")
    parser.add_argument("--images", type=int, default=3000, help="training images")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--diagnosed", type=int, default=256, help="test images for the diagnostics")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--arms", type=int, nargs="+", default=list(range(len(ARMS))), help="entries of ARMS, from 0")
    parser.add_argument("--work", default="runs/kdiga", help="where runs are kept")
    parser.add_argument("--out", required=True, help="the table and its rows, without suffix")
    Study(parser.parse_args()).run()


if __name__ == "__main__":
    main()
