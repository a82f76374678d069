"""What the commands print: tables of students, of attacks, of trainings and of latencies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from proard.attacks.presets import UNION
from proard.common.terminal import print_table, say, table
from proard.common.units import how_many, short, short_time
from proard.runs.run import Run, read_metrics
from proard.runs.savings import HEAD, compared
from proard.search.front import HEAD as FRONT_HEAD
from proard.search.front import MOST_ROWS, Front, table_rows
from proard.search.predictor import comparison_rows, verified_in_words
from proard.search.searcher import SearchResult

if TYPE_CHECKING:
    from proard.attacks import Attack
    from proard.commands.baseline import Baseline
    from proard.commands.evaluate import Evaluation
    from proard.commands.profile import Profile
    from proard.commands.results import MeasuredStudent
    from proard.commands.zoo import ZooStudent
    from proard.training import Trainer


def print_students(students: Sequence[MeasuredStudent]) -> None:
    """What was extracted: costs and accuracies, how it was chosen, and its latency where a budget asked for one."""
    _print_students([student.row() for student in students])
    for line in dict.fromkeys(map(_chosen, (student.card["selection"] for student in students))):
        say(f"chosen:  {line}", fold=True)
    for student in students:
        if latency := student.card.get("latency"):
            say(f"latency: {student.path.name}: {_latency(latency)}", fold=True)


def print_zoo(students: Sequence[ZooStudent]) -> None:
    """What comes with the package: names, costs and accuracies, and on how many images some of them are."""
    _print_students([student.row() for student in students])
    fewer = {
        f"images:  {name} is on {accuracy.total} of {student.accuracies['clean'].total} test images"
        for student in students
        for name, accuracy in student.accuracies.items()
        if accuracy.total < student.accuracies["clean"].total
    }
    for line in sorted(fewer):
        say(line, fold=True)


def print_evaluations(results: Sequence[Evaluation]) -> None:
    """Accuracies of students; what each attack of a cascade broke; findings and diagnostics, if they were asked for."""
    _print_students([result.row() for result in results])
    if any(len(result.measurement.robust) > 1 for result in results):
        union = any(UNION in result.measurement.robust for result in results)
        print(f"\nwhat each attack broke of {'all images' if union else 'what the ones before it left'}")
        print_table([row for result in results for row in _cascade(result)])
    for result in results:
        for finding in result.findings or ():
            say(f"warning: {result.path.name}: {finding}", fold=True)
        if result.findings == ():
            say(f"{result.path.name}: no sign of gradient masking, which is no proof of robustness", fold=True)
    for result in results:
        for part in (result.diagnostics, result.corruptions, result.curve):
            if part is not None:
                print(f"\n{result.path.name}\n{part}")
        for sentence in result.curve.findings if result.curve is not None else ():
            say(f"- {sentence}", fold=True)


def print_baseline(result: Baseline) -> None:
    """Students of the one training beside the same ones trained alone: accuracies, and what each way costs."""
    print("test accuracy, clean / robust; the difference is of robust accuracy, in points")
    print("1 multiply-add = 1 FLOP")
    print_table([compared(row) for row in result.as_dict()["comparisons"]])
    found = result.savings
    if found is None:
        print("\nwhat one training for all took is not on record (no training in energy.json)")
        return
    print("\none training for all students, or one each")
    print_table([dict(zip(HEAD, row, strict=True)) for row in found.rows()])
    print()
    say(found.conclusion, fold=True)
    for sentence in found.assumptions:
        say(f"- {sentence}", fold=True)


def print_profile(done: Profile) -> None:
    """The device, how many blocks were measured, and predicted beside measured latency of whole students."""
    table = done.table
    say(f"device:  {table.device}", fold=True)
    threads = how_many(table.threads, "thread")
    print(f"         {table.runtime}, {table.dtype}, {threads}, batch size {table.batch_size}")
    rest = "; the others are interpolated" if table.interpolate else ""
    say(f"blocks:  {len(table.blocks)} of {done.distinct} distinct ones measured{rest}")
    held_out = [student for student in table.students if student.held_out]
    if held_out:
        print("\nstudents that the fit has not seen; 1 multiply-add = 1 FLOP")
        print_table(
            [
                {
                    "multiply-adds": short(student.multiply_adds),
                    "predicted": short_time(student.predicted),
                    "measured": short_time(student.measured),
                    "p95": short_time(student.p95),
                    "error %": f"{100 * (student.predicted / student.measured - 1):+.1f}",
                }
                for student in held_out
            ]
        )
    if table.error is not None:
        ranks = "" if table.rank_correlation is None else f", rank correlation {table.rank_correlation:.2f} (Spearman)"
        print(f"median error {100 * table.error:.1f} %{ranks}")


def typical_budget(run: Run) -> str:
    """An option of extract that a middle student of a trained supernet fits in; nothing for a fixed network."""
    validations = [row for row in read_metrics(run.metrics) if row.get("kind") == "validation"]
    costs = sorted(student["multiply_adds"] for student in validations[-1]["students"].values()) if validations else []
    return f" --flops {short(costs[len(costs) // 2], up=True)}" if len(costs) > 1 else ""


def print_plan(trainer: Trainer) -> None:
    """What a training is about to do, and about how long that takes."""
    from proard.training.plan import plan

    lines = plan(trainer)  # which all processes of a job measure together
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            say(line, fold=True)
        print(flush=True)


def after_evaluation(results: Sequence[Evaluation], config: str | None = None) -> list[str]:
    """Where the students are, and what to do next: a stronger attack, else the report of their run."""
    if config is not None:
        return [f"next:    proard evaluate '{results[0].path}' --config {config} --attack autoattack --check"]
    folders = [result.path for result in results]
    run = folders[0].parent.parent
    alone = len(folders) == 1
    evaluated = folders[0] if alone else run
    following = f"proard evaluate {evaluated} --check"
    if not any("autoattack" in name for result in results for name in result.measurement.robust):
        following = f"proard evaluate {evaluated} --attack autoattack"
    elif Run(run).config_file.is_file():
        following = f"proard report --run {run}"
    where = f"student: {folders[0]}" if alone else f"found:   {folders[0].parent}"
    return [where, f"next:    {following}"]


def _chosen(selection: dict[str, Any]) -> str:
    """How a student was chosen, in a line; from what `extract` writes into its card."""
    measured = f"{how_many(selection.get('measured_now', 0), 'student')} measured now"
    return {
        "front": "from the measured front of 'proard search'",
        "measuring": f"the best of {measured}; 'proard search' finds better ones once, for all budgets",
        "front and measuring": f"the front of 'proard search' is far from the limit; with {measured}",
        "only one": "the run has one network",
    }[selection["method"]]


def _latency(card: dict[str, Any]) -> str:
    """Predicted for the table's device, and measured on this one."""
    predicted, measured = card["predicted"], card["measured"]
    times = f"predicted {short_time(predicted['seconds'])}, measured {short_time(measured['median'])}"
    where = "" if card["same_device"] else f" here; predicted for another device, {predicted['device']}"
    return f"{times} (p95 {short_time(measured['p95'])}){where}"


def _threat(attack: Attack | None) -> dict[str, str]:
    """Norm and radius of an attack, as two cells."""
    if attack is None:  # of the union
        return {"norm": "all", "eps": ""}
    return {"norm": attack.threat.norm, "eps": f"{attack.threat.eps:.4g}"}


def _cascade(result: Evaluation) -> list[dict[str, str]]:
    """A row for every attack: how many images it saw, and how many it broke."""
    return [
        {
            "student": result.path.name,
            "attack": name,
            **_threat(result.attacks.get(name)),
            "attacked": str(accuracy.attacked),
            "broken": str(accuracy.broken),
            "left": str(accuracy.correct),
            "left %": str(accuracy),
        }
        for name, accuracy in result.measurement.robust.items()
    ]


def _print_students(rows: Sequence[dict[str, str]]) -> None:
    """Aligned columns; the header says what FLOPs are."""
    print("test accuracy with 95 % interval; 1 multiply-add = 1 FLOP")
    print_table(rows)


def search_summary(result: SearchResult) -> list[str]:
    """The labels, the predictor, and the measured front."""
    front, report = result.front, result.report
    seconds = "" if result.seconds_per_label is None else f", {result.seconds_per_label:.2f} s each"
    space = report["space"]
    count = f"{space:,}" if space < 10**6 else f"{space:.2g}"
    attack = front.attack
    lines = [
        f"labels:  {report['labels']} of {count} students{seconds}",
        f"         {front.images} validation images; robust: {attack['name']}, {attack['threat']['norm']}, "
        f"eps {attack['threat']['eps']:.3g}",
    ]
    if "predictor" in report:
        lines += ["", "held-out Kendall tau and mean absolute error in points; * is used"]
        lines += table(comparison_rows(report))
        if checked := verified_in_words(report):
            lines.append(f"checked: {checked}")
    else:
        lines.append("         every student was measured, or too few to predict others")
    best = front.best(("multiply_adds",))
    rest = "" if len(best) <= MOST_ROWS else f", {MOST_ROWS} of {len(best)}"
    lines += ["", f"measured front on validation images{rest}; 1 multiply-add = 1 FLOP"]
    return lines + table([dict(zip(FRONT_HEAD, row, strict=True)) for row in table_rows(best)])


def search_as_json(result: SearchResult) -> dict[str, Any]:
    """The report, and the front of accuracies and multiply-adds."""
    return {
        "path": str(result.path),
        "seconds_per_label": result.seconds_per_label,
        **result.report,
        "measured": len(result.front.measured),
        "front": [
            {"architecture": dict(p.architecture), "clean": p.label.clean, "robust": p.label.robust, **asdict(p.cost)}
            for p in result.front.best(("multiply_adds",))
        ],
    }


def budget_on_front(front: Front) -> str:
    """A budget for which the front has something to choose, for an example."""
    best = front.best(("multiply_adds",))
    return short(best[len(best) // 2].cost.multiply_adds, up=True)
