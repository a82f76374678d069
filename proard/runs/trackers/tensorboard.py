"""TensorBoard: event files in ``RUN/tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proard.config import Config
from proard.runs.trackers.base import Tracker, scalars, trackers


@trackers.register("tensorboard")
class TensorBoard(Tracker):
    """A curve over optimizer steps for every number, and the configuration as text."""

    package = "tensorboard"

    def start(self, run: Path, config: Config) -> None:
        """Open event files in the run directory, after the last step that is known to have arrived."""
        from torch.utils.tensorboard import SummaryWriter

        last = self.state.get("step")
        # A reader drops what an earlier file has from this step on: rows of which it is not known that they arrived.
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=None if last is None else last + 1)
        if last is None:
            indented = "".join(f"    {line}\n" for line in config.to_yaml().splitlines())  # which is code in Markdown
            self.writer.add_text("config", indented, 0)

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row at its step, and remember the step."""
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()
        self.state["step"] = row["step"]

    def finish(self, complete: bool) -> None:
        """Close the event files."""
        self.writer.close()
