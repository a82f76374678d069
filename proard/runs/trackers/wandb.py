"""Weights & Biases: nothing is sent unless the user asked for it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from proard.config import Config
from proard.runs.trackers.base import Tracker, scalars, trackers


@trackers.register("wandb")
class WeightsAndBiases(Tracker):
    """A W&B run in ``RUN/wandb``, which `wandb sync` uploads later; or at once, if asked.

    Args:
        mode: ``online`` uploads; default the variable WANDB_MODE, else ``offline``.
        project: in W&B; default WANDB_PROJECT, else ``proard``.
        entity: account or team; default W&B's.
    """

    package = "wandb"

    def __init__(
        self,
        mode: Literal["offline", "online", "disabled"] | None = None,
        project: str | None = None,
        entity: str | None = None,
    ) -> None:
        self.mode = mode
        self.project = project
        self.entity = entity

    def start(self, run: Path, config: Config) -> None:
        """Open the W&B run, or the one of an earlier process again."""
        # Reports of its own crashes go to a third party otherwise, also from a run that is offline.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode: Any = self.mode or os.environ.get("WANDB_MODE") or "offline"
        offline = mode in ("offline", "dryrun", "disabled")
        self.state.setdefault("id", secrets.token_hex(4))
        self.run = wandb.init(
            mode=mode,
            dir=str(run),
            project=self.project or os.environ.get("WANDB_PROJECT") or "proard",
            entity=self.entity,
            name=run.resolve().name,
            id=self.state["id"],
            resume=None if offline else "allow",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=offline),
        )

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row at its step."""
        self.run.log({**scalars(row), "epoch": row["epoch"]}, step=row["step"])

    def finish(self, complete: bool) -> None:
        """Close the W&B run, as successful or not."""
        self.run.finish(exit_code=0 if complete else 1)
