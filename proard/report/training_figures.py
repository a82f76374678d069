"""Figures of a training: losses and validations by epoch, and what the sampler drew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from proard.report.plots import (
    BINS,
    CLEAN,
    ROBUST,
    SERIES,
    Plot,
    axis,
    counting_axis,
    finite,
    line,
    log_axis,
    mark,
    note,
    percent,
)
from proard.report.sampling_plot import SampledPhase


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

    axes: dict[str, Any] = {
        "xaxis": axis("epoch of the run", range=[0.5, len(epochs) + 0.5], **counting_axis(len(epochs))),
        "shapes": [mark(start - 0.5) for start in list(first.values())[1:]],
        "annotations": [note(start, phase, xanchor="left") for phase, start in first.items()],
    }
    losses = [
        {
            **line(phase, [at(row) for row in group], [row["loss"] for row in group], SERIES[index % len(SERIES)]),
            "showlegend": False,
            "hovertemplate": f"epoch %{{x}}: loss %{{y:.4g}}<extra>{escape(phase)}</extra>",
        }
        for index, (phase, group) in enumerate(by_phase.items())
    ]
    values = [row["loss"] for row in epochs]
    yaxis = axis("training loss (log)", tickformat="~g", **log_axis(min(values), max(values)))
    summary = "Training loss by epoch, of each phase's own objective, so that phases cannot be compared. " + " ".join(
        f"Phase {phase}: {group[0]['loss']:.3g} in the first of {len(group)} epochs, "
        f"{group[-1]['loss']:.3g} in the last."
        for phase, group in by_phase.items()
    )
    head = ["phase", "epoch", "loss", "clean %, training", "robust %, training"]
    table = [
        [row["phase"], str(row["epoch"] + 1), f"{row['loss']:.4g}", percent(row["clean"]), percent(row["robust"])]
        for row in epochs
    ]
    plots = [Plot(losses, {**axes, "yaxis": yaxis}, summary, head, table, height=300)]
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
        trace = line(f"{group}, {what}", list(points), [100 * value for value in points.values()], colour)
        trace["line"]["dash"] = styles[group]
        trace["hovertemplate"] = f"epoch %{{x}}: %{{y:.1f}} %<extra>{group}, {what}</extra>"
        data.append(trace)
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
    layout = {**axes, "yaxis": axis("validation accuracy, %")}
    return Plot(data, layout, summary, ["student", "accuracy", "epoch of the run", "%"], rows)


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
                "y": finite(shares),
                "marker": {"color": colour},
                "hovertemplate": f"epoch %{{x}}: %{{y:.0f}} % of the trained students{extra}",
            }
        )
        lines.append(
            {
                **line(name, epochs, finite(gaps), colour),
                "hovertemplate": f"epoch %{{x}}: gap %{{y:.4f}} nats{extra}",
            }
        )
    xaxis = axis(f"epoch of phase {escape(phase.name)}", **counting_axis(len(epochs)))
    total = phase.sampled.sum(axis=0)
    share = total / max(total.sum(), 1)
    counted = ", ".join(f"{name} {percent(value)} %" for name, value in zip(phase.bins, share, strict=True))
    words = f"Phase {phase.name}, sampler {phase.sampler}: {int(total.sum()):,} students trained. "
    head = ["epoch", *phase.bins]
    layout = {"barmode": "stack", "bargap": 0.1, "xaxis": xaxis, "yaxis": axis("share, %", range=[0, 100])}
    summary = f"{words}Their share by multiply-adds, over all epochs: {counted}."
    rows = [[str(epoch), *map(percent, row)] for epoch, row in zip(epochs, phase.shares, strict=True)]
    plots = [Plot(bars, layout, summary, head, rows, height=340)]
    known = ~np.isnan(phase.robust_gap)
    if known.any():
        worst = phase.bins[int(np.nanargmax(np.where(known.any(0), np.nan_to_num(phase.robust_gap).mean(0), np.nan)))]
        summary = (
            "Robust gap by multiply-adds: how much farther than the largest student they are from the teacher on "
            f"adversarial training images. Largest on average in {worst}."
        )
        rows = [
            [str(epoch), *("-" if math.isnan(gap) else f"{gap:.4f}" for gap in row)]
            for epoch, row in zip(epochs, phase.robust_gap, strict=True)
        ]
        layout = {"xaxis": xaxis, "yaxis": axis("robust gap, nats")}
        plots.append(Plot(lines, layout, summary, head, rows, height=340))
    return plots
