"""How far a long task is: a bar with the time left on a terminal, else a line now and then.

The lines are log messages of level INFO of the logger ``proard.common.progress``. The command line shows them; for a
program that calls the library they are silent unless it wants them.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from proard.common.terminal import WIDTH, duration

logger = logging.getLogger(__name__)

FIRST_LINE, MOST_BETWEEN = 10.0, 600.0  # seconds until the first line, doubled for each further one up to the most
COUNTED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left"
UNCOUNTED = "{desc} {percentage:3.0f}%|{bar}| {remaining} left"


def on_a_terminal(quiet: bool = False) -> bool:
    """Whether bars are shown: standard error is a terminal, and nobody asked for less."""
    return not quiet and sys.stderr.isatty()


def bar_width() -> dict[str, Any]:
    """How wide tqdm draws: as standard error is now, or as most terminals where one does not say how wide it is."""
    try:
        silent = os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):  # no terminal, or no file at all
        silent = False
    return {"ncols": WIDTH - 1, "nrows": 24} if silent else {"dynamic_ncols": True}


class Progress:
    """A task that is shown while it runs; a context manager.

    Args:
        what: such as ``labelling``.
        total: of all amounts that `advance` will be called with.
        unit: plural of what is counted, such as ``students``; empty where the amounts mean nothing to a person.
        done: of the total, before it starts.
        quiet: no bar.
        shown: neither bar nor lines if False: another process shows this task.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str = "",
        *,
        done: float = 0,
        quiet: bool = False,
        shown: bool = True,
    ) -> None:
        self.what, self.total, self.begun, self.done, self.shown = what, total, done, done, shown
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit,
            bar_format=COUNTED if unit else UNCOUNTED,
            **bar_width(),
            disable=not (shown and on_a_terminal(quiet)),
            leave=False,
            smoothing=0,  # the mean over the whole task: parts of it take very different times
        )
        self._started = time.monotonic()
        self._next, self._gap = self._started + FIRST_LINE, FIRST_LINE

    def advance(self, amount: float = 1) -> None:
        """Count so much more of the total as done."""
        self.done += amount
        self._bar.update(amount)
        now = time.monotonic()
        if now >= self._next and self._bar.disable and self.shown and self.done > self.begun:
            self._gap = min(2 * self._gap, MOST_BETWEEN)
            self._next = now + self._gap
            left = (now - self._started) / (self.done - self.begun) * max(self.total - self.done, 0)
            logger.info("%s: %.0f %%, about %s left", self.what, 100 * self.done / self.total, duration(left))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()


@contextmanager
def lines_on_standard_error() -> Iterator[None]:
    """Show the lines, as commands do."""
    handler, level = logging.StreamHandler(sys.stderr), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
