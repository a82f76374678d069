"""Budgets: how much a student may cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from proard.cost import Cost
from proard.errors import UserError, nearest

COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# SI prefixes are decimal; KiB and MiB are binary. So a student "under 256KB" fits either reading.
BYTES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
BYTES |= {"KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}


@dataclass(frozen=True)
class BudgetKind:
    """What is limited: the field of `Cost` that counts it, its units, and how it is called."""

    field: str
    units: dict[str, float]
    noun: str
    example: str


KINDS = {
    "flops": BudgetKind("multiply_adds", COUNTS, "multiply-adds", "100M"),
    "params": BudgetKind("parameters", COUNTS, "parameters", "2M"),
    "memory": BudgetKind("peak_activation_bytes", BYTES, "bytes of peak activation memory", "256KB"),
    "size": BudgetKind("file_bytes", BYTES, "bytes of weights", "1MB"),
}


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost of a student.

    Attributes:
        kind: ``flops`` (multiply-adds), ``params``, ``memory`` (peak activations, float32, batch 1) or ``size`` (bytes
            of the float32 weight file).
        limit: the largest admissible value.
        text: as the user wrote it.
    """

    kind: str
    limit: float
    text: str

    @classmethod
    def parse(cls, kind: str, text: str | float) -> Budget:
        """Read ``100M``, ``1.5G``, ``2e8``, ``256KB``.

        Raises:
            UserError: an unknown kind, not a number with a unit of that kind, or not positive.
        """
        if kind not in KINDS:
            raise UserError(f"budget {kind} {text}: unknown kind{nearest(kind, KINDS)}")
        units = KINDS[kind].units
        match = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*", str(text))
        factor = units.get(match[2].upper()) if match else None
        if match is None or factor is None:
            known = ", ".join(unit for unit in ("K", "M", "G", "KB", "MB", "KiB", "MiB") if unit.upper() in units)
            raise UserError(f"--{kind} {text}: expected a number with a unit ({known}), such as {KINDS[kind].example}")
        if not 0 < float(match[1]) * factor < float("inf"):
            raise UserError(f"--{kind} {text}: must be positive, such as {KINDS[kind].example}")
        limit = float(Decimal(match[1]) * Decimal(factor))  # 2.01 * 1e6 is less than 2,010,000
        return cls(kind, limit, str(text).strip())

    @property
    def name(self) -> str:
        """For directories and tables, such as ``flops-100M``."""
        return f"{self.kind}-{self.text.replace(' ', '')}"

    def value(self, cost: Cost) -> int:
        """The cost that this budget limits."""
        return int(getattr(cost, KINDS[self.kind].field))

    def admits(self, cost: Cost) -> bool:
        """Whether a student of this cost fits."""
        return self.value(cost) <= self.limit

    def check(self, smallest: Cost) -> None:
        """Refuse a budget that no student fits.

        Raises:
            UserError: names the smallest student's cost.
        """
        if not self.admits(smallest):
            need = self.value(smallest)
            raise UserError(
                f"--{self.kind} {self.text}: below the smallest student, which has {need:,} {KINDS[self.kind].noun}; "
                f"ask for at least {short(need, up=True)}{'B' if 'KB' in KINDS[self.kind].units else ''}"
            )


def short(value: float, up: bool = False) -> str:
    """``98.7M`` for 98,700,000: three digits, rounded up on request."""
    for unit, factor in reversed(COUNTS.items()):
        if value >= factor:
            scaled = value / factor
            digits = max(0, 3 - len(str(int(scaled))))
            step = 10**-digits
            rounded = -(-scaled // step) * step if up else scaled
            return f"{rounded:.{digits}f}{unit}"
    return f"{value:g}"


def parse_budgets(limits: dict[str, Sequence[str]]) -> list[Budget]:
    """All budgets of a command line, each once, in order.

    Raises:
        UserError: one that cannot be read.
    """
    return list(dict.fromkeys(Budget.parse(kind, text) for kind, texts in limits.items() for text in texts))
