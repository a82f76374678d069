"""Interactive figures as plain values for plotly, each with a summary in words and its numbers as a table.

Colours are names of the page's style, such as ``var(--robust)``: the page's script puts in those of the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from proard.budgets import short, short_time
from proard.latency import LatencyTable
from proard.report.attacked import Curve
from proard.report.pictures import in_words
from proard.report.sampling import SampledPhase
from proard.report.subject import COSTS, Scores, Student, best_within

BINS = 8  # colours of the style, from the cheapest to the most expensive
CLEAN, ROBUST, MUTED = "var(--clean)", "var(--robust)", "var(--muted)"
SERIES = ("var(--series-0)", "var(--series-1)", "var(--series-2)", "var(--series-3)")


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        data: plotly's traces.
        layout: what the page's own layout does not say: axes, shapes.
        summary: what is to be seen, in a sentence or two.
        head: of the table of its numbers.
        rows: likewise.
        height: pixels.
    """

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    summary: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    height: int = 380


def percent(value: float | None) -> str:
    """``93.1``, or a dash where it is not known."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


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
        data.append(_scatter(name, known, cost, "robust", mode="markers", opacity=0.35, size=5))
    most = max(student.costs[cost] for student in known)
    data.append(_to_the_right(_scatter("best within a budget, robust", best, cost, "robust", shape="hv"), most))
    data.append(_to_the_right(_scatter("the same students, clean", best, cost, "clean", shape="hv"), most))
    for alone, label, symbol in ((False, "extracted", "diamond"), (True, "trained alone", "x")):
        group = [student for student in students if student.alone == alone and student.test and cost in student.costs]
        data += [
            _scatter(f"{label}, {what} (test)", group, cost, what, test=True, symbol=symbol)
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
        [
            student.name,
            short(student.costs[cost]),
            percent(student.validation.clean),
            percent(student.validation.robust),
        ]
        for student in best
        if student.validation
    ]
    head = ["student", COSTS[cost], "clean %, validation", "robust %, validation"]
    axis = {"title": {"text": COSTS[cost]}, "tickformat": "~s", **_log(low.costs[cost], high.costs[cost])}
    return Plot(data, {"xaxis": axis, "yaxis": {"title": {"text": "accuracy, %"}}}, summary, head, rows, height=440)


def _scatter(
    name: str,
    students: Sequence[Student],
    cost: str,
    what: str,
    *,
    mode: str = "lines+markers",
    opacity: float = 1.0,
    size: int = 7,
    shape: str = "linear",
    test: bool = False,
    symbol: str = "circle",
) -> dict[str, Any]:
    """Students of one split."""
    scores = [student.test if test else student.validation for student in students]
    colour = ROBUST if what == "robust" else CLEAN
    values = [100 * getattr(score, what) for score in scores]
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": name,
        "mode": "markers" if test else mode,
        "x": [student.costs[cost] for student in students],
        "y": values,
        "text": [hover(student) for student in students],
        "hovertemplate": f"%{{text}}<br><b>{what} %{{y:.1f}} %</b><extra>{escape(name)}</extra>",
        "marker": {"color": colour, "size": 10 if test else size, "symbol": symbol, "opacity": opacity},
        "line": {"color": colour, "shape": shape, "width": 2, "dash": "solid" if what == "robust" else "dot"},
    }
    if test and all(score is not None and score.intervals for score in scores):
        ends = [score.intervals[what] for score in scores if score is not None and score.intervals]
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [100 * high - value for (_, high), value in zip(ends, values, strict=True)],
            "arrayminus": [value - 100 * low for (low, _), value in zip(ends, values, strict=True)],
            "color": colour,
            "thickness": 1.5,
        }
    return trace


def _to_the_right(trace: dict[str, Any], end: float) -> dict[str, Any]:
    """The same line up to ``end``: what is best within a budget stays so until another is."""
    size = trace["marker"]["size"]
    trace["marker"] = {**trace["marker"], "size": [size] * len(trace["x"]) + [0]}
    for key, last in (("x", end), ("y", trace["y"][-1]), ("text", trace["text"][-1])):
        trace[key] = [*trace[key], last]
    return trace


# ---------------------------------------------------------------------------------------------------------------------
# Training


def training_plots(rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Loss and accuracies over all epochs, phase after phase; rows of metrics.jsonl."""
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    phases = list(dict.fromkeys(row["phase"] for row in epochs))
    first: dict[str, int] = {}
    for phase in phases:
        first[phase] = 1 + sum(row["phase"] in first for row in epochs)
    by_phase = {phase: [row for row in epochs if row["phase"] == phase] for phase in phases}

    def at(row: Mapping[str, Any]) -> int:
        return first[row["phase"]] + row["epoch"]

    shapes = [
        {"type": "line", "x0": start - 0.5, "x1": start - 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": _thin()}
        for start in list(first.values())[1:]
    ]
    names = [
        {"x": start, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "left", "text": escape(phase)}
        for phase, start in first.items()
    ]
    axes: dict[str, Any] = {
        "xaxis": {"title": {"text": "epoch of the run"}, "range": [0.5, len(epochs) + 0.5], **_whole(len(epochs))},
        "shapes": shapes,
        "annotations": [{**name, "showarrow": False} for name in names],
    }
    losses = [
        {
            **_line(phase, [at(row) for row in group], [row["loss"] for row in group], SERIES[index % len(SERIES)]),
            "showlegend": False,
            "hovertemplate": f"epoch %{{x}}: loss %{{y:.4g}}<extra>{escape(phase)}</extra>",
        }
        for index, (phase, group) in enumerate(by_phase.items())
    ]
    values = [row["loss"] for row in epochs]
    plots = [
        Plot(
            losses,
            {
                **axes,
                "yaxis": {
                    "title": {"text": "training loss (log)"},
                    "tickformat": "~g",
                    **_log(min(values), max(values)),
                },
            },
            "Training loss by epoch, of each phase's own objective, so that phases cannot be compared. "
            + " ".join(
                f"Phase {phase}: {group[0]['loss']:.3g} in the first of {len(group)} epochs, "
                f"{group[-1]['loss']:.3g} in the last."
                for phase, group in by_phase.items()
            ),
            ["phase", "epoch", "loss", "clean %, training", "robust %, training"],
            [
                [
                    row["phase"],
                    str(row["epoch"] + 1),
                    f"{row['loss']:.4g}",
                    percent(row["clean"]),
                    percent(row["robust"]),
                ]
                for row in epochs
            ],
            height=300,
        )
    ]
    validations = [row for row in rows if row.get("kind") == "validation" and row.get("phase") in first]
    if validations:
        plots.append(_validated(validations, axes, at))
    return plots


def _validated(validations: Sequence[Mapping[str, Any]], axes: dict[str, Any], at: Any) -> Plot:
    """Clean and robust accuracy of the students that were validated; random ones as their mean."""
    styles = {"largest": "solid", "smallest": "dot", "random": "dash"}
    values: dict[tuple[str, str], dict[int, float]] = {}
    for row in validations:
        groups: dict[str, list[Any]] = {}
        for name, measured in row["students"].items():
            groups.setdefault(name if name in styles else "random", []).append(measured)
        for group, members in groups.items():
            for what in ("clean", "robust"):
                mean = sum(member[what] for member in members) / len(members)
                values.setdefault((group, what), {})[at(row)] = mean
    data = []
    for (group, what), points in values.items():
        colour = ROBUST if what == "robust" else CLEAN
        line = _line(f"{group}, {what}", list(points), [100 * value for value in points.values()], colour)
        line["line"]["dash"] = styles[group]
        line["hovertemplate"] = f"epoch %{{x}}: %{{y:.1f}} %<extra>{group}, {what}</extra>"
        data.append(line)
    last = {key: list(points.values())[-1] for key, points in values.items()}
    summary = (
        f"Accuracy of validated students (validation images, {validations[-1]['attack']}; random: mean of the others). "
        "In the end: " + ", ".join(f"{group} {percent(value)} % {what}" for (group, what), value in last.items()) + "."
    )
    rows = [
        [group, what, str(epoch), percent(value)]
        for (group, what), points in values.items()
        for epoch, value in points.items()
    ]
    layout = {**axes, "yaxis": {"title": {"text": "validation accuracy, %"}}}
    return Plot(data, layout, summary, ["student", "accuracy", "epoch of the run", "%"], rows)


# ---------------------------------------------------------------------------------------------------------------------
# The sampler


def sampling_plots(phase: SampledPhase) -> list[Plot]:
    """Shares of the bins in the trained students over the epochs, and their robust gap."""
    colours = [
        f"var(--bin-{round(index * (BINS - 1) / max(len(phase.bins) - 1, 1))})" for index in range(len(phase.bins))
    ]
    epochs = phase.epochs.tolist()
    bars, lines = [], []
    for index, (name, colour) in enumerate(zip(phase.bins, colours, strict=True)):
        shares, gaps = 100 * phase.shares[:, index], phase.robust_gap[:, index]
        extra = f"<extra>{name}</extra>"
        bars.append(
            {
                "type": "bar",
                "name": name,
                "x": epochs,
                "y": _finite(shares),
                "marker": {"color": colour},
                "hovertemplate": f"epoch %{{x}}: %{{y:.0f}} % of the trained students{extra}",
            }
        )
        lines.append(
            {
                **_line(name, epochs, _finite(gaps), colour),
                "hovertemplate": f"epoch %{{x}}: gap %{{y:.4f}} nats{extra}",
            }
        )
    axis = {"title": {"text": f"epoch of phase {escape(phase.name)}"}, **_whole(len(epochs))}
    total = phase.sampled.sum(axis=0)
    share = total / max(total.sum(), 1)
    counted = ", ".join(f"{name} {percent(value)} %" for name, value in zip(phase.bins, share, strict=True))
    words = f"Phase {phase.name}, sampler {phase.sampler}: {int(total.sum()):,} students trained. "
    head = ["epoch", *phase.bins]
    plots = [
        Plot(
            bars,
            {
                "barmode": "stack",
                "bargap": 0.1,
                "xaxis": axis,
                "yaxis": {"title": {"text": "share, %"}, "range": [0, 100]},
            },
            f"{words}Their share by multiply-adds, over all epochs: {counted}.",
            head,
            [[str(e), *map(percent, row)] for e, row in zip(epochs, phase.shares, strict=True)],
            height=340,
        )
    ]
    known = ~np.isnan(phase.robust_gap)
    if known.any():
        worst = phase.bins[int(np.nanargmax(np.where(known.any(0), np.nan_to_num(phase.robust_gap).mean(0), np.nan)))]
        plots.append(
            Plot(
                lines,
                {"xaxis": axis, "yaxis": {"title": {"text": "robust gap, nats"}}},
                "Robust gap by multiply-adds: how much farther than the largest student they are from the teacher on "
                f"adversarial training images. Largest on average in {worst}.",
                head,
                [
                    [str(epoch), *("-" if math.isnan(v) else f"{v:.4f}" for v in row)]
                    for epoch, row in zip(epochs, phase.robust_gap, strict=True)
                ],
                height=340,
            )
        )
    return plots


# ---------------------------------------------------------------------------------------------------------------------
# Attacks, the predictor, latency, energy


def radii_plot(curves: Sequence[Curve], attack: str, norm: str, eps: float) -> Plot:
    """Robust accuracy over the radius, with 95 % intervals."""
    data, words, rows = [], [], []
    for curve, colour in zip(curves, SERIES, strict=False):
        radii, values = list(curve.accuracies), list(curve.accuracies.values())
        line = _line(curve.victim.name, radii, [100 * value.value for value in values], colour)
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [100 * (value.interval[1] - value.value) for value in values],
            "arrayminus": [100 * (value.value - value.interval[0]) for value in values],
            "color": colour,
            "thickness": 1,
        }
        name = escape(curve.victim.name)
        line["name"] = f"{name}, {short(curve.victim.multiply_adds)}"
        line["hovertemplate"] = f"eps %{{x:.4g}}: %{{y:.1f}} %<extra>{name}</extra>"
        data.append(line)
        images = values[0].total
        at_eps = curve.accuracies[eps]
        words.append(
            f"{curve.victim.name} ({short(curve.victim.multiply_adds)} multiply-adds, {images} test images): "
            f"{values[0]} % clean, {at_eps} % at eps {eps:.4g}, {values[-1]} % at {radii[-1]:.4g}."
        )
        rows += [
            [
                curve.victim.name,
                f"{radius:.4g}",
                f"{value} ({percent(value.interval[0])}-{percent(value.interval[1])})",
                str(images),
            ]
            for radius, value in curve.accuracies.items()
        ]
    mark = {
        "type": "line",
        "x0": eps,
        "x1": eps,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {**_thin(), "dash": "dash"},
    }
    note = {"x": eps, "y": 1, "yref": "paper", "yanchor": "bottom", "text": "threat model", "showarrow": False}
    layout = {
        "xaxis": {"title": {"text": f"eps ({norm})"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"accuracy under {attack}, %"}, "range": [0, 103]},
        "shapes": [mark],
        "annotations": [note],
    }
    return Plot(data, layout, f"Test accuracy under {attack} by radius. " + " ".join(words), _CURVE_HEAD, rows)


_CURVE_HEAD = ("student", "eps", "accuracy %, 95 % interval", "test images")


def learning_plot(curve: Sequence[Mapping[str, Any]]) -> Plot:
    """Rank correlation of the predictors by the number of labels."""
    data = []
    for what, colour in (("clean", CLEAN), ("robust", ROBUST)):
        line = _line(what, [point["labels"] for point in curve], [point["tau"][what] for point in curve], colour)
        data.append({**line, "hovertemplate": f"%{{x}} labels: tau %{{y:.2f}}<extra>{what}</extra>"})
    last = curve[-1]
    summary = (
        f"Kendall's tau of held-out predictions by the number of labels; with {last['labels']}: "
        f"clean {last['tau']['clean']:.2f}, robust {last['tau']['robust']:.2f}."
    )
    rows = [[str(p["labels"]), f"{p['tau']['clean']:.2f}", f"{p['tau']['robust']:.2f}"] for p in curve]
    layout = {"xaxis": {"title": {"text": "labels"}}, "yaxis": {"title": {"text": "Kendall's tau"}}}
    return Plot(data, layout, summary, ["labels", "clean tau", "robust tau"], rows, height=300)


def latency_plot(table: LatencyTable) -> Plot:
    """Predicted against measured latency of whole students."""
    ends = [min(s.measured for s in table.students), max(s.measured for s in table.students)]
    data = [{**_line("equal", [1000 * end for end in ends], [1000 * end for end in ends], MUTED), "mode": "lines"}]
    for held_out, name, colour in ((True, "held out", SERIES[0]), (False, "of the fit", SERIES[1])):
        group = [student for student in table.students if student.held_out == held_out]
        data.append(
            {
                **_line(name, [1000 * s.measured for s in group], [1000 * s.predicted for s in group], colour),
                "mode": "markers",
                "text": [f"{short(student.multiply_adds)} multiply-adds" for student in group],
                "hovertemplate": f"%{{text}}<br>measured %{{x:.3g}} ms, predicted %{{y:.3g}} ms<extra>{name}</extra>",
            }
        )
    error = "" if table.error is None else f" Median error of held-out students {100 * table.error:.1f} %."
    rank = "" if table.rank_correlation is None else f" Rank correlation (Spearman) {table.rank_correlation:.2f}."
    rows = [
        [
            short(student.multiply_adds),
            short_time(student.predicted),
            short_time(student.measured),
            short_time(student.p95),
            "yes" if student.held_out else "no",
        ]
        for student in table.students
    ]
    head = ["multiply-adds", "predicted", "measured (median)", "p95", "held out"]
    layout = {"xaxis": {"title": {"text": "measured, ms"}}, "yaxis": {"title": {"text": "predicted, ms"}}}
    return Plot(data, layout, f"Latency of {len(table.students)} whole students.{error}{rank}", head, rows, height=340)


def savings_plot(run: float, alone: float, unit: str, break_even: float) -> Plot:
    """What N students cost: one training for all, or one each; in a unit of energy or time."""
    most = max(10, math.ceil(2 * break_even)) if math.isfinite(break_even) else 10
    counts = list(range(1, most + 1)) if most <= 60 else [round(1 + i * (most - 1) / 59) for i in range(60)]
    data = [
        _line("one training for all", counts, [run] * len(counts), SERIES[0]),
        _line("each trained alone", counts, [alone * count for count in counts], SERIES[1]),
    ]
    for trace in data:
        trace |= {"mode": "lines", "hovertemplate": f"%{{x}} students: %{{y:.3g}} {unit}<extra>{trace['name']}</extra>"}
    summary = (
        f"One training took {run:.3g} {unit}; a student trained alone took {alone:.3g} {unit} on average. "
        f"One training is cheaper from {break_even:.1f} students on."
    )
    layout = {
        "xaxis": {"title": {"text": "students (budgets)"}},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
    }
    rows = [[str(n), f"{run:.3g}", f"{alone * n:.3g}"] for n in (1, 2, 5, 10, 20, 50, 100)]
    head = ["students", f"one training for all, {unit}", f"each trained alone, {unit}"]
    return Plot(data, layout, summary, head, rows, height=300)


def _line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
    }


def _log(low: float, high: float) -> dict[str, Any]:
    """A log axis for these values, whose ticks do not crowd: at 1, 2 and 5, where that is enough of them."""
    return {"type": "log", "dtick": "D2"} if high > 5 * low > 0 else {"type": "log"}


def _whole(count: int) -> dict[str, Any]:
    """Ticks of an axis that counts: never between two numbers."""
    return {"dtick": 1} if count <= 12 else {}


def _thin() -> dict[str, Any]:
    return {"color": MUTED, "width": 1}


def _finite(values: Iterable[float]) -> list[float | None]:
    """For JSON: unknown values are null."""
    return [float(value) if math.isfinite(value) else None for value in values]
