"""What a person sees while training: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress over all optimizer steps of a run.

    Args:
        total: steps of the whole run.
        done: steps already taken, on a resumed run.
        quiet: plain lines even on a terminal.
        shown: whether anything is.
    """

    def __init__(self, total: int, done: int = 0, quiet: bool = False, shown: bool = True) -> None:
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            disable=quiet or not shown or not sys.stderr.isatty(),
            smoothing=0.05,
        )

    def step(self) -> None:
        """One optimizer step was taken."""
        self._bar.update()

    def show(self, phase: str, epoch: str, **numbers: float | None) -> None:
        """Update the numbers beside the bar."""
        if not self._bar.disable:
            self._bar.set_description(f"{phase} {epoch}", refresh=False)
            shown: dict[str, Any] = {name: f"{value:.3g}" for name, value in numbers.items() if value is not None}
            self._bar.set_postfix(shown)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if not self._shown:
            return
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
