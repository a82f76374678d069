"""Latency as a budget: the table of a run, costs with a predicted latency, and what a student's card says of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from proard.evaluation.latency.execution import Execution
from proard.evaluation.latency.table import LatencyTable
from proard.evaluation.latency.timing import Timing
from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost import Cost

TABLE = "latency.json"


def with_latency(space: SearchSpace, table: LatencyTable) -> SearchSpace:
    """The same space whose costs also have the predicted latency, for budgets of it."""

    def cost(architecture: Architecture) -> Cost:
        return replace(space.cost(architecture), latency=table.predict(architecture))

    return SearchSpace(space.decisions, cost)


def latency_card(
    table: LatencyTable, architecture: Architecture, measured: Timing, execution: Execution
) -> dict[str, Any]:
    """What a student's card says of its latency: predicted for the table's device, and measured on this one.

    The last two are what `measure_latency` returned, and the execution that it was given.
    """
    return {
        "predicted": {"seconds": table.predict(architecture), "device": table.device},
        "measured": {**asdict(measured), **execution.as_dict()},
        "same_device": table.device == execution.device_name,
    }
