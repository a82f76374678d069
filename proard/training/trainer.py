"""The training loop: phases, epochs, and in every step several students whose gradients are summed.

Read `Trainer.fit`, then `Trainer._step`. Students train and are attacked on batch statistics; running statistics exist
only in calibrated copies. Nothing in a step waits for the device, but an attack's projection onto an l1 ball: numbers
are read at intervals. Under torchrun every process takes its share of each batch; all draw the same students, and their
gradients are summed once per step.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn

from proard.attacks import Attack, check_result
from proard.common.device import autocast, peak_memory, resolve_device, resolve_precision, with_cast_weights
from proard.common.distributed import highest, rank, share, sum_over_ranks, world_size
from proard.common.errors import Stopped, UserError, out_of_memory
from proard.common.files import append_line
from proard.config import Config, PhaseConfig
from proard.data import DataSplits, WorkerDied, augment, training_images
from proard.evaluation.accuracy import Measurement
from proard.evaluation.fast_copy import fast_copy
from proard.objectives import Batch, Objective, Outcome
from proard.objectives.base import checked
from proard.runs import components
from proard.runs.checkpoint import check_same_data, check_same_teacher, save_checkpoint
from proard.runs.resolve import resolve
from proard.runs.run import Run
from proard.samplers import Sampler, Signals
from proard.supernet import Architecture
from proard.supernet.calibration import has_batch_norm
from proard.supernet.measured_network import multiply_adds
from proard.training.class_weights import class_weights
from proard.training.compute import SECONDS, ComputeMeter
from proard.training.graphs import StepGraphs
from proard.training.initial_weights import load_initial_weights, load_run_weights
from proard.training.interruption import Interrupted, SignalWatch
from proard.training.optimizer import learning_rate, new_optimizer
from proard.training.phases import Phase, build_phases
from proard.training.progress import TrainingProgress
from proard.training.state import Position, capture, restore
from proard.training.student_record import StudentRecord, signals
from proard.training.teachers import (
    BatchTeacher,
    ExternalTeacher,
    check_accuracy,
    freeze_largest,
    load_teacher,
    restore_largest,
)
from proard.training.validation import Validator

LOOK_EVERY = 20  # steps between two looks at the numbers, each of which waits for the device
SPIKE = 10.0  # a window's mean loss this many times the best one so far counts as diverged


class TrainingDiverged(Stopped):
    """The loss became infinite, NaN, or far larger than it was; the last checkpoint is from before."""


class Trainer:
    """Trains a supernet as a configuration says; in `mode: student` it has one architecture.

    Args:
        config: the whole run.
        data: its images.
        run: where the checkpoint and metrics go.
        quiet: plain lines instead of a progress bar.
        fresh: begin with the weights that the configuration names, if it does; False where `load` follows.

    Raises:
        UserError: something in the configuration does not fit; before anything is written.
    """

    def __init__(self, config: Config, data: DataSplits, run: Run, quiet: bool = False, fresh: bool = True) -> None:
        config = resolve(config)
        self.config, self.run, self.quiet = config, run, quiet
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device, data.input_shape)
        self.data, self.fingerprint = data, data.fingerprint()
        self.source = training_images(data, config.data.extra, config.data.memory_limit)
        self.train_images = self.source.images.to(self.device)
        chances = self.source.chances(config.batch_size)
        weights = class_weights(config.class_weights, self.source.images.labels, data.num_classes, chances)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.supernet = components.supernet_for(config, data).to(self.device).to(memory_format=torch.channels_last)
        self.phases = build_phases(config, self.supernet.space)
        self.batch_size = len(self.source.batches(config.batch_size, (0, 0, 0))[0])  # of all ranks together
        if self.batch_size < world_size():
            raise UserError(
                f"batch_size: {self.batch_size} images for {world_size()} processes; raise it, or take fewer"
            )
        smallest = self.supernet.student(self.supernet.space.smallest())
        images = self.batch_size // world_size() // config.batch_parts
        if images < 2 and (config.batch_parts > 1 or has_batch_norm(smallest)):
            each = "" if world_size() == 1 else f" for {world_size()} processes"
            each += f" in {config.batch_parts} parts each" if config.batch_parts > 1 else ""
            why = "a part needs 2 images or more" if config.batch_parts > 1 else "batch norm needs 2 images or more"
            raise UserError(f"batch_size: {self.batch_size}{each}; {why}")
        if fresh:
            load_initial_weights(config, self.supernet, data)
            load_run_weights(config, self.supernet, data)
        self.external: ExternalTeacher | None = None
        if config.teacher.source is not None:
            self.external = load_teacher(
                config.teacher,
                data.class_names,
                data.input_shape,
                data_name=config.data.name,
                norm=config.threat.norm,
                device=self.device,
            ).to(memory_format=torch.channels_last)
        self.external_accuracy: Measurement | None = None
        self.compute = ComputeMeter()
        self.validate = Validator(config, data, self.device)
        self.generator = torch.Generator(self.device)
        self.seed_generators(0)
        self.teacher: nn.Module | None = None
        self.answering: nn.Module | None = None  # for the teacher: a copy of it that is faster
        self.teacher_cost = self.supernet.space.cost(self.supernet.space.largest()).multiply_adds
        if self.external is not None:
            self.teacher_cost = multiply_adds(self.external, data.input_shape, self.device)
            if fresh:
                self.external_accuracy = self.validate.teacher(self.external)
                check_accuracy(config.teacher, self.external_accuracy, data.num_classes)
            self._learn_from(self.external)
        self.position = Position()
        self.best: dict[str, Any] | None = None
        self.attacked: tuple[Attack, torch.Tensor, torch.Tensor] | None = None  # images, and what they became
        self.after_save: Callable[[], None] = lambda: None
        self.said: set[str] = set()
        self.pace: list[float] | None = None  # seconds per step of every phase, where they were estimated
        self._begin_phase()

    # -----------------------------------------------------------------------------------------------------------------
    # The loop

    @property
    def steps(self) -> list[int]:
        """Optimizer steps of every phase."""
        return [len(self._batches()) * phase.epochs for phase in self.config.phases]

    def fit(self) -> None:
        """Train to the end of the last phase; on Ctrl-C or SIGTERM save and raise `Interrupted`."""
        progress = TrainingProgress(self.steps, self.position.step, self.quiet, rank() == 0, self.pace)
        try:
            with SignalWatch() as self.signals:
                while self.position.phase < len(self.config.phases):
                    self._train_epoch(progress)
                    last = self.position.epoch + 1 == self.phase.epochs
                    if last or (self.position.epoch + 1) % self.config.validation.every == 0:
                        self._validate(progress)
                    self.position.epoch += 1
                    self.position.batch = 0
                    if last:
                        self._end_phase()
                    self.save()
        except torch.OutOfMemoryError as error:
            raise Stopped(
                f"{out_of_memory(error)}, in phase '{self.phase.name}', step {self.position.step}; raise batch_parts "
                f"({self.config.batch_parts}), or lower batch_size ({self.config.batch_size}) or the supernet's widths",
                alone=True,
            ) from error
        finally:
            progress.close()

    def _train_epoch(self, progress: TrainingProgress) -> None:
        """The rest of the current epoch, from the next batch on."""
        batches = self._batches()
        remaining = batches[self.position.batch :]
        steps = self.phase.epochs * len(batches)
        warmup = self.phase.warmup_epochs * len(batches)
        started = saved = time.monotonic()
        shares = [batch[share(len(batch))] for batch in remaining]
        for images, labels in self._read(shares):
            done = self.position.epoch * len(batches) + self.position.batch
            rate = learning_rate(done, steps, self.phase.learning_rate, warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._step(augment(images, self.config.data.augmentation, self.generator), labels, done / steps)
            self.position.batch += 1
            self.position.step += 1
            progress.step()
            if self.position.batch % LOOK_EVERY == 0 or self.position.batch == len(batches):
                self._look(progress, rate)
            late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
            received, to_save = highest(self.signals.received or 0, int(late))
            if received or to_save:
                saved = time.monotonic()
                self.save()
                if received:
                    message = f"stopped in step {self.position.step}; saved in {self.run.path}, continue with --resume"
                    raise Interrupted(received, message)
        self._log_epoch(progress, time.monotonic() - started, len(remaining))

    def _read(self, shares: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of training images; where one cannot be read any more, what was trained is saved first."""
        try:
            yield from self.train_images.batches(shares, self.device)
        except (WorkerDied, UserError) as error:
            if world_size() > 1:  # the others are in the middle of a step
                raise
            self.save()
            where = f"saved in {self.run.path} at step {self.position.step}, continue with --resume"
            raise Stopped(f"{error}; {where} (data.workers=0 decodes in one process)") from error

    def _step(self, images: torch.Tensor, labels: torch.Tensor, progress: float = 1.0) -> None:
        """One optimizer step: each of its students is cut out, trained, and its gradient added back.

        Args:
            images: of the batch, or of this rank's share of it (N, C, H, W).
            labels: (N,).
            progress: of the phase, in [0, 1].
        """
        self.optimizer.zero_grad(set_to_none=False)
        students = self._students_of_a_step()
        numbers: dict[Architecture, torch.Tensor] = {}
        parts = max(min(self.config.batch_parts, len(images) // 2), 1)  # fewer only where the time is estimated
        for some, theirs in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            for architecture, part in self._train_all(students, some, theirs, progress, len(some) / len(images)):
                numbers[architecture] = numbers[architecture] + part if architecture in numbers else part
        # To the sampler and to the record
        for architecture, values in numbers.items():
            loss, *found = values.unbind()
            self.sampler.update(architecture, Signals(*found))
            self.record.count(architecture, loss, Signals(*found))
        # Update
        self._update(len(images))

    def _train_all(
        self, students: list[Architecture], images: torch.Tensor, labels: torch.Tensor, progress: float, share: float
    ) -> Iterator[tuple[Architecture, torch.Tensor]]:
        """The students of a step on a share of its batch, each with what `_train` says of it times the share."""
        # The teacher's answers on the clean images: computed when first asked for, then remembered for all students
        images = images.contiguous(memory_format=torch.channels_last)
        teacher = self._batch_teacher(images)
        crafted: torch.Tensor | None = None  # adversarial images that this step's students may share
        for architecture in students:
            if self.graphs is not None and len(students) == 1 and architecture in self.captured:
                yield architecture, self.graphs(architecture, images, labels, progress)
                continue
            student, outcome, numbers = self._train(architecture, images, labels, progress, teacher, crafted, share)
            yield architecture, share * numbers
            # What it leaves to the other students
            if self._is_joint(architecture):
                teacher = BatchTeacher(student, images, outcome.clean_logits)
            if crafted is None or self.crafting.source == "previous":
                crafted = outcome.adversarial_images

    def _train(
        self,
        architecture: Architecture,
        images: torch.Tensor,
        labels: torch.Tensor,
        progress: float | torch.Tensor,
        teacher: BatchTeacher | None,
        crafted: torch.Tensor | None,
        share: float = 1.0,
    ) -> tuple[nn.Module, Outcome, torch.Tensor]:
        """One student's part of a step: it, what its objective found, and its loss and signals in one tensor (4,).

        Its gradients count as the images' share of the batch.
        """
        # Cut, attack and loss
        student = self._cut(architecture)
        objective = self.joint if self.joint is not None and self._is_joint(architecture) else self.objective
        batch = Batch(images, labels, self.generator, cast(float, progress), self.crafting, crafted, self.class_weights)
        with autocast(self.device, self.precision):
            outcome = checked(objective.outcome(student, teacher, batch), objective, len(images))
        if self.class_weights is not None and "class_weights" not in batch.uses:
            self._say_once(f"class_weights: no effect in phase '{self.phase.name}', whose objective weighs no labels")
        if self.position.epoch == self.position.batch == 0 and outcome.adversarial_images is not None:
            self.attacked = (self._stage.attack, outcome.adversarial_images, images)
        # Gradients back
        (outcome.loss if share == 1 else share * outcome.loss).backward()
        self.supernet.accumulate(student)
        with autocast(self.device, self.precision):
            found = signals(outcome, teacher, images, labels)
        numbers = (outcome.loss.detach(), found.divergence, found.clean, found.robust)
        return student, outcome, torch.stack([torch.as_tensor(number, dtype=torch.float32) for number in numbers])

    def _numbers(
        self, architecture: Architecture, images: torch.Tensor, labels: torch.Tensor, progress: float | torch.Tensor
    ) -> torch.Tensor:
        """What `_train` says of a student that is the only one of its step."""
        return self._train(architecture, images, labels, progress, self._batch_teacher(images), None)[2]

    def _batch_teacher(self, images: torch.Tensor) -> BatchTeacher | None:
        return None if self.answering is None else BatchTeacher(self.answering, images)

    def _is_joint(self, architecture: Architecture) -> bool:
        """Whether it trains as the others' teacher in the same step."""
        return self.joint is not None and architecture == self.supernet.space.largest()

    def _update(self, images: int) -> None:
        """Change the weights, and their moving average, by the summed gradients of a step's students.

        Args:
            images: of this rank; each rank counts by its part of the batch, as if one process had the whole batch.
        """
        gradients = [parameter.grad for parameter in self.supernet.parameters() if parameter.grad is not None]
        sum_over_ranks(gradients, images / self.batch_size)
        if self.config.optimizer.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.supernet.parameters(), self.config.optimizer.gradient_clip)
        self.optimizer.step()
        if self.averaged is not None:
            decay = self.config.ema_decay or 0.0
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.parameters()), list(self.supernet.parameters()), 1 - decay)

    def _students_of_a_step(self) -> list[Architecture]:
        """What the sampler draws, in the order in which it trains."""
        space = self.supernet.space
        drawn = self.sampler.sample(self.position.epoch * self.sampler.steps_per_epoch + self.position.batch)
        drawn = [drawn[index] for index in self.crafting.order([space.cost(a).multiply_adds for a in drawn])]
        if self.joint is None:
            return drawn
        # The largest comes first: it is the others' teacher in this step.
        return list(dict.fromkeys([space.largest(), *drawn]))

    def _cut(self, architecture: Architecture) -> nn.Module:
        """A student whose passes are counted."""
        cost = self.supernet.space.cost(architecture).multiply_adds
        return self.compute.watch(self.supernet.student(architecture, self.precision), cost)

    # -----------------------------------------------------------------------------------------------------------------
    # Phases

    @property
    def _stage(self) -> Phase:
        """The current phase with its parts; after the end, the last one."""
        return self.phases[min(self.position.phase, len(self.phases) - 1)]

    @property
    def phase(self) -> PhaseConfig:
        """The current phase's section of the configuration; after the end, the last phase's."""
        return self._stage.settings

    def _begin_phase(self) -> None:
        """Unlock decisions, sort channels for them, and start a new optimizer and sampler."""
        stage = self._stage
        if self.position.epoch == 0 and self.config.sort_channels:
            unlocked = self.phases[stage.index - 1].kinds if stage.index else set()
            self.supernet.sort_channels(stage.kinds - unlocked, unlocked)
        self.objective: Objective = stage.objective
        self.joint, self.crafting = stage.joint, stage.crafting
        self.sampler: Sampler = stage.sampler(len(self._batches()))
        self.record = StudentRecord(stage.space, self.device)
        wanted = self.objective.needs_teacher or self.phase.refresh_teacher
        if wanted and self.joint is None and self.teacher is None:
            self._learn_from(freeze_largest(self.supernet, self.validate.calibration))
        self.optimizer = new_optimizer(self.config.optimizer, self.supernet)
        self.averaged = copy.deepcopy(self.supernet) if self.config.ema_decay is not None else None
        self.best = None
        self.lowest_loss = float("inf")
        self.attacked = None
        self.graphs: StepGraphs | None = None
        if self.device.type == "cuda" and self.joint is None and world_size() == self.config.batch_parts == 1:
            self.graphs = StepGraphs(self._numbers, self.compute, self.generator)
            self.captured = {stage.space.smallest(), stage.space.largest()}

    def _learn_from(self, teacher: nn.Module) -> None:
        """Take a network for the teacher, and count its answers."""
        self.teacher = teacher
        images = torch.linspace(0, 1, 2 * math.prod(self.data.input_shape), device=self.device)
        answering = with_cast_weights(fast_copy(teacher, images.view(2, *self.data.input_shape)), self.precision)
        self.answering = self.compute.watch(answering, self.teacher_cost, "teacher")

    def _end_phase(self) -> None:
        """Continue from the phase's best weights, by validation robust accuracy."""
        assert self.best is not None
        self.supernet.load_state_dict(self.best["weights"])
        self.position.phase += 1
        self.position.epoch = 0
        if self.position.phase < len(self.config.phases):
            weights = self.best
            if self.phase.refresh_teacher:
                self.teacher = None
            self._begin_phase()
            self.best = {**weights, "robust": -1.0}  # extractable until the new phase has weights of its own

    def _validate(self, progress: TrainingProgress) -> None:
        """Measure the handful of students; remember the weights if their mean robust accuracy is the best so far."""
        started = time.monotonic()
        measured, attack = self.averaged or self.supernet, self.validate.attack.name
        students = self.validate(measured, self._stage.space, self.compute)
        robust = sum(student["robust"] for student in students.values()) / len(students)
        if self.best is None or robust > self.best["robust"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in measured.state_dict().items()}
            self.best = {"weights": weights, "robust": robust, "phase": self.phase.name, "epoch": self.position.epoch}
        self._log("validation", attack=attack, robust=robust, students=students, seconds=time.monotonic() - started)
        shown = ", ".join(f"{n} {100 * s['clean']:.1f}/{100 * s['robust']:.1f}" for n, s in students.items())
        progress.line(f"  validation, clean/{attack} %: {shown}")

    # -----------------------------------------------------------------------------------------------------------------
    # Parts of a step

    def _batches(self) -> list[torch.Tensor]:
        """The epoch's order: a function of seed, phase and epoch, so that a resumed run computes it again."""
        seed = (self.config.seed, self.position.phase, self.position.epoch)
        return self.source.batches(self.config.batch_size, seed)

    def _look(self, progress: TrainingProgress, rate: float) -> None:
        """Read the numbers, show them, and stop if the loss is no longer one."""
        if self.attacked is not None:  # of the phase's first step, since looking at images waits for the device
            check_result(*self.attacked, self.attacked[0].reach)
            self.attacked = None
        means = self.record.means()
        loss = means["loss"] or 0.0
        if not math.isfinite(loss) or loss > SPIKE * max(self.lowest_loss, 1.0):
            at = f"phase '{self.phase.name}', epoch {self.position.epoch + 1}, step {self.position.step}"
            raise TrainingDiverged(
                f"training diverged in {at}: the mean loss is {loss:.4g}; the checkpoint in {self.run.path} is from "
                f"before; lower phases.{self.position.phase}.learning_rate ({self.phase.learning_rate:g}) or set "
                "optimizer.gradient_clip"
            )
        self.lowest_loss = min(self.lowest_loss, loss)
        progress.show(self.phase.name, f"{self.position.epoch + 1}/{self.phase.epochs}", **means, lr=rate)

    def _log_epoch(self, progress: TrainingProgress, seconds: float, steps: int) -> None:
        means = self.record.means()
        images = steps * self.batch_size / max(seconds, 1e-9)
        self._log(
            "epoch",
            **means,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=seconds,
            images_per_second=images,
            peak_memory_bytes=peak_memory(self.device),
            steps=steps,
            bins=self.record.rows(),
        )
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items() if value is not None)
        progress.epoch(
            f"{self.phase.name} {self.position.epoch + 1}/{self.phase.epochs}: {shown}, {images:.0f} images/s"
        )
        self.record.sums.zero_()

    def _say_once(self, line: str) -> None:
        if rank() == 0 and line not in self.said:
            self.said.add(line)
            print(line, file=sys.stderr)

    def _log(self, kind: str, **values: Any) -> None:
        """A row of metrics: where it is, what was found, and what was computed since the last one; on all ranks."""
        at = {"kind": kind, "phase": self.phase.name, "epoch": self.position.epoch, "step": self.position.step}
        spent = self.compute.take()
        values |= {SECONDS: spent.pop(SECONDS), "compute": {name: value for name, value in spent.items() if value}}
        if rank() == 0:
            append_line(self.run.metrics, json.dumps({**at, **values}))

    # -----------------------------------------------------------------------------------------------------------------
    # State

    def save(self) -> None:
        """Write the checkpoint: all that a bit-for-bit continuation needs, and the best weights for extraction."""
        state = capture(self)
        if rank() == 0:
            save_checkpoint(self.run.checkpoint, state)
            self.after_save()

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `save` was called; another number of processes draws other random numbers from here on.

        Raises:
            UserError: the images or the teacher's file have changed.
        """
        check_same_data(state, self.fingerprint)
        check_same_data(state, self.source.fingerprint, key="extra")
        if self.external is not None:
            check_same_teacher(state, self.external.source, self.external.sha256)
        self.position = Position(**state["position"])
        if state["teacher"] is not None:
            self._learn_from(restore_largest(self.supernet, state["teacher"]))
        self._begin_phase()
        restore(self, state)

    def seed_generators(self, step: int) -> None:
        """Begin to draw: augmentation and attacks from a generator, differently on every rank, dropout from PyTorch's.

        Args:
            step: from which on; 0 at the start of a run.
        """
        seed = self.config.seed + 1_000_003 * (rank() + world_size() * step)
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
