"""Checks of the options that an object is constructed with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Options:
    """What holds options as attributes and checks them; an option that is None stands for a default, and passes."""

    def require(self, holds: Callable[[Any], bool], what: str, *names: str) -> None:
        """Check that a rule holds for options, and for each entry of one that is a tuple, which must not be empty.

        Raises:
            ValueError: names the first for which it does not, and ``what`` the option must be.
        """
        for name in names:
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not values or not all(entry is None or holds(entry) for entry in values):
                raise ValueError(f"{name} must be {what}, got {value!r}")

    def require_positive(self, *names: str) -> None:
        """Check that options are positive; ValueError where one is not."""
        self.require(lambda value: value > 0, "positive", *names)

    def require_not_negative(self, *names: str) -> None:
        """Check that options are at least 0; ValueError where one is not."""
        self.require(lambda value: value >= 0, "at least 0", *names)

    def require_one_or_more(self, *names: str) -> None:
        """Check that options are at least 1; ValueError where one is not."""
        self.require(lambda value: value >= 1, "at least 1", *names)
