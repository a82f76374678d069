"""Latency of a device: blocks are measured once, and every student's latency is predicted from them."""

from proard.latency.blocks import Block, blocks_of, distinct_blocks
from proard.latency.budget import find_table, latency_card, latency_of, with_latency
from proard.latency.execution import Execution
from proard.latency.measure import Timing, time_calls
from proard.latency.profiling import Profile, measure_latency, profile, profile_supernet
from proard.latency.table import LatencyTable

__all__ = [
    "Block",
    "Execution",
    "LatencyTable",
    "Profile",
    "Timing",
    "blocks_of",
    "distinct_blocks",
    "find_table",
    "latency_card",
    "latency_of",
    "measure_latency",
    "profile",
    "profile_supernet",
    "time_calls",
    "with_latency",
]
