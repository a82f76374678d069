"""`proard extract --finetune`: go on training an extracted student by itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proard.commands.results import MeasuredStudent
from proard.commands.single_student import alone_config, teacher_of, train_alone
from proard.common.errors import UserError
from proard.common.paths import path_of
from proard.export.student_directory import read_card
from proard.runs.checkpoint import load_checkpoint
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run

LEARNING_RATE = 0.1  # relative to that of the run's last phase


def finetune(
    student: str | Path,
    epochs: int,
    *,
    run: str | Path | None = None,
    formats: Sequence[str] = (),
    quiet: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
) -> MeasuredStudent:
    """Go on training an extracted student by itself, and put the result in its place.

    Args:
        student: its directory; replaced only when the new one is complete.
        epochs: how many, at least 1.
        run: that it was cut from; default the newest.
        formats: beside those that are always written.
        quiet: plain lines instead of a progress bar.
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.

    Raises:
        UserError: fewer than one epoch, or a student of another run.
    """
    if epochs < 1:
        raise UserError(f"--finetune {epochs}: must be at least 1 epoch")
    directory, folder = Run.find(run, data_root, data), path_of(student)
    config = directory.config()
    card = read_card(folder)
    state = load_checkpoint(directory.checkpoint)
    alone = alone_config(config, card["architecture"], teacher_of(directory, config, state))
    last = alone.phases[-1]
    phase = last.model_copy(
        update={
            "name": "finetune",
            "epochs": epochs,
            "learning_rate": last.learning_rate * LEARNING_RATE,
            "warmup_epochs": 0.0,
        }
    )
    begin = alone.student.model_copy(update={"weights": folder.absolute()})
    place = directory.path / "finetuned" / folder.name
    shutil.rmtree(place, ignore_errors=True)  # of an earlier, or interrupted, attempt: it began with other weights
    settings = alone.model_copy(update={"phases": (phase,), "student": begin})
    about = {"budget": card["budget"], "selection": card["selection"], "finetuned_epochs": epochs}
    with EnergyMeter(config.energy, directory.energy, "finetune"):
        return train_alone(settings, place, folder, quiet, about, formats, data_root, data)
