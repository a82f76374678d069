"""What figures are made with: plain values for plotly, a summary in words, and the numbers as a table.

Colours are names of the page's style, such as ``var(--robust)``: the page's script puts in those of the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from proard.common import html

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
        rows: of that table.
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


@dataclass
class Plots:
    """The figures of a page.

    Attributes:
        kept: what the page's script draws, by name.
    """

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, plot: Plot, name: str) -> None:
        """Have the script draw it wherever its name stands."""
        own = {"data": plot.data, "layout": plot.layout, "height": plot.height, "summary": plot.summary}
        self.kept[name] = own

    def figure(self, plot: Plot, name: str, place: str) -> str:
        """A place for a plot, with its summary; ``place`` is its id."""
        summary = escape(plot.summary)
        return (
            f'<figure><div class="plot" id="{place}" data-plot="{name}" role="img" aria-label="{summary}" '
            f'style="min-height:{plot.height}px"></div><figcaption>{summary}</figcaption></figure>'
        )

    def add(self, plot: Plot, name: str) -> str:
        """Keep a plot; its place and its table in HTML."""
        self.keep(plot, name)
        return self.figure(plot, name, f"{name}-plot") + html.details("as a table", html.table(plot.head, plot.rows))


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str) -> dict[str, Any]:
    """A trace of points that are joined."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
    }


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A log axis for these values, whose ticks do not crowd: at 1, 2 and 5, where that is enough of them."""
    return {"type": "log", "dtick": "D2"} if high > 5 * low > 0 else {"type": "log"}


def counting_axis(count: int) -> dict[str, Any]:
    """Ticks of an axis that counts: never between two numbers."""
    return {"dtick": 1} if count <= 12 else {}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title, and what plotly is to know of it."""
    return {"title": {"text": title}, **more}


def mark(x: float, **style: Any) -> dict[str, Any]:
    """A thin vertical line, which marks something and is no data."""
    ends = {"x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
    return {"type": "line", **ends, "line": {"color": MUTED, "width": 1, **style}}


def note(x: float, text: str, **more: Any) -> dict[str, Any]:
    """A text above the plot."""
    place = {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom"}
    return {**place, "text": escape(text), "showarrow": False, **more}


def error_bars(
    values: Sequence[float], intervals: Sequence[tuple[float, float]], colour: str, thickness: float
) -> dict[str, Any]:
    """The ends of intervals in [0, 1], around values in per cent."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * high - value for value, (_, high) in zip(values, intervals, strict=True)],
        "arrayminus": [value - 100 * low for value, (low, _) in zip(values, intervals, strict=True)],
        "color": colour,
        "thickness": thickness,
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """The values as JSON has them: null for what is not known."""
    return [float(value) if math.isfinite(value) else None for value in values]
