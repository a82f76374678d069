"""Latency as a budget: the table of a run, costs with a predicted latency, and what a student's card says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from proard.cost import Cost
from proard.errors import UserError
from proard.latency.execution import Execution
from proard.latency.measure import Timing
from proard.latency.table import LatencyTable
from proard.run import Run
from proard.supernet import Architecture, Family, SearchSpace

TABLE = "latency.json"


def find_table(run: Run, family: Family, path: str | Path | None = None) -> LatencyTable:
    """The table to use for a run: that at ``path``, by default the run's own.

    Raises:
        UserError: there is none, it is damaged, or it is of other networks.
    """
    place = run.path / TABLE if path is None else Path(path)
    if path is None and not place.is_file():
        raise UserError(
            f"--latency: run {run.path} has no {TABLE}; make it with 'proard profile --run {run.path}', "
            "or give another device's with --latency-table"
        )
    table = LatencyTable.load(place)
    table.check(family, f"latency table {place}")
    return table


def latency_of(run: Run, family: Family, path: str | Path | None = None) -> Callable[[Architecture], float]:
    """Predicted seconds of an architecture, from the run's table or the one at ``path``.

    Raises:
        UserError: as for `find_table`.
    """
    return find_table(run, family, path).predict


def with_latency(space: SearchSpace, table: LatencyTable) -> SearchSpace:
    """The same space whose costs also have the predicted latency, for budgets of it."""

    def cost(architecture: Architecture) -> Cost:
        return replace(space.cost(architecture), latency=table.predict(architecture))

    return SearchSpace(space.decisions, cost)


def latency_card(
    table: LatencyTable, architecture: Architecture, measured: Timing, execution: Execution
) -> dict[str, Any]:
    """What a student's card says of its latency: predicted for the table's device, and measured on this one.

    Args:
        table: that chose the student.
        architecture: of the student.
        measured: from `measure_latency`.
        execution: how it was measured, as `Execution.resolved` gives it.
    """
    settings = {key: value for key, value in asdict(execution).items() if key != "device"}
    return {
        "predicted": {"seconds": table.predict(architecture), "device": table.device},
        "measured": {**measured.as_dict(), "device": execution.device_name, **settings},
        "same_device": table.device == execution.device_name,
    }
