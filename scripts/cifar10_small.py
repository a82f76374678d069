"""The page of results of configs/cifar10_small.yaml, from finished runs of several seeds.

python scripts/cifar10_small.py RUN RUN --data-root CIFAR --out docs/results/cifar10_small

Of every run it extracts a student for each of six budgets, with an int8 file, and measures them and the teacher on all
test images; it attacks each by AutoAttack on 1,000, trains those of some budgets alone for as many epochs (`proard
baseline`), and times the first run's students on this device. ``--only`` and ``--budgets`` do a part of it, such as in
one of several processes on a GPU. Every result is a row of OUT.jsonl, written as it comes; what is there is not
measured again. OUT.md has the tables, below the text that is there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from proard import evaluate, extract, load_student
from proard.commands.baseline import baseline
from proard.commands.single_student import teacher_of
from proard.common.environment import environment
from proard.evaluation.latency import Execution, measure_latency
from proard.export.student_directory import read_card
from proard.runs.checkpoint import load_checkpoint
from proard.runs.compute import computed
from proard.runs.run import Run
from proard.runs.savings import training_of
from proard.supernet.budgets import budgets_of

BUDGETS = ("2M", "3M", "5M", "9M", "15M", "27M")
ALONE = ("2M", "3M", "9M", "27M")
FORMAT = "onnx-int8"
TABLES = "<!-- tables, by scripts/cifar10_small.py -->"
STRONG = "autoattack"
TEST_IMAGES = 10_000
WAYS = ("eager", "onnxruntime")


class Results:
    """Measures what is missing, and remembers it.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.file = Path(f"{arguments.out}.jsonl")

    def run(self) -> None:
        """Everything, or the parts that were asked for."""
        parts = {
            "training": self.training,
            "students": self.students,
            "teacher": self.teacher,
            STRONG: self.strong,
            "alone": self.alone,
            "latency": self.latency,
        }
        for place in self.arguments.runs:
            for part in self.arguments.only or parts:
                parts[part](Run.find(place, self.arguments.data_root))
        self.write()

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [json.loads(line) for line in lines]

    def measured(self, what: str, run: Run, budget: str | None, work: Callable[[], dict[str, Any]]) -> None:
        """Do a piece of work, unless its row is there."""
        key = {"measured": what, "seed": run.config().seed, "budget": budget}
        if any(all(row[name] == value for name, value in key.items()) for row in self.rows()):
            return
        about = environment()
        where = about["cuda_device"] or about["processor"]
        row = {**work(), **key, "commit": about["git_commit"], "device": where, "threads": torch.get_num_threads()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "command": shlex.join(["python", *sys.argv])}) + "\n")
        print(json.dumps(row), flush=True)

    # -----------------------------------------------------------------------------------------------------------------
    # Parts

    def training(self, run: Run) -> None:
        """What it computed, and what it took."""

        def work() -> dict[str, Any]:
            found, spent = computed(run), training_of(run)
            phases = {name: phase.total() for name, phase in found.phases.items()}
            took = {"processor_seconds": found.processor_seconds, "seconds": spent.seconds, "kwh": spent.kwh}
            where = json.loads(run.environment.read_text(encoding="utf-8"))
            return {"multiply_adds": phases, **took, "trained_on": f"{where['processor']}, {where['threads']} thread"}

        self.measured("training", run, None, work)

    def students(self, run: Run) -> None:
        """All six, each with its int8 file."""
        missing = [b for b in self.arguments.budgets if not (run.students / f"flops-{b}").exists()]
        if missing:
            extract([("flops", b) for b in missing], run=run.path, formats=[FORMAT], data_root=self.arguments.data_root)
        for budget in self.arguments.budgets:
            self.measured("student", run, budget, lambda: _of_card(run.students / f"flops-{budget}"))  # noqa: B023

    def teacher(self, run: Run) -> None:
        """On the test images, as `proard baseline` writes it."""

        def work() -> dict[str, Any]:
            source = teacher_of(run, run.config(), load_checkpoint(run.checkpoint)).source
            return self._evaluated(Path(str(source)), ["pgd20"], TEST_IMAGES)

        self.measured("teacher", run, None, work)

    def strong(self, run: Run) -> None:
        """AutoAttack."""
        for budget in self.arguments.budgets:
            student = run.students / f"flops-{budget}"
            limit = self.arguments.autoattack
            self.measured(STRONG, run, budget, lambda: self._evaluated(student, [STRONG], limit))  # noqa: B023

    def alone(self, run: Run) -> None:
        """The same architectures, trained alone."""
        for budget in (b for b in self.arguments.budgets if b in ALONE):

            def work(budget: str = budget) -> dict[str, Any]:
                found = baseline(
                    budgets_of([("flops", budget)], {}), run=run.path, quiet=True, data_root=self.arguments.data_root
                )
                return {**_of_card(run.students / f"flops-{budget}-alone"), **found.comparisons[0].as_dict()}

            self.measured("alone", run, budget, work)

    def latency(self, run: Run) -> None:
        """One image on one thread of the CPU, as PyTorch runs the module, and as onnxruntime does."""
        if run.config().seed:
            return
        for budget in self.arguments.budgets:

            def work(budget: str = budget) -> dict[str, Any]:
                student, shape = load_student(run.students / f"flops-{budget}"), (3, 32, 32)
                ways = {way: Execution(runtime=way, threads=1, device="cpu").resolved() for way in WAYS}
                return {way: 1000 * measure_latency(student, shape, how).median for way, how in ways.items()}

            self.measured("latency", run, budget, work)

    def _evaluated(self, student: Path, attacks: list[str], limit: int) -> dict[str, Any]:
        (found,) = evaluate(student, attacks, limit=limit, data_root=self.arguments.data_root)
        measurement = found.measurement
        return {
            "clean": measurement.clean.value,
            "robust": measurement.worst.value,
            "correct": measurement.worst.correct,
            "images": measurement.worst.total,
        }

    # -----------------------------------------------------------------------------------------------------------------
    # Tables

    def write(self) -> None:
        """The tables, below the page's own text."""
        page = Path(f"{self.arguments.out}.md")
        text = page.read_text(encoding="utf-8").split(TABLES)[0] if page.exists() else ""
        page.write_text("\n".join([text + TABLES, "", *tables(self.rows())]) + "\n", encoding="utf-8")


def _of_card(student: Path) -> dict[str, Any]:
    """What a student's card says of it."""
    card = read_card(student)
    robust = card["evaluation"]["robust"][0]
    found = {name: card[name] for name in ("architecture", "multiply_adds", "parameters")}
    found |= {"clean": card["clean_accuracy"], "robust": card["robust_accuracy"], "images": robust["images"]}
    if FORMAT in card["formats"]:
        low = card["formats"][FORMAT]
        found["int8"] = {
            "bytes": low["bytes"],
            "clean": low["clean"]["accuracy"],
            "lowest": low["robust"]["lowest"]["accuracy"],
            "images": low["clean"]["images"],
        }
    return found


def tables(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Markdown lines."""
    rows = list(rows)
    seeds, measured = sorted({row["seed"] for row in rows}), {row["measured"] for row in rows}

    def of(what: str, budget: str | None, field: str, scale: float = 100, digits: int = 1) -> str:
        found = [row for row in rows if row["measured"] == what and row["budget"] == budget]
        values = [scale * row[field] for row in sorted(found, key=lambda row: row["seed"])]
        if not values:
            return "-"
        each = f" ({', '.join(f'{value:.{digits}f}' for value in values)})" if len(values) > 1 else ""
        return f"{mean(values):.{digits}f}{each}"

    lines = [
        f"Accuracies in %, mean over seeds {', '.join(map(str, seeds))} (and of each).",
        "",
        "| budget | 10^6 multiply-adds | parameters | clean | PGD-20, 10,000 images | AutoAttack, 1,000 images |",
        "|---|---|---|---|---|---|",
    ]
    if "teacher" in measured:
        lines.append(f"| teacher | | | {of('teacher', None, 'clean')} | {of('teacher', None, 'robust')} | |")
    for budget in BUDGETS:
        cells = [of("student", budget, "multiply_adds", 1e-6, 2), of("student", budget, "parameters", 1, 0)]
        cells += [of("student", budget, "clean"), of("student", budget, "robust"), of(STRONG, budget, "robust")]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    measured = {row["measured"] for row in rows}
    lines += (
        []
        if "alone" not in measured
        else [
            "",
            "The same architectures trained alone, from random weights, by the same teacher, for as many epochs:",
            "",
            "| budget | clean, cut out | clean, alone | PGD-20, cut out | PGD-20, alone | difference in PGD-20 |",
            "|---|---|---|---|---|---|",
        ]
    )
    for budget in ALONE if "alone" in measured else ():
        difference = of("alone", budget, "robust_accuracy_difference")
        cells = [of(what, budget, field) for field in ("clean", "robust") for what in ("student", "alone")]
        lines.append(f"| {budget} | {' | '.join(cells)} | {difference} |")
    lines += [
        "",
        "One image on one thread of this CPU, and the int8 file (`onnx-int8`; robust: the lowest of three attacks):",
        "",
        "| budget | eager, ms | onnxruntime, ms | int8, KB | int8, clean | int8, lowest robust | images |",
        "|---|---|---|---|---|---|---|",
    ]
    int8 = [{**row, **row["int8"], "measured": "int8"} for row in rows if "int8" in row]
    rows += int8
    for budget in BUDGETS:
        times = [of("latency", budget, way, 1, 2) for way in WAYS]
        low = [of("int8", budget, "bytes", 1 / 1024, 0), of("int8", budget, "clean"), of("int8", budget, "lowest")]
        lines.append(f"| {budget} | {' | '.join([*times, *low, of('int8', budget, 'images', 1, 0)])} |")
    lines += ["", "Trainings:", ""]
    lines += [
        "| what | seed | 10^12 multiply-adds | processor, min | clock, min | Wh | on |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row["measured"] == "training"):
        work = " + ".join(f"{amount / 1e12:.0f} ({name})" for name, amount in row["multiply_adds"].items())
        energy = "-" if row["kwh"] is None else f"{1000 * row['kwh']:.0f}"
        times = [f"{row[name] / 60:.0f}" for name in ("processor_seconds", "seconds")]
        lines.append(f"| supernet | {row['seed']} | {work} | {' | '.join(times)} | {energy} | {row['trained_on']} |")
    for row in (row for row in rows if row["measured"] == "alone"):
        work, clock = f"{row['training_multiply_adds_alone'] / 1e12:.0f}", f"{row['seconds_alone'] / 60:.0f}"
        lines.append(f"| {row['budget']} alone | {row['seed']} | {work} | - | {clock} | - | {row['device']} |")
    return [*lines, "", *break_even(rows)]


def break_even(rows: list[dict[str, Any]]) -> list[str]:
    """From how many budgets on the supernet is cheaper, by multiply-adds of training."""
    lines = []
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        whole = [sum(row["multiply_adds"].values()) for row in of_seed if row["measured"] == "training"]
        alone = [row["training_multiply_adds_alone"] for row in of_seed if row["measured"] == "alone"]
        if whole and alone:
            times = f"{whole[0] / mean(alone):.1f} times the mean of these {len(alone)} alone"
            lines.append(f"Seed {seed}: teacher and supernet computed as much as {times}.")
    return lines


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data-root", type=Path, help="where the images are")
    parser.add_argument("--autoattack", type=int, default=1000, help="test images for AutoAttack")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, choices=BUDGETS)
    parser.add_argument("--only", nargs="+", choices=("training", "students", "teacher", STRONG, "alone", "latency"))
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    Results(parser.parse_args()).run()


if __name__ == "__main__":
    main()
