"""What a person sees while training: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from proard.common.progress import UNCOUNTED, bar_width, on_a_terminal
from proard.common.terminal import WIDTH, duration, fold_text

LEAST_BAR = 42  # columns that phase, bar and time left take beside the numbers
SOON = 5.0  # seconds of a training after which its pace says something


class TrainingProgress:
    """Progress over all optimizer steps of a run; steps of different phases take different times.

    Args:
        steps: of every phase.
        done: steps already taken, on a resumed run.
        quiet: plain lines even on a terminal.
        shown: whether anything is.
        pace: how long a step takes, relative to those of other phases; default the same in all.
    """

    def __init__(
        self,
        steps: Sequence[int],
        done: int = 0,
        quiet: bool = False,
        shown: bool = True,
        pace: Sequence[float] | None = None,
    ) -> None:
        self._shown = shown
        self._steps, self._pace = list(steps), list(pace or [1.0] * len(steps))
        self._step, self._begun = done, self._work(done)
        self._total, self._started = self._work(sum(steps)), time.monotonic()
        self._bar = tqdm(
            total=self._total,
            initial=self._begun,
            bar_format=f"{UNCOUNTED}{{postfix}}",
            **bar_width(),
            disable=not (shown and on_a_terminal(quiet)),
            smoothing=0.05,
        )

    def _work(self, step: int) -> float:
        """Of all steps up to one."""
        work = 0.0
        for count, pace in zip(self._steps, self._pace, strict=True):
            work, step = work + pace * min(step, count), max(step - count, 0)
        return work

    def step(self) -> None:
        """One optimizer step was taken."""
        self._step += 1
        if not self._bar.disable:
            self._bar.update(self._work(self._step) - self._work(self._step - 1))

    @property
    def left(self) -> float | None:
        """Seconds, at the pace so far; None while little is known."""
        spent, done = time.monotonic() - self._started, self._work(self._step)
        if spent < SOON or done <= self._begun:
            return None
        return spent / (done - self._begun) * (self._total - done)

    def show(self, phase: str, epoch: str, **numbers: float | None) -> None:
        """Update the numbers beside the bar; as many, from the first on, as there is room for."""
        if self._bar.disable:
            return
        self._bar.set_description(f"{phase} {epoch}", refresh=False)
        shown: dict[str, Any] = {name: f"{value:.3g}" for name, value in numbers.items() if value is not None}
        room = (self._bar.ncols or WIDTH) - LEAST_BAR
        while len(", ".join(f"{name}={value}" for name, value in shown.items())) > max(room, 0) and shown:
            shown.popitem()
        self._bar.set_postfix(shown)

    def epoch(self, text: str) -> None:
        """Print a line that stays, with the time left where no bar shows it."""
        left = self.left if self._bar.disable and self._step < sum(self._steps) else None
        if left is not None:
            text += f", {duration(left if left < 60 else 60 * round(left / 60))} left"
        self.line(text)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if not self._shown:
            return
        indent = " " * (len(text) - len(text.lstrip()))
        lines = fold_text(text, indent + "  ")
        if self._bar.disable:
            print("\n".join(lines), flush=True)
        else:
            self._bar.write("\n".join(lines), file=sys.stdout)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
