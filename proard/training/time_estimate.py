"""How long a training will take: each phase's own step is taken on a few images, on a copy, and scaled up.

The step says what an image costs in passes, and what a student costs beside them; the two ends of the space say how
long a pass takes. Nothing of the training is touched: the weights are copied, the images are random, and the random
states are put back. Not counted: reading and augmenting images, writing checkpoints, messages between processes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from proard.attacks.losses import cross_entropy
from proard.attacks.steps import value_and_gradient
from proard.common.device import autocast
from proard.common.distributed import world_size
from proard.objectives.crafting import Own
from proard.supernet import Architecture
from proard.training.compute import ComputeMeter
from proard.training.phases import Phase
from proard.training.state import Position
from proard.training.trainer import Trainer

LIMIT = 0.1  # seconds for one measurement, about; where two images take longer, it takes that long
FEW_IMAGES = 2
TRIES = 3  # of a step, whose processes wait for each other
MOST_TRIES, LONGEST = 8, 10.0  # of a measurement that is in doubt, and its seconds in all
DRAWS = 8  # of a phase's sampler
WITHSTAND = 0.5  # share of the validation images that an attack goes on with to its end


def seconds_per_step(trainer: Trainer) -> list[float]:
    """What an optimizer step takes in each phase, with its share of the validations.

    Args:
        trainer: ready to train; left as it is. Under torchrun every process measures.
    """
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        estimate = Estimate(trainer)
        return [estimate.phase(phase) for phase in trainer.phases]


def seconds_left(trainer: Trainer, pace: list[float]) -> float:
    """Of the whole training, from where it is.

    Args:
        trainer: at any position.
        pace: as from `seconds_per_step`.
    """
    done, left = trainer.position.step, 0.0
    for steps, seconds in zip(trainer.steps, pace, strict=True):
        done, left = max(done - steps, 0), left + seconds * max(steps - done, 0)
    return left


class Estimate:
    """Measures a copy of a trainer.

    Args:
        trainer: ready to train.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = copy.copy(trainer)
        self.trainer.supernet = copy.deepcopy(trainer.supernet)
        self.trainer.generator = torch.Generator(trainer.device).manual_seed(0)
        self.space = self.trainer.supernet.space
        self.batch_size = -(-trainer.batch_size // world_size())
        shape = (self.batch_size, *trainer.data.input_shape)
        images = torch.rand(shape, generator=self.trainer.generator, device=trainer.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(self.batch_size, device=trainer.device) % trainer.data.num_classes
        self.steps_per_epoch = len(trainer._batches())
        ends = (self.space.smallest(), self.space.largest())
        self._ends = [(self.space.cost(a).multiply_adds, self._pass(a)) for a in dict.fromkeys(ends)]
        self._parts: dict[str, tuple[float, float]] = {}

    def phase(self, phase: Phase) -> float:
        """Seconds of a step of a phase, with its share of the validations."""
        self.trainer.position = Position(phase=phase.index)
        # Not the real teacher, whose answers are counted; that one's time goes by its multiply-adds.
        largest = self.trainer.supernet.student(self.space.largest()).requires_grad_(False)
        self.trainer.teacher = self.trainer.answering = largest
        self.trainer._begin_phase()
        validations = self._validations(phase) / (phase.settings.epochs * self.steps_per_epoch)
        return self._students(phase) + self._teacher(phase) + validations

    def _students(self, phase: Phase) -> float:
        """All students of a step; those after the first may have their adversarial images already."""
        sampler = phase.sampler(self.steps_per_epoch)
        total = self.steps_per_epoch * phase.settings.epochs
        places = sorted({total * draw // DRAWS for draw in range(DRAWS)})
        seconds = 0.0
        for place in places:
            costs = [self.space.cost(architecture).multiply_adds for architecture in sampler.sample(place)]
            first, *others = [costs[index] for index in phase.crafting.order(costs)]
            seconds += self._student(phase, first, False) + sum(self._student(phase, cost, True) for cost in others)
        return seconds / len(places)

    def _student(self, phase: Phase, multiply_adds: float, crafted: bool) -> float:
        """One student of a step: its passes over the batch, and all that does not depend on the images."""
        passes, overhead = self._passes(phase, crafted)
        return overhead + passes * self._seconds(multiply_adds)

    def _passes(self, phase: Phase, crafted: bool) -> tuple[float, float]:
        """Forward passes that a student's step is worth, and its seconds beside them; by steps of the smallest."""
        crafted = crafted and phase.crafting != Own(source=phase.crafting.source)
        key = repr((phase.settings.objective, phase.attack, phase.crafting if crafted else None))
        if key not in self._parts:
            smallest = self.space.smallest()
            self._step([smallest])
            students = [smallest, smallest] if crafted else [smallest]
            seconds = min(self._once(self._step, students) for _ in range(TRIES))
            work = FEW_IMAGES * self.space.cost(smallest).multiply_adds
            spent = self.trainer.compute.spent
            passes = (spent["attack"] + spent["update"]) / work
            if crafted:
                first, before = self._passes(phase, False)
                passes, seconds = passes - first, seconds - before
            self._parts[key] = passes, max(seconds, 0.0)
        return self._parts[key]

    def _step(self, students: list[Architecture]) -> None:
        """A step of the trainer on a few images; its meter has what that computed."""
        self.trainer.compute = ComputeMeter()
        self.trainer._students_of_a_step = lambda: students  # type: ignore[method-assign]
        self.trainer._step(self.images[:FEW_IMAGES], self.labels[:FEW_IMAGES], 0.0)

    def _teacher(self, phase: Phase) -> float:
        """The teacher's part of a step: its answers, or its own training."""
        if phase.joint is not None:
            return self._student(phase, self.space.cost(self.space.largest()).multiply_adds, False)
        return self._seconds(self.trainer.teacher_cost) if phase.objective.needs_teacher else 0.0

    def _validations(self, phase: Phase) -> float:
        """All validations of a phase: students are calibrated, and attacked."""
        settings, data, epochs = self.trainer.config.validation, self.trainer.data, phase.settings.epochs
        times = sum(epoch == epochs or epoch % settings.every == 0 for epoch in range(1, epochs + 1))
        calibration = min(settings.calibration_images, len(data.train))
        passes = 1 + 2 * WITHSTAND * self.trainer.validate.attack.passes
        attacked = passes * min(settings.images, len(data.validation))
        students = self.trainer.validate.students(phase.space).values()
        seconds = sum(self._seconds(self.space.cost(student).multiply_adds) for student in students)
        return times * seconds * (calibration + attacked) / self.batch_size / world_size()

    def _seconds(self, multiply_adds: float) -> float:
        """Of one forward pass over the batch, by the two ends of the space."""
        (x0, y0), (x1, y1) = self._ends[0], self._ends[-1]
        y0 = min(y0, y1)  # the smallest takes no longer than the largest
        return y1 if x1 == x0 else max(y0 + (y1 - y0) * (multiply_adds - x0) / (x1 - x0), 0.0)

    def _pass(self, architecture: Architecture) -> float:
        """Half of a step of an attack: a forward pass and a backward pass to the images are worth two."""
        student = self.trainer.supernet.student(architecture)

        def attack(count: int) -> None:
            labels = self.labels[:count]
            with autocast(self.trainer.device, self.trainer.precision):
                value_and_gradient(student, self.images[:count], lambda logits, _: cross_entropy(logits, labels))

        return self._scaled(attack) / 2

    def _scaled(self, call: Callable[[int], object]) -> float:
        """Seconds of a call on the whole batch, from as many images as there is time for."""
        count = min(FEW_IMAGES, self.batch_size)
        before, fewer, seconds = 0.0, 0, self._fastest(call, count)
        while count < self.batch_size and seconds < LIMIT:
            before, fewer = seconds, count
            count = min(max(4 * count, int(count * LIMIT / seconds)), self.batch_size)
            seconds = self._fastest(call, count)
        return seconds + max(seconds - before, 0.0) / (count - fewer) * (self.batch_size - count)

    def _fastest(self, call: Callable[[int], object], count: int) -> float:
        """Seconds of the fastest call: what else runs on the machine only adds to them, and is scaled up with them.

        In doubt is what is long, or of which the two fastest differ by more than a quarter.
        """
        times = sorted(self._once(call, count) for _ in range(2))
        while (times[0] >= LIMIT or times[1] > 1.25 * times[0]) and len(times) < MOST_TRIES and sum(times) < LONGEST:
            times = sorted([*times, self._once(call, count)])
        return times[0]

    def _once(self, call: Callable[[Any], object], argument: Any) -> float:
        started = time.perf_counter()
        call(argument)
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        return max(time.perf_counter() - started, 1e-9)
