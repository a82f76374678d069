"""Profiling a device: measure the blocks of a run's space on this device, and how well they predict students."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from proard.common.environment import environment
from proard.common.progress import Progress
from proard.evaluation.latency.blocks import distinct_blocks, layer_module
from proard.evaluation.latency.execution import Execution
from proard.evaluation.latency.table import Entry, LatencyTable, StudentLatency, describe_family, line, quality
from proard.evaluation.latency.timing import Timing, time_calls
from proard.supernet import Architecture, SearchSpace, Supernet
from proard.supernet.calibration import add_running_statistics
from proard.supernet.cost import Block

BLOCKS_AT_ONCE = 32  # whose weights are in memory together


def profile_supernet(
    supernet: Supernet,
    execution: Execution,
    *,
    seconds: float = 0.1,
    most_blocks: int = 400,
    students: tuple[int, int] = (8, 12),
    quiet: bool = False,
) -> tuple[LatencyTable, int]:
    """The table of a supernet's space on this device, and how many different blocks the space has.

    Args:
        supernet: with any weights.
        execution: as `Execution.resolved` gives it.
        seconds: to time each block for; a whole student has three times as long.
        most_blocks: to measure; where there are more, the others are interpolated.
        students: how many the overhead and the scale are fitted on, and how many test the predictions.
        quiet: no progress bar.
    """
    profiler = Profiler(supernet, execution, seconds, quiet)
    distinct = distinct_blocks(supernet.family, supernet.space)
    chosen = thinned(distinct, most_blocks)
    versions = environment()
    runtime = import_module("onnxruntime" if execution.runtime == "onnxruntime" else "torch")
    table = LatencyTable(
        **describe_family(supernet.family),
        **execution.as_dict(),
        versions={
            **{name: versions[name] for name in ("proard", "torch", "python")},
            execution.runtime: str(runtime.__version__),
        },
        interpolate=len(chosen) < len(distinct),
        call_overhead=profiler.call_overhead(),
        blocks=profiler.blocks(chosen),
    )
    return profiler.fit(table, *students), len(distinct)


def measure_latency(
    network: nn.Module, input_shape: Sequence[int], execution: Execution, seconds: float = 1.0
) -> Timing:
    """Time a whole network, of which a copy is made.

    Args:
        network: calibrated.
        input_shape: of an image: (channels, height, width).
        execution: how to run it, as `Execution.resolved` gives it.
        seconds: to spend.
    """
    call = execution.prepare(copy.deepcopy(network), (execution.batch_size, *input_shape))
    with execution.pinned():
        return time_calls([call], seconds=seconds, synchronize=execution.synchronize)[0]


class Profiler:
    """Times blocks and students of a supernet; see `profile_supernet` for the arguments."""

    def __init__(self, supernet: Supernet, execution: Execution, seconds: float, quiet: bool) -> None:
        self.supernet, self.execution, self.seconds, self.quiet = supernet, execution, seconds, quiet
        self.input_shape = (execution.batch_size, *supernet.family.input_shape)

    def call_overhead(self) -> float:
        """Seconds for calling a module that does nothing."""
        return self._time("calls", [lambda: (nn.Identity(), self.input_shape)])[0].median

    def blocks(self, chosen: dict[str, tuple[Block, Architecture]]) -> dict[str, Entry]:
        """An entry for every block."""
        shuffled = list(chosen)
        random.Random(0).shuffle(shuffled)  # so that a slow minute of the machine does not hit one kind of block
        makers = [self._block_maker(*chosen[key]) for key in shuffled]
        timings = dict(zip(shuffled, self._time("blocks", makers), strict=True))
        return {key: Entry.of(chosen[key][0], timings[key]) for key in chosen}

    def fit(self, table: LatencyTable, fitted: int, tested: int) -> LatencyTable:
        """The table with its overhead and scale fitted on whole students, and tested on others."""
        architectures = graded_students(self.supernet.space, fitted + tested)
        makers = [self._student_maker(architecture) for architecture in architectures]
        timings = self._time("students", makers, self.seconds * 3)
        seen = set(evenly(len(architectures), fitted if len(architectures) == fitted + tested else None))
        plain = table.model_copy(update={"overhead": 0.0, "scale": 1.0})
        sums = [plain.predict(architecture) for architecture in architectures]
        measured = [timing.median for timing in timings]
        overhead, scale = line([(sums[i], measured[i]) for i in sorted(seen)])
        results = [
            StudentLatency(
                architecture=dict(architecture.decisions),
                multiply_adds=self.supernet.space.cost(architecture).multiply_adds,
                predicted=overhead + scale * total,
                measured=timing.median,
                p95=timing.p95,
                held_out=index not in seen,
            )
            for index, (architecture, total, timing) in enumerate(zip(architectures, sums, timings, strict=True))
        ]
        tested_on = quality([(result.predicted, result.measured) for result in results if result.held_out])
        return table.model_copy(update={"overhead": overhead, "scale": scale, "students": results, **tested_on})

    def _time(
        self, what: str, makers: Sequence[Callable[[], tuple[nn.Module, tuple[int, ...]]]], seconds: float | None = None
    ) -> list[Timing]:
        timings: list[Timing] = []
        rounds = 5
        with Progress(f"timing {what}", len(makers) * rounds, quiet=self.quiet) as bar:
            for start in range(0, len(makers), BLOCKS_AT_ONCE):
                calls = [self.execution.prepare(*make()) for make in makers[start : start + BLOCKS_AT_ONCE]]
                with self.execution.pinned():
                    timings += time_calls(
                        calls,
                        seconds=self.seconds if seconds is None else seconds,
                        rounds=rounds,
                        synchronize=self.execution.synchronize,
                        progress=bar.advance,
                    )
        return timings

    def _student(self, architecture: Architecture) -> nn.Module:
        student = self.supernet.student(architecture)
        add_running_statistics(student)
        return student.eval()

    def _student_maker(self, architecture: Architecture) -> Callable[[], tuple[nn.Module, tuple[int, ...]]]:
        return lambda: (self._student(architecture), self.input_shape)

    def _block_maker(self, block: Block, architecture: Architecture) -> Callable[[], tuple[nn.Module, tuple[int, ...]]]:
        if block.module is None:
            return lambda: layer_module(block.layers[0], self.execution.batch_size)

        def make() -> tuple[nn.Module, tuple[int, ...]]:
            student = self._student(architecture)
            module = student.get_submodule(str(block.module))
            shapes: list[tuple[int, ...]] = []
            hook = module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
            with torch.inference_mode():
                student(torch.zeros(self.input_shape))
            hook.remove()
            return module, shapes[0]

        return make


CANDIDATES = 200  # random students, of which some are measured


def thinned(distinct: dict[str, tuple[Block, Architecture]], most: int) -> dict[str, tuple[Block, Architecture]]:
    """At most so many blocks, evenly over kinds (layers without their sizes) and, within a kind, multiply-adds."""

    def order(item: tuple[str, tuple[Block, Architecture]]) -> tuple[Any, ...]:
        block = item[1][0]
        return tuple(layer.kind for layer in block.layers), block.multiply_adds, block.key

    ordered = sorted(distinct.items(), key=order)
    return dict(ordered[index] for index in evenly(len(ordered), min(most, len(ordered))))


def graded_students(space: SearchSpace, count: int) -> list[Architecture]:
    """Different students, evenly over the logarithm of multiply-adds, from the smallest to the largest."""
    rng = random.Random(0)
    smallest, largest = space.smallest(), space.largest()
    pool = [smallest, largest]
    for _ in range(CANDIDATES):
        drawn = space.sample(rng)
        pool += [drawn, space.crossover(drawn, smallest, rng), space.crossover(drawn, largest, rng)]
    left = {architecture: np.log(space.cost(architecture).multiply_adds) for architecture in pool}
    targets = np.linspace(left[smallest], left[largest], min(count, len(left)))
    chosen = []
    for target in targets:
        nearest = min(left, key=lambda architecture: abs(left[architecture] - target))
        chosen.append(nearest)
        del left[nearest]
    return sorted(chosen, key=lambda architecture: space.cost(architecture).multiply_adds)


def evenly(total: int, count: int | None) -> list[int]:
    """So many of ``range(total)``, both ends among them; default two fifths, at least two, of few."""
    count = max(2, round(0.4 * total)) if count is None else count
    return sorted({round(index) for index in np.linspace(0, total - 1, min(count, total))})
