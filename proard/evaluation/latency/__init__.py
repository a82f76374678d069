"""Latency of a device: blocks are measured once, and every student's latency is predicted from them."""

from proard.evaluation.latency.blocks import blocks_of, distinct_blocks
from proard.evaluation.latency.execution import Execution
from proard.evaluation.latency.limits import latency_card, with_latency
from proard.evaluation.latency.profiling import measure_latency, profile_supernet
from proard.evaluation.latency.table import LatencyTable
from proard.evaluation.latency.timing import Timing, time_calls

__all__ = [
    "Execution",
    "LatencyTable",
    "Timing",
    "blocks_of",
    "distinct_blocks",
    "latency_card",
    "measure_latency",
    "profile_supernet",
    "time_calls",
    "with_latency",
]
