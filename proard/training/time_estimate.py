"""How long a training will take: students of both ends of the space are trained for a moment, on a copy, and scaled up.

Nothing of the training is touched: the weights are copied, the images are random, and the random states are put back.
What is not counted: reading images from files, writing checkpoints, and the messages between processes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import Any

import torch

from proard.attacks.losses import cross_entropy
from proard.attacks.steps import value_and_gradient
from proard.common.device import autocast
from proard.common.distributed import world_size
from proard.data import augment, epoch_batches
from proard.evaluation.fast_copy import fast_copy
from proard.objectives import Batch, Crafting, Objective
from proard.objectives.crafting import Own
from proard.supernet import Architecture, SearchSpace
from proard.training import phases
from proard.training.optimizer import new_optimizer
from proard.training.teachers import BatchTeacher
from proard.training.trainer import Trainer

SECONDS = 1.0  # to spend on all of it, about
LONGEST = 0.7  # seconds that a few images may take; beyond, more are not tried
FEW_IMAGES, FEW_STEPS = 2, (1, 3)  # that show what an image, and an attack step, takes
DRAWS = 8  # of a phase's sampler
WITHSTAND = 0.5  # share of the validation images that an attack goes on with to its end


def seconds_per_step(trainer: Trainer, seconds: float = SECONDS) -> list[float]:
    """What an optimizer step takes in each phase, with its share of the validations.

    Args:
        trainer: ready to train; left as it is.
        seconds: to spend, about; where a single small batch takes longer than its share, it takes that long.
    """
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        return _Estimate(trainer, seconds).per_phase()


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimizer steps."""
    return len(epoch_batches(len(trainer.train_images), trainer.config.batch_size, (0,)))


def seconds_left(trainer: Trainer, pace: list[float]) -> float:
    """Of the whole training, from where it is.

    Args:
        trainer: at any position.
        pace: as from `seconds_per_step`.
    """
    per_epoch, position, left = steps_per_epoch(trainer), trainer.position, 0.0
    for index, (phase, seconds) in enumerate(zip(trainer.config.phases, pace, strict=True)):
        done = phase.epochs * per_epoch if index < position.phase else 0
        if index == position.phase:
            done = position.epoch * per_epoch + position.batch
        left += seconds * (phase.epochs * per_epoch - done)
    return left


@dataclass(frozen=True)
class _Line:
    """Seconds by multiply-adds, from the two ends of a space."""

    smallest: tuple[float, float]
    largest: tuple[float, float]

    def at(self, multiply_adds: float) -> float:
        (x0, y0), (x1, y1) = self.smallest, self.largest
        return y1 if x1 == x0 else y0 + (y1 - y0) * (multiply_adds - x0) / (x1 - x0)


class _Estimate:
    def __init__(self, trainer: Trainer, seconds: float) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.network = copy.deepcopy(trainer.supernet)
        self.optimizer = new_optimizer(self.config.optimizer, self.network)
        self.space = self.network.space
        self.batch_size = -(-trainer.batch_size // world_size())
        self.generator = torch.Generator(trainer.device).manual_seed(0)
        shape = (self.batch_size, *trainer.data.input_shape)
        images = torch.rand(shape, generator=self.generator, device=trainer.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(self.batch_size, device=trainer.device) % trainer.data.num_classes
        spaces = [phases.phase_space(self.config, i, self.space) for i in range(len(self.config.phases))]
        self.smallest = min((space.smallest() for space in spaces), key=self._multiply_adds)
        self.varying = [space.size > 1 for space in spaces]
        self.teacher = trainer.external or self.network.student(self.space.largest()).requires_grad_(False)
        self.limit = seconds / (4 + 3 * len({self._parts(i) for i in range(len(spaces))}))
        self._lines: dict[Any, _Line] = {}
        self._slow: dict[Architecture, tuple[float, float]] = {}

    def _multiply_adds(self, architecture: Architecture) -> int:
        return self.space.cost(architecture).multiply_adds

    def _parts(self, index: int) -> tuple[str, str, bool]:
        """What tells phases apart that take a different time for the same student."""
        phase = self.config.phases[index]
        return repr((phase.objective, phase.attack)), repr(phase.crafting), self.varying[index]

    # What takes time

    def per_phase(self) -> list[float]:
        """See `seconds_per_step`."""
        per_epoch = steps_per_epoch(self.trainer)
        whole = self._whole_step()
        validation = self._ends(self._validation, any(self.varying))
        found = []
        for index, phase in enumerate(self.config.phases):
            space = phases.phase_space(self.config, index, self.space)
            validations = sum(
                epoch == phase.epochs or epoch % self.config.validation.every == 0
                for epoch in range(1, phase.epochs + 1)
            )
            students = self.trainer.validate.students(space).values()
            validated = sum(validation.at(self._multiply_adds(student)) for student in students) / world_size()
            found.append(whole + self._students(index, space) + validations * validated / (phase.epochs * per_epoch))
        return found

    def _students(self, index: int, space: SearchSpace) -> float:
        """Of a step of a phase: all of its students, and the teacher."""
        config, steps = self.config, steps_per_epoch(self.trainer)
        objective, crafting = phases.phase_objective(config, index), phases.phase_crafting(config, index)
        first, other = self._student_lines(index, objective, crafting)
        sampler = phases.phase_sampler(config, index, space, steps)
        total = steps * config.phases[index].epochs
        places = sorted({total * draw // DRAWS for draw in range(DRAWS)})
        seconds = 0.0
        for place in places:
            costs = [self._multiply_adds(architecture) for architecture in sampler.sample(place)]
            one, *rest = [costs[i] for i in crafting.order([float(cost) for cost in costs])]
            seconds += first.at(one) + sum(other.at(cost) for cost in rest)
        seconds /= len(places)
        if config.teacher.mode == "joint":
            joint = phases.joint_objective(config, index)
            seconds += self._trained(joint, self.space.largest(), Own())
        elif objective.needs_teacher:
            seconds += self._scaled(self._teach)
        return seconds

    def _student_lines(self, index: int, objective: Objective, crafting: Crafting) -> tuple[_Line, _Line]:
        """Of the first student of a step, and of every other one, which may have its adversarial images already."""
        key = self._parts(index)
        varying = self.varying[index]
        if key not in self._lines:
            self._lines[key] = self._ends(lambda end: self._trained(objective, end, crafting), varying)
        if crafting == Own(source=crafting.source) or not varying:
            return self._lines[key], self._lines[key]
        other = (*key, "other")
        if other not in self._lines:
            follow = lambda end: self._scaled(partial(self._train, objective, end, crafting, True))  # noqa: E731
            self._lines[other] = self._ends(follow, varying)
        return self._lines[key], self._lines[other]

    def _ends(self, seconds: Callable[[Architecture], float], varying: bool) -> _Line:
        largest = self.space.largest()
        top = (float(self._multiply_adds(largest)), seconds(largest))
        if not varying or self.smallest == largest:
            return _Line(top, top)
        return _Line((float(self._multiply_adds(self.smallest)), seconds(self.smallest)), top)

    # One student

    def _trained(self, objective: Objective, architecture: Architecture, crafting: Crafting) -> float:
        """A student on the whole batch; a long attack is not run to its end, but scaled up from a few steps."""
        attack = getattr(objective, "attack", None)
        steps = getattr(attack, "steps", 0)
        if attack is None or steps <= FEW_STEPS[1] or not is_dataclass(objective):
            return self._scaled(partial(self._train, objective, architecture, crafting, False))
        few = [replace(objective, attack=replace(attack, steps=count)) for count in FEW_STEPS]
        calls = [partial(self._train, each, architecture, crafting, False) for each in few]
        count, factor, short = self._fitting(calls[0])
        if short > LONGEST and count < self.batch_size:  # a large network: single passes tell the rest
            one, whole = self._passes(architecture, count)
            return short * whole / one + (steps - FEW_STEPS[0]) * whole
        longer = self._timed(calls[1], count)
        step = max(longer - short, 0.0) / (FEW_STEPS[1] - FEW_STEPS[0])
        return (short + (steps - FEW_STEPS[0]) * step) * factor

    def _train(
        self, objective: Objective, architecture: Architecture, crafting: Crafting, crafted: bool, count: int
    ) -> None:
        images, labels = self.images[:count], self.labels[:count]
        student = self.network.student(architecture)
        teacher = BatchTeacher(
            self.teacher, images, torch.zeros(count, self.trainer.data.num_classes, device=images.device)
        )
        batch = Batch(images, labels, self.generator, 1.0, crafting, images if crafted else None)
        with autocast(self.trainer.device, self.trainer.precision):
            outcome = objective.outcome(student, teacher, batch)
        outcome.loss.backward()
        self.network.accumulate(student)

    def _passes(self, architecture: Architecture, count: int) -> tuple[float, float]:
        """A step of an attack on a few images, and on the whole batch; by passes of a network that is slow."""
        if architecture not in self._slow:
            student = self.network.student(architecture)

            def step(count: int) -> None:
                labels = self.labels[:count]
                with autocast(self.trainer.device, self.trainer.precision):
                    value_and_gradient(student, self.images[:count], lambda logits, _: cross_entropy(logits, labels))

            more = min(4 * count, self.batch_size)
            few, many = self._once(step, count), self._once(step, more)
            slope = max(many - few, 0.0) / (more - count)
            self._slow[architecture] = few, few + slope * (self.batch_size - count)
        return self._slow[architecture]

    def _teach(self, count: int) -> None:
        with torch.no_grad(), autocast(self.trainer.device, self.trainer.precision):
            self.teacher(self.images[:count])

    def _validation(self, architecture: Architecture) -> float:
        """Calibrate a student, and attack it."""
        student = self.network.student(architecture)

        def calibrate(count: int) -> None:
            with torch.no_grad():
                student(self.images[:count])

        fixed = fast_copy(self.network.extract(architecture, [self.images[:FEW_IMAGES]]), self.images[:2])

        def attack(count: int) -> None:
            labels = self.labels[:count]
            value_and_gradient(fixed, self.images[:count], lambda logits, _: cross_entropy(logits, labels))

        settings, data = self.config.validation, self.trainer.data
        calibration = min(settings.calibration_images, len(data.train)) / self.batch_size
        attacked = min(settings.images, len(data.validation)) / self.batch_size
        passes = 1 + WITHSTAND * self.trainer.validate.attack.passes
        return calibration * self._scaled(calibrate) + attacked * passes * self._scaled(attack)

    def _whole_step(self) -> float:
        """What a step takes beside its students: augmentation and the optimizer."""

        def step(_: int) -> None:
            augment(self.images, self.config.data.augmentation, self.generator)
            self.optimizer.zero_grad(set_to_none=False)
            self.optimizer.step()

        return self._timed(step, self.batch_size)

    # The clock

    def _scaled(self, call: Callable[[int], None]) -> float:
        """Seconds of a call on the whole batch."""
        _, factor, seconds = self._fitting(call)
        return seconds * factor

    def _fitting(self, call: Callable[[int], None]) -> tuple[int, float, float]:
        """As many images as there is time for, how much longer the whole batch takes, and the seconds for them."""
        count = min(FEW_IMAGES, self.batch_size)
        before, fewer, seconds = 0.0, 0, self._timed(call, count)
        while count < self.batch_size and seconds < (self.limit if fewer else LONGEST):
            more = max(4 * count, int(count * self.limit / seconds))
            before, fewer, count = seconds, count, min(more, self.batch_size)
            seconds = self._timed(call, count)
        slope = max(seconds - before, 0.0) / (count - fewer)
        return count, 1 + slope * (self.batch_size - count) / seconds, seconds

    def _timed(self, call: Callable[[int], None], count: int) -> float:
        """The shorter of two calls: the first prepares kernels, and what disturbs one of them makes it longer."""
        first = self._once(call, count)
        return first if first > LONGEST else min(first, self._once(call, count))

    def _once(self, call: Callable[[int], None], count: int) -> float:
        started = time.perf_counter()
        call(count)
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        return max(time.perf_counter() - started, 1e-9)
