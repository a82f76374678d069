"""Drawings as SVG text, for the report's page and for notebooks: the stages of a student, and accuracy against cost.

Colours are attributes of the shapes: what a notebook shows, light or dark. A page's style overrides them by class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Protocol

from proard.common.units import short

HEIGHT, WIDTH, LEAST, GAP, GROUP_GAP = 44.0, 15.0, 3.0, 3.0, 10.0  # pixels; a bar of the largest student is 15 x 44
LINE = 11.0  # of text
CHARACTER = 5.6
CLEAN, ROBUST, MUTED = "#3f8ed0", "#dc6a2e", "#8b95a3"  # told apart by colour-blind readers, on white and on black
PLOT_WIDTH, PLOT_HEIGHT = 460.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 24.0, 36.0  # margins of a plot


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
        width: relative to the largest student's, in (0, 1].
        expand: likewise.
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
    places: dict[str, list[Choice]] = {}
    for decision in decisions:
        places.setdefault(decision.name.rpartition(".")[0], []).append(decision)
    widths = {place: decision for place, group in places.items() for decision in group if decision.kind == "width"}
    found: dict[str, list[Bar]] = {}
    for place, group in places.items():
        own = [decision for decision in group if decision.kind != "depth"]
        inside = any(other != place and _within(other, place) for other in places)
        if not own or (inside and all(decision.kind == "width" for decision in own)):
            continue
        bar = Bar(present=all(decision.name in architecture for decision in own))
        nearest = [widths[above] for above in _upwards(place) if above in widths]
        if nearest and nearest[0].name in architecture:
            bar.width = architecture[nearest[0].name] / nearest[0].choices[-1]
        for decision in own:
            if decision.kind == "width" or decision.name not in architecture:
                continue
            if decision.kind == "expand":
                bar.expand = architecture[decision.name] / decision.choices[-1]
            else:
                bar.notes.append(f"{architecture[decision.name]:g}")
        found.setdefault(stage_of(place), []).append(bar)
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
    return _svg("stages", width, height, f"<title>{title}</title>{''.join(shapes)}")


def _svg(kind: str, width: float, height: float, inside: str) -> str:
    """A drawing of this many pixels, or as wide as there is room; text in the colour of the text around it."""
    return (
        f'<svg class="{kind}" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:100%;height:auto" fill="currentColor" '
        f'font-family="system-ui, sans-serif" font-size="9" text-anchor="middle">{inside}</svg>'
    )


def _rectangle(kind: str, left: float, width: float, height: float) -> str:
    """On the common ground line."""
    colour = f'fill="none" stroke="{MUTED}" stroke-dasharray="2 2"' if kind == "ghost" else f'fill="{CLEAN}"'
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{1 + HEIGHT - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" {colour}/>'
    )


def _text(kind: str, middle: float, line: int, text: str) -> str:
    """In a line below the ground line, counted from 0."""
    return f'<text class="{kind}" x="{middle:.1f}" y="{1 + HEIGHT + LINE * (line + 1):.1f}">{escape(text)}</text>'


def _within(place: str, other: str) -> bool:
    """Whether a place is ``other``, or below it."""
    return not other or place == other or place.startswith(f"{other}.")


def _upwards(place: str) -> list[str]:
    """The place and all above it, nearest first."""
    parts = place.split(".") if place else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


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
    """Accuracy in per cent over a cost on a log scale.

    Args:
        series: with at least one point in all; the last is drawn on top.
        across_label: what the horizontal axis shows.
    """
    points = [point for one in series for point in one.points]
    across = _Axis.logarithmic([x for x, _ in points], LEFT, PLOT_WIDTH - RIGHT)
    upwards = _Axis.linear([100 * y for _, y in points], PLOT_HEIGHT - BOTTOM, TOP)
    shapes = [_plot_text(across.place(tick), PLOT_HEIGHT - BOTTOM + 14, short(tick)) for tick in across.ticks]
    for tick in upwards.ticks:
        y = upwards.place(tick)
        shapes.append(
            f'<line x1="{LEFT:.1f}" y1="{y:.1f}" x2="{PLOT_WIDTH - RIGHT:.1f}" y2="{y:.1f}" stroke="{MUTED}" '
            'stroke-opacity="0.4"/>'
        )
        shapes.append(_plot_text(LEFT - 5, y + 3.5, f"{tick:g}", "end"))
    shapes.append(_plot_text((LEFT + PLOT_WIDTH - RIGHT) / 2, PLOT_HEIGHT - 6, across_label))
    shapes.append(_plot_text(2, 11, "accuracy, %", "start"))
    x = LEFT + 90
    for one in series:
        shapes.append(_dot(x, 7.5, one))
        shapes.append(_plot_text(x + 7, 11, one.name, "start"))
        x += 24 + CHARACTER * len(one.name)
        shapes += [_dot(across.place(cost), upwards.place(100 * accuracy), one) for cost, accuracy in one.points]
    return _svg("accuracy", PLOT_WIDTH, PLOT_HEIGHT, "".join(shapes))


@dataclass(frozen=True)
class _Axis:
    """Where a value stands between two ends, in pixels; and values to be written beside it."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool

    @classmethod
    def linear(cls, values: Iterable[float], start: float, end: float) -> _Axis:
        """With round ticks, four or so."""
        low, high = min(values := list(values)), max(values)
        step = next((s for s in (0.5, 1, 2, 5, 10) if high - low <= 4 * s), 20)
        first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
        ticks = tuple(step * n for n in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, end, ticks, False)

    @classmethod
    def logarithmic(cls, values: Iterable[float], start: float, end: float) -> _Axis:
        """With ticks at 1, 2 and 5 times a power of ten, as far as they do not crowd."""
        low, high = min(values := list(values)) / 1.15, max(values) * 1.15
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 5), (1,)):
            ticks = tuple(f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high)
            if len(ticks) <= 8:
                break
        return cls(low, high, start, end, ticks or tuple(sorted({min(values), max(values)})), True)

    def place(self, value: float) -> float:
        """In pixels."""
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def _dot(x: float, y: float, series: Series) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.2 if series.small else 3.6}" fill="{series.colour}"/>'


def _plot_text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}">{escape(text)}</text>'
