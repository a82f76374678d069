"""Budgets: how much a student may cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from proard.common.errors import UserError, nearest
from proard.common.units import BYTES, COUNTS, SECONDS, SPELLED, short, short_time
from proard.supernet.cost import Cost

BYTES |= {"KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}


@dataclass(frozen=True)
class BudgetKind:
    """What is limited: the field of `Cost` that counts it, its units, how it is called, and an example."""

    field: str
    units: dict[str, float]
    noun: str
    example: str


KINDS = {
    "flops": BudgetKind("multiply_adds", COUNTS, "multiply-adds", "100M"),
    "params": BudgetKind("parameters", COUNTS, "parameters", "2M"),
    "memory": BudgetKind("peak_activation_bytes", BYTES, "bytes of peak activation memory", "256KB"),
    "size": BudgetKind("file_bytes", BYTES, "bytes of weights", "1MB"),
    "latency": BudgetKind("latency", SECONDS, "of latency", "5ms"),
    "memory-int8": BudgetKind("peak_activation_bytes_int8", BYTES, "bytes of peak activation memory in int8", "64KB"),
    "size-int8": BudgetKind("weight_bytes_int8", BYTES, "bytes of weights in int8", "256KB"),
    "size-fp16": BudgetKind("file_bytes_float16", BYTES, "bytes of weights in float16", "512KB"),
}


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost of a student.

    Attributes:
        kind: ``flops`` (multiply-adds), ``params``, ``memory`` (peak activations, float32, batch 1), ``size`` (bytes
            of the float32 weight file), ``latency`` (seconds, which a `LatencyTable` adds to costs),
            ``memory-int8``, ``size-int8`` (bytes of weights in flash) or ``size-fp16`` (bytes of the weight file).
        limit: the largest admissible value.
        text: as the user wrote it.
    """

    kind: str
    limit: float
    text: str

    @classmethod
    def parse(cls, kind: str, text: str | float) -> Budget:
        """Read ``100M``, ``1.5G``, ``2e8``, ``256KB``, ``5ms``.

        Raises:
            UserError: an unknown kind, not a number with a unit of that kind, or not positive.
        """
        if kind not in KINDS:
            raise UserError(f"budget {kind} {text}: unknown kind{nearest(kind, KINDS)}")
        units = KINDS[kind].units
        match = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*", str(text))
        factor = units.get(match[2].upper()) if match else None
        if match is None or factor is None:
            known = ", ".join(unit for unit in SPELLED if unit.upper() in units)
            raise UserError(f"--{kind} {text}: expected a number with a unit ({known}), such as {KINDS[kind].example}")
        if not 0 < float(match[1]) * factor < float("inf"):
            raise UserError(f"--{kind} {text}: must be positive, such as {KINDS[kind].example}")
        limit = float(Decimal(match[1]) * Decimal(str(factor)))  # 2.01 * 1e6 is less than 2,010,000
        return cls(kind, limit, str(text).strip())

    @property
    def name(self) -> str:
        """For directories and tables, such as ``flops-100M``."""
        return f"{self.kind}-{self.text.replace(' ', '')}"

    def value(self, cost: Cost) -> float:
        """The cost that this budget limits.

        Raises:
            UserError: it limits latency, and the cost has none.
        """
        value = getattr(cost, KINDS[self.kind].field)
        if value is None:
            raise UserError(
                f"--{self.kind} {self.text}: needs a table of this device's latency; 'proard profile' makes it"
            )
        return float(value) if self.kind == "latency" else int(value)

    def admits(self, cost: Cost) -> bool:
        """Whether a student of this cost fits."""
        return self.value(cost) <= self.limit

    def check(self, smallest: Cost) -> None:
        """Refuse a budget that no student fits.

        Raises:
            UserError: names the smallest student's cost.
        """
        if not self.admits(smallest):
            need, kind = self.value(smallest), KINDS[self.kind]
            if kind.units is SECONDS:
                has, least = short_time(need), short_time(need, up=True)
            else:
                has, least = f"{need:,}", short(need, up=True) + ("B" if kind.units is BYTES else "")
            raise UserError(
                f"--{self.kind} {self.text}: below the smallest student, which has {has} {kind.noun}; "
                f"ask for at least {least}"
            )


@dataclass(frozen=True)
class Limits:
    """Budgets that one student keeps all at once; none at all admits every student.

    Attributes:
        budgets: each of another kind.

    Raises:
        UserError: two budgets of the same kind.
    """

    budgets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        first: dict[str, Budget] = {}
        for budget in self.budgets:
            if budget.kind in first:
                raise UserError(
                    f"--{budget.kind} {first[budget.kind].text} and {budget.text}: one student has one limit of a "
                    "kind; give the smaller, or leave out --and for a student each"
                )
            first[budget.kind] = budget

    @property
    def name(self) -> str:
        """For directories and tables, such as ``flops-100M+params-2M``."""
        return "+".join(budget.name for budget in self.budgets)

    def admits(self, cost: Cost) -> bool:
        """Whether a student of this cost fits all of them."""
        return all(budget.admits(cost) for budget in self.budgets)

    def check(self, smallest: Cost) -> None:
        """Refuse limits that no student keeps; the smallest student has the least of every cost.

        Raises:
            UserError: names the budget, and the smallest student's cost.
        """
        for budget in self.budgets:
            budget.check(smallest)


def parse_budgets(limits: dict[str, Sequence[str]]) -> list[Budget]:
    """All budgets of a command line, each once, in order.

    Raises:
        UserError: one that cannot be read.
    """
    return list(dict.fromkeys(Budget.parse(kind, text) for kind, texts in limits.items() for text in texts))
