"""Budgets: how much a student may cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from proard.common.budget_kinds import KINDS as KINDS
from proard.common.budget_kinds import PLAIN
from proard.common.errors import UserError, nearest
from proard.common.units import BYTES, SECONDS, SPELLED, short, short_time
from proard.supernet.cost import Cost


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


def parse_budgets(limits: Mapping[str, Sequence[str]]) -> list[Budget]:
    """All budgets of a command line, each once, in order.

    Raises:
        UserError: one that cannot be read.
    """
    return list(dict.fromkeys(Budget.parse(kind, text) for kind, texts in limits.items() for text in texts))


def budgets_of(
    budgets: Budget | Iterable[Budget | tuple[str, str | float]], named: Mapping[str, str | float | None]
) -> list[Budget]:
    """The budgets that a function of Python was given, in order.

    Args:
        budgets: one, or any number of them or of pairs such as ``("flops", "100M")``.
        named: further ones by keyword, such as ``memory_int8="64KB"``; None is none.

    Raises:
        UserError: an unknown kind, with the nearest one, or an amount that cannot be read.
    """
    pairs = [(name.replace("_", "-"), amount) for name, amount in named.items() if amount is not None]
    given = [budgets] if isinstance(budgets, Budget) else budgets
    return [budget if isinstance(budget, Budget) else Budget.parse(*budget) for budget in (*given, *pairs)]


def no_budget(command: str) -> UserError:
    """The error of a command that was given none."""
    first, *others = PLAIN
    rest = ", ".join(f"--{kind}" for kind in others)
    return UserError(f"{command} needs a budget, such as --{first} {KINDS[first].example} (or {rest})")
