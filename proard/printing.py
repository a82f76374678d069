"""What the commands print: tables of students, of attacks, of trainings and of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proard.budgets import short, short_time
from proard.run import Run, read_metrics

if TYPE_CHECKING:
    from proard.alone import Baseline
    from proard.evaluation import Evaluation
    from proard.extraction import Extracted
    from proard.latency import Profile


def print_students(students: Sequence[Extracted]) -> None:
    """What was extracted: costs and accuracies, how it was chosen, and its latency where a budget asked for one."""
    _print_students([student.row() for student in students])
    for line in dict.fromkeys(map(_chosen, (student.card["selection"] for student in students))):
        print(f"chosen:  {line}")
    for student in students:
        if latency := student.card.get("latency"):
            print(f"latency: {student.path.name}: {_latency(latency)}")


def print_evaluations(results: Sequence[Evaluation]) -> None:
    """Accuracies of students; what each attack of a cascade broke; findings and diagnostics, if they were asked for."""
    _print_students([result.row() for result in results])
    if any(len(result.measurement.robust) > 1 for result in results):
        print("\nwhat each attack broke of what the ones before it left")
        _print_rows([row for result in results for row in _cascade(result)])
    for result in results:
        for finding in result.findings or ():
            print(f"warning: {result.path.name}: {finding}")
        if result.findings == ():
            print(f"{result.path.name}: no sign of gradient masking, which is no proof of robustness")
    for result in results:
        if result.diagnostics is not None:
            print(f"\n{result.path.name}: {result.diagnostics}")


def print_baseline(result: Baseline) -> None:
    """Students of the one training beside the same ones trained alone: accuracies, and what each way costs."""
    rows = []
    for row in result.as_dict()["comparisons"]:
        pairs = {
            name: f"{100 * row[f'clean_accuracy_{name}']:.1f} / {100 * row[f'robust_accuracy_{name}']:.1f}"
            for name in ("extracted", "alone")
        }
        rows.append(
            {
                "budget": row["budget"],
                "multiply-adds": short(row["multiply_adds"]),
                "extracted %": pairs["extracted"],
                "alone %": pairs["alone"],
                "difference": f"{100 * row['robust_accuracy_difference']:+.1f}",
                "alone s": f"{row['seconds_alone']:.0f}",
                "alone Wh": _watt_hours(row["kwh_alone"]),
            }
        )
    print("test accuracy, clean / robust; the difference is of robust accuracy, in points; 1 multiply-add = 1 FLOP")
    _print_rows(rows)
    if not result.seconds:
        print("\nwhat one training for all took is not on record (no training in the run's energy.json)")
        return
    energy = "" if result.kwh is None else f" and {_watt_hours(result.kwh)} Wh"
    print(
        f"\none training for all took {result.seconds:.0f} s{energy}: it is cheaper than training each student alone "
        f"from {result.break_even:.1f} budgets on"
    )


def print_profile(done: Profile) -> None:
    """The device, how many blocks were measured, and predicted beside measured latency of whole students."""
    table = done.table
    plural = "" if table.threads == 1 else "s"
    print(f"device:  {table.device}")
    print(f"         {table.runtime}, {table.dtype}, {table.threads} thread{plural}, batch size {table.batch_size}")
    rest = "; the others are interpolated" if table.interpolate else ""
    print(f"blocks:  {len(table.blocks)} of {done.distinct} distinct ones measured{rest}")
    held_out = [student for student in table.students if student.held_out]
    if held_out:
        print("\nstudents that the fit has not seen; 1 multiply-add = 1 FLOP")
        _print_rows(
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


def _chosen(selection: dict[str, Any]) -> str:
    """How a student was chosen, in a line; from what `extract` writes into its card."""
    measured = f"{selection.get('measured_now')} students measured now"
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


def _watt_hours(kwh: float | None) -> str:
    return "?" if kwh is None else f"{1000 * kwh:.2g}"


def _cascade(result: Evaluation) -> list[dict[str, str]]:
    """A row for every attack: how many images it saw, and how many it broke."""
    return [
        {
            "student": result.path.name,
            "attack": name,
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
    _print_rows(rows)


def _print_rows(rows: Sequence[dict[str, str]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in names}
    for row in [{name: name for name in names}, *rows]:
        print("  ".join(row.get(name, "").ljust(widths[name]) for name in names).rstrip())
