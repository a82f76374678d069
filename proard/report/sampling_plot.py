"""The work of a sampler made visible: which students it trained over the epochs, and what became of them.

Three panels for every phase in which something is elastic, over its epochs, by bins of multiply-adds: the share of each
bin in the trained students, its robust gap, and its robust accuracy. A sampler that follows the robust gap gives more
of its students to the bins whose line is highest in the second panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proard.common.files import atomic_path
from proard.common.units import short
from proard.runs.run import Run, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT = "sampling.png"
COLOURS = "viridis"  # its lightness grows with the cost: told apart by colour-blind readers, and in grey
LIGHTEST = 0.88  # of the colours from 0 to 1; the yellow beyond is lost on white


@dataclass(frozen=True)
class SampledPhase:
    """What was trained in one phase, by E epochs and B bins of multiply-adds, from the cheapest.

    Attributes:
        name: of the phase.
        sampler: its name.
        edges: multiply-adds, B + 1 of them, ascending.
        epochs: those that are finished, from 1, ascending, shape (E,).
        sampled: students trained, shape (E, B).
        robust_gap: in nats, shape (E, B): the KL divergence from the teacher on adversarial images beyond the largest
            student's; NaN where it is not known.
        robust: accuracy on adversarial training images, in [0, 1], shape (E, B); NaN where not measured.
    """

    name: str
    sampler: str
    edges: tuple[float, ...]
    epochs: np.ndarray
    sampled: np.ndarray
    robust_gap: np.ndarray
    robust: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The bins' shares in the students of an epoch, in [0, 1], shape (E, B); all 0 where none was trained."""
        return self.sampled / np.maximum(self.sampled.sum(axis=1, keepdims=True), 1)

    @property
    def bins(self) -> list[str]:
        """The bins in words, such as ``105K-167K``."""
        return [f"{short(low)}-{short(high)}" for low, high in zip(self.edges, self.edges[1:], strict=False)]


def sampled_phases(run: Run) -> list[SampledPhase]:
    """Read what a run sampled, also of one that has not ended; phases in which nothing is elastic are left out."""
    phases: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in read_metrics(run.metrics):
        if row.get("kind") == "epoch" and len(row.get("bins", ())) > 1:
            # An epoch that was trained again after an interruption replaces the first attempt.
            phases.setdefault(row["phase"], {})[row["epoch"] + 1] = row["bins"]
    if not phases:
        return []
    samplers = {phase.name: phase.sampler.name for phase in run.config().phases}

    def table(epochs: dict[int, list[dict[str, Any]]], column: str) -> np.ndarray:
        """A column by epoch and bin; None becomes NaN."""
        return np.array([[bin_[column] for bin_ in epochs[epoch]] for epoch in sorted(epochs)], dtype=float)

    found = []
    for name, epochs in phases.items():
        edges = [bin_["multiply_adds"] for bin_ in next(iter(epochs.values()))]
        columns = (table(epochs, column) for column in ("sampled", "robust_gap", "robust"))
        ends = (*(low for low, _ in edges), edges[-1][1])
        found.append(SampledPhase(name, samplers.get(name, ""), ends, np.array(sorted(epochs)), *columns))
    return found


def write_sampling_plot(run: str | Path) -> Path | None:
    """Write `sampling_figure` into the run directory as ``sampling.png``.

    Returns:
        The file; None where nothing was sampled.

    Raises:
        UserError: no run there.
        OSError: the directory cannot be written; an older plot stays as it was.
    """
    found = Run.find(run)
    figure = sampling_figure(found)
    if figure is None:
        return None
    path = found.path / PLOT
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def sampling_figure(run: Run) -> Figure | None:
    """Draw what a run sampled; None where nothing was.

    A column for every phase in which something is elastic, with bins and colours of its own; the scales of a row are
    the same. The figure has an Agg canvas of its own: no display is needed, and pyplot's state is not touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phases = sampled_phases(run)
    if not phases:
        return None
    width = 5.6 if len(phases) == 1 else 1.2 + 3.4 * len(phases)
    figure = Figure(figsize=(width, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"students trained in run {run.path.resolve().name}", fontsize="medium")
    panels = figure.subplots(3, len(phases), sharex="col", sharey="row", squeeze=False)
    for phase, (shares, gap, robust) in zip(phases, panels.T, strict=True):
        colours = _colours(len(phase.bins))
        shares.set_title(f"phase {phase.name}, sampler {phase.sampler}", fontsize="medium")
        _draw_shares(shares, phase, colours)
        gap.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        gap.set_yscale("function", functions=(_signed_root, _signed_square))  # or the first epochs hide the others
        _draw_lines(gap, phase, phase.robust_gap, colours)
        _draw_lines(robust, phase, 100 * phase.robust, colours)
        robust.set_xlabel("epoch of the phase")
        robust.xaxis.get_major_locator().set_params(integer=True)
        robust.legend(
            *shares.get_legend_handles_labels(),
            title="multiply-adds of a student",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.28),
            ncols=2,
            frameon=False,
            fontsize="small",
            title_fontsize="small",
        )
    _even_ticks(panels[1, 0])
    labels = (
        "share of trained\nstudents, %",
        "robust gap to the largest\nstudent, nats (root scale)",
        "robust training\naccuracy, %",
    )
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    return figure


def _colours(count: int) -> list[Any]:
    """From dark for the cheapest bin to light."""
    import matplotlib

    return [matplotlib.colormaps[COLOURS](LIGHTEST * index / max(count - 1, 1)) for index in range(count)]


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)


def _even_ticks(axes: Axes) -> None:
    """Set ticks of the root scale: evenly spaced on it, squares of round numbers."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    roots = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*_signed_root(np.array([low, high])))
    ticks = [tick for tick in _signed_square(np.asarray(roots)) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])


def _draw_shares(axes: Axes, phase: SampledPhase, colours: Sequence[Any]) -> None:
    """Stacked areas, a step for every epoch, in per cent; an epoch of which nothing is known stays empty."""
    first, last = int(phase.epochs[0]), int(phase.epochs[-1])
    heights = np.zeros((last - first + 1, len(phase.bins)))
    heights[phase.epochs - first] = 100 * phase.shares
    tops = heights.cumsum(axis=1)
    edges = np.arange(first, last + 2) - 0.5
    for top, height, colour, label in zip(tops.T, heights.T, colours, phase.bins, strict=True):
        style = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.6, "label": label}
        axes.stairs(top, edges, baseline=top - height, fill=True, **style)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 100)


def _draw_lines(axes: Axes, phase: SampledPhase, values: np.ndarray, colours: Sequence[Any]) -> None:
    """A line for every bin over the epochs; values (E, B)."""
    style: dict[str, Any] = {"marker": "o", "markersize": 3 if len(phase.epochs) <= 20 else 1.5, "linewidth": 1.4}
    for line, colour, label in zip(values.T, colours, phase.bins, strict=True):
        axes.plot(phase.epochs, line, color=colour, label=label, **style)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if np.isnan(values).all():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="0.4")
