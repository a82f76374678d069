"""How amounts are written and read: counts, bytes and seconds with their units."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# SI prefixes are decimal; KiB and MiB are binary. So a student "under 256KB" fits either reading.
BYTES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}
SECONDS = {"US": 1e-6, "MS": 1e-3, "S": 1.0}  # never bare: is 5 seconds or milliseconds?
SPELLED = ("K", "M", "G", "KB", "MB", "KiB", "MiB", "us", "ms", "s")


def how_many(count: int, noun: str) -> str:
    """``1 student``, ``3 students``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


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


def short_time(seconds: float, up: bool = False) -> str:
    """``2.35ms`` for 0.00235 seconds: three digits, rounded up on request."""
    unit, factor = next(((u, f) for u, f in reversed(SECONDS.items()) if seconds >= f), ("US", 1e-6))
    value = Decimal(repr(seconds)) / Decimal(repr(factor))
    step = Decimal(10) ** (max(value.adjusted(), 0) - 2)
    rounded = (value / step).to_integral_value(ROUND_CEILING if up else ROUND_HALF_EVEN) * step
    return f"{rounded:f}{unit.lower()}" if rounded < 1000 else f"{rounded.normalize():f}{unit.lower()}"
