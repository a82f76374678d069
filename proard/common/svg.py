"""Drawings as SVG text, for the report's page and for notebooks: the stages of a student, and accuracy against cost.

Colours are attributes of the shapes: what a notebook shows, light or dark. A page's style overrides them by class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import Any, Protocol

from proard.common.units import short

HEIGHT, WIDTH, LEAST, GAP, GROUP_GAP = 44.0, 15.0, 3.0, 3.0, 10.0  # pixels; a bar of the largest student is 15 x 44
LINE = 11.0  # of text
CHARACTER = 5.6
CLEAN, ROBUST, MUTED = "#3f8ed0", "#dc6a2e", "#8b95a3"  # told apart by colour-blind readers, on white and on black
GREY = "#808080"  # of a plot's text, for both backgrounds


class Choice(Protocol):
    """A decision as it is drawn: where it is (``stage1.block2.expand``), its kind, and its values, largest last."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def choices(self) -> tuple[float, ...]: ...


@dataclass
class Bar:
    """A block, or another part with a width of its own.

    Attributes:
        width: of what leaves it, relative to the largest student's, in (0, 1].
        expand: breadth inside of it, relative to the largest student's, in (0, 1].
        present: whether the student has it.
        notes: the values of all other decisions, such as a kernel's side.
    """

    width: float = 1.0
    expand: float = 1.0
    present: bool = True
    notes: list[str] = field(default_factory=list)


def stages(decisions: Sequence[Choice], architecture: Mapping[str, float]) -> dict[str, list[Bar]]:
    """The parts of a student by stage, in the order of the network; also those that only the largest one has.

    Works for any family: a decision's name says where it is (``stage1.block2.expand``) and its kind what it does. A
    width counts for everything below its place; a depth shows in the blocks that are present.
    """
    places: dict[tuple[str, ...], list[Choice]] = {}
    for decision in decisions:
        places.setdefault(tuple(decision.name.split(".")[:-1]), []).append(decision)
    widths = {place: decision for place, group in places.items() for decision in group if decision.kind == "width"}
    found: dict[str, list[Bar]] = {}
    for place, group in places.items():
        own = [decision for decision in group if decision.kind != "depth"]
        inside = any(other != place and other[: len(place)] == place for other in places)
        if not own or (inside and all(decision.kind == "width" for decision in own)):
            continue
        bar = Bar(present=all(decision.name in architecture for decision in own))
        upwards = (place[:count] for count in range(len(place), -1, -1))
        nearest = next((widths[above] for above in upwards if above in widths), None)
        if nearest is not None and nearest.name in architecture:
            bar.width = architecture[nearest.name] / nearest.choices[-1]
        for decision in own:
            if decision.kind == "width" or decision.name not in architecture:
                continue
            if decision.kind == "expand":
                bar.expand = architecture[decision.name] / decision.choices[-1]
            else:
                bar.notes.append(f"{architecture[decision.name]:g}")
        found.setdefault(stage_of(".".join(place)), []).append(bar)
    return found


def in_words(architecture: Mapping[str, float]) -> list[str]:
    """A line for every stage, such as ``stage1: width 0.5, depth 1, expand 0.5 1``."""
    lines: dict[str, dict[str, list[str]]] = {}
    for name, value in architecture.items():
        place, _, what = name.rpartition(".")
        lines.setdefault(stage_of(place), {}).setdefault(what, []).append(f"{value:g}")
    return [
        f"{stage or 'network'}: " + ", ".join(f"{what} {' '.join(values)}" for what, values in parts.items())
        for stage, parts in lines.items()
    ]


def stages_svg(decisions: Sequence[Choice], architecture: Mapping[str, float]) -> str:
    """A bar for every block: its height is the width, its breadth the expansion, the outline the largest student.

    Kernel sides, heads and the like are written below.
    """
    shapes: list[str] = []
    labels: list[tuple[float, str]] = []
    x, most_notes = GAP, 0
    for stage, bars in stages(decisions, architecture).items():
        start, label = x, stage or "blocks"
        for bar in bars:
            shapes.append(_rectangle("ghost", x, WIDTH, HEIGHT))
            if bar.present:
                width = max(bar.expand * WIDTH, LEAST)
                shapes.append(_rectangle("bar", x + (WIDTH - width) / 2, width, max(bar.width * HEIGHT, LEAST)))
            shapes += [_text("note", x + WIDTH / 2, line, note) for line, note in enumerate(bar.notes)]
            most_notes = max(most_notes, len(bar.notes))
            x += WIDTH + GAP
        breadth = max(x - GAP - start, CHARACTER * len(label))
        labels.append((start + breadth / 2, label))
        x = start + breadth + GROUP_GAP
    shapes += [_text("stage", middle, most_notes, label) for middle, label in labels]
    width, height = x, 1 + HEIGHT + LINE * (most_notes + 1) + 4
    title = escape("; ".join(in_words(architecture)))
    return (
        f'<svg class="stages" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:100%;height:auto" fill="currentColor" '
        f'font-family="system-ui, sans-serif" font-size="9" text-anchor="middle">'
        f"<title>{title}</title>{''.join(shapes)}</svg>"
    )


def _rectangle(kind: str, left: float, width: float, height: float) -> str:
    """A rectangle that stands on the common ground line."""
    colour = f'fill="none" stroke="{MUTED}" stroke-dasharray="2 2"' if kind == "ghost" else f'fill="{CLEAN}"'
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{1 + HEIGHT - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" {colour}/>'
    )


def _text(kind: str, middle: float, line: int, text: str) -> str:
    """A text in a line below the ground line, counted from 0."""
    return f'<text class="{kind}" x="{middle:.1f}" y="{1 + HEIGHT + LINE * (line + 1):.1f}">{escape(text)}</text>'


def stage_of(place: str) -> str:
    """The stage that a place such as ``stage1.block2`` is in; empty for blocks of a network without stages."""
    first = place.split(".")[0]
    return "" if re.fullmatch(r"block\d+", first) else first


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy against cost


@dataclass(frozen=True)
class Series:
    """Points of one colour.

    Attributes:
        name: in the legend.
        colour: of SVG.
        points: pairs of a positive cost and an accuracy in [0, 1].
        small: in the background.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    small: bool = False


def accuracy_svg(series: Sequence[Series], across_label: str) -> str:
    """Accuracy in per cent over a cost on a log scale, in mid-grey on nothing: to be read on white and on black.

    Args:
        series: each with at least one point; the last is drawn on top.
        across_label: what the horizontal axis shows.
    """
    from matplotlib import rc_context  # only a notebook that shows a front waits for it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: Any = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    style |= {"svg.fonttype": "none", "svg.hashsalt": "proard", "font.size": 8}
    with rc_context(style), StringIO() as file:
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for one in series:
            costs, accuracies = zip(*((cost, 100 * accuracy) for cost, accuracy in one.points), strict=True)
            size = 8 if one.small else 22
            axes.scatter(
                costs, accuracies, s=size, color=one.colour, linewidths=0, clip_on=False, label=one.name, gid=one.name
            )
        axes.set(xscale="log", xlabel=across_label, ylabel="accuracy, %")
        costs, accuracies = zip(*(point for one in series for point in one.points), strict=True)
        places = (min(costs) ** (1 - share) * max(costs) ** share for share in (0, 1 / 3, 2 / 3, 1))
        ticks = {short(place): place for place in places}
        axes.set_xticks(list(ticks.values()), list(ticks))
        axes.minorticks_off()
        low, high = math.floor(100 * min(accuracies)) - 1, math.ceil(100 * max(accuracies)) + 1
        axes.set_ylim(max(low, 0), min(high, 100))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y", color=GREY, alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=len(series), frameon=False)
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
        return file.getvalue()
