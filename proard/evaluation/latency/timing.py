"""Timing callables soundly on a machine that does other things too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

clock: Callable[[], float] = time.perf_counter
WARM_UP_SHARE = 0.2  # of a callable's time; at least one call
LEAST_CALLS, MOST_CALLS = 3, 5000  # of one callable in one round


@dataclass(frozen=True)
class Timing:
    """How long one call takes.

    Attributes:
        median: seconds.
        p95: seconds; 95 % of the calls took no longer.
        repeats: calls that were timed.
    """

    median: float
    p95: float
    repeats: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """From the seconds of every call, at least one."""
        ordered = sorted(samples)
        return cls(median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], len(ordered))


def time_calls(
    calls: Sequence[Callable[[], Any]],
    *,
    seconds: float = 0.1,
    rounds: int = 5,
    synchronize: Callable[[], None] = lambda: None,
    progress: Callable[[], Any] = lambda: None,
) -> list[Timing]:
    """Time every callable, in rounds over all of them, so that all see the machine in the same states.

    Args:
        calls: what to time; each call is timed by itself.
        seconds: to spend on each, over all rounds, after its warm-up.
        rounds: in each of them, every callable has its share of the time, after a call that is not timed (its memory
            is no longer in the caches).
        synchronize: waits until the device is done.
        progress: called after every share.
    """

    def once(call: Callable[[], Any]) -> float:
        synchronize()
        started = clock()
        call()
        synchronize()
        return clock() - started

    def repeat(call: Callable[[], Any], limit: float, least: int) -> list[float]:
        samples: list[float] = []
        spent = 0.0
        while len(samples) < least or (spent < limit and len(samples) < MOST_CALLS):
            samples.append(once(call))
            spent += samples[-1]
        return samples

    for call in calls:
        repeat(call, WARM_UP_SHARE * seconds, 1)
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for index, call in enumerate(calls):
            once(call)
            samples[index] += repeat(call, seconds / rounds, LEAST_CALLS)
            progress()
    return [Timing.of(times) for times in samples]
