"""What a training is about to do, as lines of text."""

from __future__ import annotations

from decimal import Decimal

import torch

from proard.common.distributed import world_size
from proard.common.terminal import duration
from proard.common.units import how_many
from proard.training.time_estimate import seconds_left, seconds_per_step
from proard.training.trainer import Trainer


def plan(trainer: Trainer) -> list[str]:
    """Data, space, teacher, phases, device, and about how long it takes, which is measured now.

    The trainer's progress goes by that time from here on.

    Args:
        trainer: ready to train.
    """
    trainer.pace = seconds_per_step(trainer)
    seconds = seconds_left(trainer, trainer.pace)
    left = " left" if trainer.position.step else ""
    time = f"about {duration(seconds)}{left} (measured on a few images)" if seconds else "nothing is left to train"
    return [
        _data(trainer),
        _space(trainer),
        f"teacher: {_teacher(trainer)}",
        *_phases(trainer),
        _device(trainer),
        f"time:    {time}",
    ]


def _data(trainer: Trainer) -> str:
    data = trainer.data
    counts = f"{len(data.train):,} training, {len(data.validation):,} validation and {len(data.test):,} test images"
    shape = "x".join(map(str, data.input_shape))
    line = f"data:    {trainer.config.data.name}, {counts} of {shape}, {data.num_classes} classes"
    if others := trainer.source.others_in(trainer.config.batch_size):
        there = len(trainer.source.images) - trainer.source.own
        line += f"; {others} of {trainer.batch_size} in a batch are from {how_many(there, 'extra image')}"
    return line


def _space(trainer: Trainer) -> str:
    space, family = trainer.supernet.space, trainer.config.supernet.family
    if space.size == 1:
        return f"network: {family}, {space.cost_range}"
    count = f"{space.size:,}" if space.size < 10**6 else f"{Decimal(space.size):.2g}".lower()
    return f"space:   {family}, {count} students of {space.cost_range}"


def _teacher(trainer: Trainer) -> str:
    config, phases = trainer.config, trainer.phases
    if trainer.external is not None:
        if (found := trainer.external_accuracy) is None:
            return trainer.external.source
        accuracies = "".join(f", {accuracy} % under {name}" for name, accuracy in found.robust.items())
        return f"{trainer.external.source}; {found.clean} %{accuracies}, on {found.clean.total} validation images"
    if config.teacher.mode == "joint":
        return "the largest student, trained jointly"
    wanted = [phase.settings.name for phase in phases if phase.objective.needs_teacher]
    refreshed = [phase.name for phase in config.phases if phase.refresh_teacher]
    if not wanted and not refreshed:
        return "none"
    anew = f", and anew before {', '.join(refreshed)}" if refreshed else ""
    before = (wanted or refreshed)[0]
    return f"the largest student, frozen before phase {before}{anew}"


def _phases(trainer: Trainer) -> list[str]:
    space, lines = trainer.supernet.space, []
    for phase in trainer.phases:
        settings = phase.settings
        varying = [kind for kind in space.kinds if kind in phase.kinds]
        epochs = how_many(settings.epochs, "epoch")
        if space.size == 1:
            who = "one network"
        elif not varying:
            who = "the largest student"
        else:
            drawn = how_many(phase.sampler().students, "student")
            who = f"{drawn} per step ({settings.sampler.name}); {', '.join(varying)} vary"
        objective = f"{settings.objective.name}, attack {phase.attack.name}"
        lines.append(f"{'' if phase.index else 'phases:':<9}{settings.name}, {epochs}: {objective}; {who}")
    return lines


def _device(trainer: Trainer) -> str:
    precision = str(trainer.precision).removeprefix("torch.")
    where = [str(trainer.device), precision, how_many(torch.get_num_threads(), "thread")]
    if world_size() > 1:
        where.append(f"{world_size()} processes")
    return f"runs on: {', '.join(where)}"
