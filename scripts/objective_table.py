"""One robust teacher, and a student for every objective: clean, PGD-20 and AutoAttack accuracy in a Markdown table.

python scripts/objective_table.py --config quickstart.yaml --seeds 0 > docs/results/objectives_digits.md

The teacher is the largest network of the configuration, trained with its first phase; the students are the smallest
one, trained alone for ``--epochs``. Training lines go to the standard error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any

from family_table import spread

from proard import evaluate, extract, train
from proard.common.environment import environment
from proard.config import load_config
from proard.objectives import objectives

ATTACKS = ["pgd20", "autoattack"]
# Temperatures of 30 are for a scale that averages over classes; see the objectives' docstrings.
OPTIONS: dict[str, dict[str, Any]] = {
    "ard": {"temperature": 2.0},
    "kd": {"temperature": 2.0},
    "kdiga": {"temperature": 2.0, "distillation_weight": 0.9, "alignment_weight": 1.0},
}
# The helper of HAT is a network that was trained without attack.
CLEAN_TEACHER = ("hat",)


def fixed(
    values: dict[str, Any], seed: int, architecture: str, objective: dict[str, Any], epochs: int
) -> dict[str, Any]:
    """The configuration's images, network and attack, to train one architecture with one objective."""
    phase = {
        "name": "student",
        "epochs": epochs,
        "learning_rate": values["phases"][0]["learning_rate"],
        "warmup_epochs": 1.0,
        "objective": objective,
    }
    return {
        **values,
        "mode": "student",
        "seed": seed,
        "student": {"architecture": architecture},
        "teacher": {},
        "phases": [phase],
        "optimizer": {**values["optimizer"], "gradient_clip": 5.0},
        "energy": {"enabled": False},
    }


def trained(config: dict[str, Any], run: Path) -> tuple[Path, float]:
    """The student directory, and the processor's seconds that training took."""
    with redirect_stdout(sys.stderr):
        started = time.process_time()
        train(config, run=run, quiet=True)
        seconds = time.process_time() - started
        (student,) = extract(run=run, quiet=True)
    return student.path, seconds


def main() -> None:
    """Parse, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart.yaml")
    parser.add_argument("--objectives", nargs="+", default=objectives.names(), choices=objectives.names())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--limit", type=int, help="test images")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    values = load_config(arguments.config, arguments.overrides).model_dump(mode="json")
    about = environment()
    print(f"Command: `python {' '.join(sys.argv)}`  ")
    print(f"Commit {about['git_commit']}, {about['processor']}, {about['threads']} threads, torch {about['torch']}.\n")
    print("| network | objective | clean % | PGD-20 % | AutoAttack % | training CPU s |")
    print("|---|---|---|---|---|---|", flush=True)

    with tempfile.TemporaryDirectory() as folder:

        def row(network: str, name: str, students: list[Path], seconds: list[float], attacks: list[str]) -> None:
            measured = []
            for path in students:
                (result,) = evaluate(path, attacks, limit=arguments.limit)
                accuracies = [result.measurement.clean, *(result.measurement.robust[attack] for attack in attacks)]
                measured.append([100 * accuracy.value for accuracy in accuracies])
            cells = [spread(column) for column in zip(*measured, strict=True)] + [""] * (len(ATTACKS) - len(attacks))
            print(f"| {network} | {name} | {' | '.join(cells)} | {mean(seconds):.0f} |", flush=True)

        teachers = {}
        for name, objective in (("robust", values["phases"][0]["objective"]), ("clean", {"name": "ce"})):
            config = fixed(values, 0, "largest", objective, values["phases"][0]["epochs"])
            teachers[name], seconds = trained(config, Path(folder) / name)
            row(f"{name} teacher", objective["name"], [teachers[name]], [seconds], ATTACKS[:1])
        for name in arguments.objectives:
            students, times = [], []
            for seed in arguments.seeds:
                objective = {"name": name, **OPTIONS.get(name, {})}
                config = fixed(values, seed, "smallest", objective, arguments.epochs)
                if objectives.build(name, {}).needs_teacher:
                    config["teacher"] = {"source": str(teachers["clean" if name in CLEAN_TEACHER else "robust"])}
                path, seconds = trained(config, Path(folder) / f"{name}-{seed}")
                students.append(path)
                times.append(seconds)
            row("student", name, students, times, ATTACKS)


if __name__ == "__main__":
    main()
