"""One student of a run trained by itself: to compare with (`baseline`), or to go on from what was cut out (`finetune`).

"One training instead of N" is a claim about cost and accuracy. `baseline` measures both sides of it on the machine at
hand: the same architecture, images, objective, teacher and epochs, in a network of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proard.commands.extract import Extractor
from proard.commands.results import MeasuredStudent
from proard.commands.train import train
from proard.config import Config, PhaseConfig, StudentConfig, SupernetConfig, TeacherConfig
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.training.teachers import restore_largest


def alone_config(config: Config, architecture: dict[str, float], teacher: TeacherConfig) -> Config:
    """A run of `mode: student` that trains one architecture as a run's elastic phases did.

    Args:
        config: of the supernet's run.
        architecture: decisions and their values.
        teacher: what it learns from, where an objective needs one.
    """
    default = PhaseConfig(name="default", epochs=1, learning_rate=1.0)
    plain = {key: getattr(default, key) for key in ("elastic", "sampler", "crafting", "refresh_teacher")}
    phases = [phase for phase in config.phases if phase.elastic] or list(config.phases)
    return config.model_copy(
        update={
            "mode": "student",
            "supernet": SupernetConfig(family=config.supernet.family, **config.supernet.options),
            "student": StudentConfig(architecture=architecture),
            "teacher": teacher,
            "phases": tuple(phase.model_copy(update=plain) for phase in phases),
        }
    )


def teacher_of(directory: Run, config: Config, state: dict[str, Any]) -> TeacherConfig:
    """The run's teacher in a form that another run can use; its own is written to ``RUN/teacher``.

    A jointly trained teacher is the largest student as it became in the end.
    """
    if config.teacher.source is not None:
        return config.teacher
    place = directory.path / "teacher"
    if not place.exists():
        extractor = Extractor(directory, quiet=True)
        largest = extractor.supernet.space.largest()
        if state["teacher"] is None:
            network = extractor.supernet.extract(largest, extractor.calibration)
        else:
            network = restore_largest(extractor.supernet, state["teacher"])
        extractor.write_network(place, network, largest, split="validation")
    return TeacherConfig(source=str(place.absolute()))


def train_alone(
    config: Config,
    place: Path,
    out: Path,
    quiet: bool,
    about: dict[str, Any],
    formats: Sequence[str] = (),
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
) -> MeasuredStudent:
    """Train, or go on training, a run of one student; measure it on test images, and write it to ``out``."""
    started = (place / "checkpoint.pt").exists()
    if not (started and load_checkpoint(place / "checkpoint.pt")["finished"]):
        train(config, run=place, resume=started, quiet=quiet, data_root=data_root, data=data)
    extractor = Extractor(Run.find(place, data_root, data), quiet)
    architecture = extractor.space.largest()  # the only one
    network = extractor.supernet.extract(architecture, extractor.calibration)
    return extractor.write_network(out, network, architecture, formats, about)
