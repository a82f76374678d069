"""Figures of what a run has: its front, and what was measured of robustness, predictions, latency and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from proard.common.svg import in_words
from proard.common.units import short, short_time
from proard.evaluation.latency import LatencyTable
from proard.report.attacked import Curve
from proard.report.plots import (
    CLEAN,
    MUTED,
    ROBUST,
    SERIES,
    Plot,
    axis,
    error_bars,
    line,
    log_axis,
    mark,
    note,
    percent,
)
from proard.report.run_contents import COSTS, Scores, Student, best_within
from proard.runs.savings import Savings


def scored(scores: Scores | None, name: str) -> str:
    """An accuracy in per cent, with its interval where it has one."""
    if scores is None:
        return "-"
    value = percent(getattr(scores, name))
    if not scores.intervals:
        return value
    low, high = scores.intervals[name]
    return f"{value} ({percent(low)}-{percent(high)})"


def hover(student: Student) -> str:
    """What a student is, for plotly's hover: lines of escaped text."""
    costs = ", ".join(f"{short(student.costs[name])} {noun}" for name, noun in COSTS.items() if name in student.costs)
    lines = [student.name, costs, *(in_words(student.architecture) if student.architecture else ())]
    return "<br>".join(escape(line) for line in lines)


def front_plot(candidates: Sequence[Student], students: Sequence[Student], cost: str, searched: bool) -> Plot:
    """Accuracies against a cost: the students that may be chosen, on validation images, and the extracted, on test.

    Args:
        candidates: with validation scores.
        students: of the student directories.
        cost: a name of `COSTS`.
        searched: whether the candidates are those of `search`.
    """
    known = [student for student in candidates if cost in student.costs and student.validation]
    best = best_within(known, cost)
    data = []
    scores = next(student.validation for student in known if student.validation)
    if len(known) > len(best):
        name = "measured, robust" if searched else "validated, robust"
        data.append(_scatter(name, known, cost, "robust", opacity=0.35, size=5))
    most = max(student.costs[cost] for student in known)
    data.append(_to_the_right(_scatter("best within a budget, robust", best, cost, "robust"), most))
    data.append(_to_the_right(_scatter("the same students, clean", best, cost, "clean"), most))
    for alone, label, symbol in ((False, "extracted", "diamond"), (True, "trained alone", "x")):
        group = [student for student in students if student.alone == alone and student.test and cost in student.costs]
        data += [
            _scatter(f"{label}, {what} (test)", group, cost, what, test=True, symbol=symbol, size=10)
            for what in ("robust", "clean")
            if group
        ]
    tested = next((student.test for student in students if student.test), None)
    low, high = known[0], max(known, key=lambda student: student.costs[cost])
    top = best[-1]
    summary = (
        f"{len(known)} students of {short(low.costs[cost])} to {short(high.costs[cost])} {COSTS[cost]}, "
        f"lines and dots on validation images ({scores.where}). The most robust has {scored(top.validation, 'robust')} "
        f"% robust and {scored(top.validation, 'clean')} % clean accuracy at {short(top.costs[cost])} {COSTS[cost]}."
    )
    if tested:
        summary += f" Diamonds and crosses: student directories, on test images ({tested.where}), with 95 % intervals."
    rows = [
        [student.name, short(student.costs[cost]), *map(percent, (student.validation.clean, student.validation.robust))]
        for student in best
        if student.validation
    ]
    head = ["student", COSTS[cost], "clean %, validation", "robust %, validation"]
    layout = {
        "xaxis": axis(COSTS[cost], tickformat="~s", **log_axis(low.costs[cost], high.costs[cost])),
        "yaxis": axis("accuracy, %"),
    }
    return Plot(data, layout, summary, head, rows, height=440)


def _scatter(
    name: str, students: Sequence[Student], cost: str, what: str, *, test: bool = False, **marker: Any
) -> dict[str, Any]:
    """A trace of students: one of their accuracies on one split over a cost.

    Markers of a style of their own stand by themselves; others are joined by steps: up to the next student, each is the
    best within a budget.
    """
    scores = [student.test if test else student.validation for student in students]
    colour = ROBUST if what == "robust" else CLEAN
    values = [100 * getattr(score, what) for score in scores]
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": name,
        "mode": "markers" if marker else "lines+markers",
        "x": [student.costs[cost] for student in students],
        "y": values,
        "text": [hover(student) for student in students],
        "hovertemplate": f"%{{text}}<br><b>{what} %{{y:.1f}} %</b><extra>{escape(name)}</extra>",
        "marker": {"color": colour, "size": 7, **marker},
        "line": {"color": colour, "shape": "hv", "width": 2, "dash": "solid" if what == "robust" else "dot"},
    }
    if test and all(score is not None and score.intervals for score in scores):
        ends = [score.intervals[what] for score in scores if score is not None and score.intervals]
        trace["error_y"] = error_bars(values, ends, colour, 1.5)
    return trace


def _to_the_right(trace: dict[str, Any], end: float) -> dict[str, Any]:
    """The same line up to ``end``: what is best within a budget stays so until another is."""
    size = trace["marker"]["size"]
    trace["marker"] = {**trace["marker"], "size": [size] * len(trace["x"]) + [0]}
    for key, last in (("x", end), ("y", trace["y"][-1]), ("text", trace["text"][-1])):
        trace[key] = [*trace[key], last]
    return trace


# ---------------------------------------------------------------------------------------------------------------------
# Attacks, the predictor, latency, energy


def radii_plot(curves: Sequence[Curve], attack: str, norm: str, eps: float) -> Plot:
    """Accuracy over the attack's radius, with 95 % intervals."""
    layout = {
        "xaxis": axis(f"eps ({norm})", rangemode="tozero"),
        "shapes": [mark(eps, dash="dash")],
        "annotations": [note(eps, "threat model")],
    }
    return _accuracy_plot(curves, f"under {attack} by radius", "eps", eps, layout)


def steps_plot(curves: Sequence[Curve], norm: str, eps: float) -> Plot:
    """Accuracy over the number of the attack's steps, with 95 % intervals."""
    layout = {"xaxis": axis("steps", **log_axis(1, 100))}
    return _accuracy_plot(curves, f"under PGD ({norm}, eps {eps:.4g}) by its steps", "steps", None, layout)


def _accuracy_plot(curves: Sequence[Curve], what: str, unit: str, marked: float | None, layout: dict[str, Any]) -> Plot:
    """Accuracy over something that grows; ``marked`` is one of its values that the summary names."""
    data, words, rows = [], [], []
    for curve, colour in zip(curves, SERIES, strict=False):
        strengths, accuracies = list(curve.accuracies), list(curve.accuracies.values())
        values = [100 * accuracy.value for accuracy in accuracies]
        trace = line(curve.name, strengths, values, colour)
        trace["error_y"] = error_bars(values, [accuracy.interval for accuracy in accuracies], colour, 1)
        name = escape(curve.name)
        trace["name"] = f"{name}, {short(curve.multiply_adds)}"
        trace["hovertemplate"] = f"{unit} %{{x:.4g}}: %{{y:.1f}} %<extra>{name}</extra>"
        data.append(trace)
        images = accuracies[0].total
        named = [strengths[0], *([] if marked is None else [marked]), strengths[-1]]
        at = [f"{curve.accuracies[s]} % {f'at {unit} {s:.4g}' if s else 'clean'}" for s in named]
        words.append(
            f"{curve.name} ({short(curve.multiply_adds)} multiply-adds, {images} test images): {', '.join(at)}."
        )
        rows += [
            [curve.name, f"{strength:.4g}", accuracy.with_interval, str(images)]
            for strength, accuracy in curve.accuracies.items()
        ]
    head = ["student", unit, "accuracy %, 95 % interval", "test images"]
    layout = {**layout, "yaxis": axis("accuracy, %", range=[0, 103])}
    return Plot(data, layout, f"Test accuracy {what}. " + " ".join(words), head, rows)


def corruptions_plot(found: dict[str, dict[str, Any]]) -> Plot:
    """Mean accuracy over severities by corruption, with 95 % intervals; ``found`` has corruptions.json by student."""
    data, words, rows = [], [], []
    for (name, measured), colour in zip(found.items(), SERIES, strict=False):
        kinds = measured["corruptions"]
        means = [kind["mean"] for kind in kinds.values()]
        values = [100 * mean["accuracy"] for mean in means]
        trace = line(name, list(kinds), values, colour) | {"mode": "markers"}
        trace["error_y"] = error_bars(values, [tuple(mean["interval_95"]) for mean in means], colour, 1)
        data.append(trace)
        words.append(
            f"{name}, {measured['images']} test images: {percent(measured['mean']['accuracy'])} % on average, "
            f"{percent(measured['clean']['accuracy'])} % clean."
        )
        rows += [
            [name, kind, *(percent(row["accuracy"]) for row in of["severities"]), percent(of["mean"]["accuracy"])]
            for kind, of in kinds.items()
        ]
    head = ["student", "corruption", "1", "2", "3", "4", "5", "mean %"]
    layout = {"xaxis": axis("", tickangle=-45), "yaxis": axis("accuracy, %", range=[0, 103])}
    return Plot(data, layout, "Mean accuracy over five severities by corruption. " + " ".join(words), head, rows)


def latency_plot(table: LatencyTable) -> Plot:
    """Predicted against measured latency of whole students."""
    ends = [min(s.measured for s in table.students), max(s.measured for s in table.students)]
    data = [{**line("equal", [1000 * end for end in ends], [1000 * end for end in ends], MUTED), "mode": "lines"}]
    for held_out, name, colour in ((True, "held out", SERIES[0]), (False, "of the fit", SERIES[1])):
        group = [student for student in table.students if student.held_out == held_out]
        data.append(
            {
                **line(name, [1000 * s.measured for s in group], [1000 * s.predicted for s in group], colour),
                "mode": "markers",
                "text": [f"{short(student.multiply_adds)} multiply-adds" for student in group],
                "hovertemplate": f"%{{text}}<br>measured %{{x:.3g}} ms, predicted %{{y:.3g}} ms<extra>{name}</extra>",
            }
        )
    error = "" if table.error is None else f" Median error of held-out students {100 * table.error:.1f} %."
    rank = "" if table.rank_correlation is None else f" Rank correlation (Spearman) {table.rank_correlation:.2f}."
    rows = [
        [short(s.multiply_adds), *map(short_time, (s.predicted, s.measured, s.p95)), "yes" if s.held_out else "no"]
        for s in table.students
    ]
    head = ["multiply-adds", "predicted", "measured (median)", "p95", "held out"]
    layout = {"xaxis": axis("measured, ms"), "yaxis": axis("predicted, ms")}
    return Plot(data, layout, f"Latency of {len(table.students)} whole students.{error}{rank}", head, rows, height=340)


def savings_plot(found: Savings) -> Plot:
    """What N students cost: one training for all and an extraction each, or a training each."""
    factor, unit = (1000, "Wh") if found.unit == "kwh" else (1, "s")
    once, each, alone = (factor * getattr(part, found.unit) for part in (found.once, found.extraction, found.alone))
    most = max(10, math.ceil(2 * (found.break_even or 0)))
    counts = list(range(1, most + 1)) if most <= 60 else [round(1 + i * (most - 1) / 59) for i in range(60)]
    data = [
        line("one training for all", counts, [once + each * count for count in counts], SERIES[0]),
        line("each trained alone", counts, [alone * count for count in counts], SERIES[1]),
    ]
    for trace in data:
        trace |= {"mode": "lines", "hovertemplate": f"%{{x}} students: %{{y:.3g}} {unit}<extra>{trace['name']}</extra>"}
    summary = (
        f"One training took {once:.3g} {unit}, and {each:.3g} {unit} for each student extracted; a student trained "
        f"alone took {alone:.3g} {unit} on average. {found.conclusion}"
    )
    layout = {"xaxis": axis("students (budgets)"), "yaxis": axis(unit, rangemode="tozero")}
    rows = [[str(n), f"{once + each * n:.3g}", f"{alone * n:.3g}"] for n in (1, 2, 5, 10, 20, 50, 100)]
    head = ["students", f"one training for all, {unit}", f"each trained alone, {unit}"]
    return Plot(data, layout, summary, head, rows, height=300)
