"""The kinds of budget: one row each, which the command line, Python's functions and all messages are made from.

Here, below everything that needs torch, so that ``proard --help`` can list them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proard.common.units import BYTES, COUNTS, SECONDS


@dataclass(frozen=True)
class BudgetKind:
    """What a budget of one kind limits.

    Attributes:
        field: of `proard.supernet.cost.Cost`, which counts it.
        units: that it is given in.
        noun: how messages call it.
        help: how the command line describes it.
        example: a budget of this kind, such as ``100M``.
    """

    field: str
    units: Mapping[str, float]
    noun: str
    help: str
    example: str

    @property
    def metavar(self) -> str:
        """What stands for a value in the help of the command line."""
        return "TIME" if self.units is SECONDS else "BYTES" if self.units is BYTES else "N"


KINDS = {
    "flops": BudgetKind("multiply_adds", COUNTS, "multiply-adds", "Multiply-adds", "100M"),
    "params": BudgetKind("parameters", COUNTS, "parameters", "Parameters", "2M"),
    "memory": BudgetKind(
        "peak_activation_bytes", BYTES, "bytes of peak activation memory", "Peak activations, float32", "256KB"
    ),
    "size": BudgetKind("file_bytes", BYTES, "bytes of weights", "The weight file, float32", "1MB"),
    "latency": BudgetKind("latency", SECONDS, "of latency", "On the device that 'proard profile' measured", "5ms"),
    "memory-int8": BudgetKind(
        "peak_activation_bytes_int8",
        BYTES,
        "bytes of peak activation memory in int8",
        "Peak activations in int8",
        "64KB",
    ),
    "size-int8": BudgetKind("weight_bytes_int8", BYTES, "bytes of weights in int8", "Weights in int8", "256KB"),
    "size-fp16": BudgetKind(
        "file_bytes_float16", BYTES, "bytes of weights in float16", "The weight file in float16", "512KB"
    ),
}
PLAIN = ("flops", "params", "memory", "size")  # of the float32 network itself: neither quantised nor timed
