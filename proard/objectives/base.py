"""What every objective is: a function of a student, a teacher and a labelled batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from proard.attacks import PGD, Attack, ThreatModel
from proard.attacks.attack import Loss, Model, returned
from proard.attacks.losses import at_least_float32
from proard.common.errors import UserError
from proard.common.options import Options
from proard.common.registry import Registry
from proard.objectives.crafting import Batch


@dataclass(frozen=True)
class Outcome:
    """What an objective computed on a batch.

    Attributes:
        loss: scalar to minimise, averaged over images.
        clean_logits: the student's on the clean images (N, K), where the objective needed them.
        adversarial_logits: on the images it was attacked with, likewise.
        adversarial_images: those images (N, C, H, W), for an objective that adds to this one.
    """

    loss: torch.Tensor
    clean_logits: torch.Tensor | None = None
    adversarial_logits: torch.Tensor | None = None
    adversarial_images: torch.Tensor | None = None


class Objective(Options, ABC):
    """A training loss. It never sees an optimizer, and changes neither a network's mode nor its gradients.

    ``objective(student, teacher, images, labels)`` is the loss. The teacher is called as a function of images, so that
    an objective may also differentiate it by its input.
    """

    needs_teacher: ClassVar[bool] = False

    def __call__(
        self,
        student: Model,
        teacher: Model | None,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> torch.Tensor:
        """The loss alone; see `outcome` and `Batch` for the arguments."""
        return self.outcome(student, teacher, Batch(images, labels, generator, progress)).loss

    @abstractmethod
    def outcome(self, student: Model, teacher: Model | None, batch: Batch) -> Outcome:
        """The loss and the logits that were computed on the way.

        Args:
            student: the network to train, in training mode: images (N, C, H, W) in [0, 1] to logits (N, K).
            teacher: likewise, or None for an objective that needs none.
            batch: what to learn from.

        Raises:
            ValueError: the objective needs a teacher and there is none.
        """

    def require_fraction(self, *names: str) -> None:
        """Check that options are in [0, 1]; ValueError where one is not."""
        self.require(lambda value: 0 <= value <= 1, "in [0, 1]", *names)

    def taught(self, teacher: Model | None, images: torch.Tensor) -> torch.Tensor:
        """The teacher's logits of images, as a fixed target."""
        with torch.no_grad():
            return at_least_float32(required(teacher, self)(images))


@dataclass(frozen=True)
class AdversarialObjective(Objective):
    """An objective with an inner maximisation.

    Attributes:
        attack: the inner maximisation; default PGD-10 at 8/255 with steps of 2/255.
    """

    attack: Attack = field(default=PGD(ThreatModel(), steps=10, step_size=2 / 255))

    def attacked(self, student: Model, batch: Batch, loss: Loss | None = None) -> torch.Tensor:
        """The batch's images, perturbed to raise ``loss`` (default the cross-entropy of the labels); detached."""
        return returned(self.attack, batch.crafting.images(self.attack, student, batch, loss), batch.images)


def checked(outcome: Outcome, objective: Objective, images: int) -> Outcome:
    """What `outcome` returned for so many images, if it is one to learn from; nothing waits for the device.

    Raises:
        UserError: no `Outcome`, a loss that is no differentiable scalar, or logits that are not (N, K).
    """
    name = f"objective {type(objective).__name__}"
    if not isinstance(outcome, Outcome):
        raise UserError(f"{name}: outcome returned {type(outcome).__name__}; it must return an Outcome")
    loss = outcome.loss
    if not (isinstance(loss, torch.Tensor) and loss.ndim == 0 and loss.is_floating_point() and loss.requires_grad):
        raise UserError(f"{name}: its loss must be a tensor, one number that depends on the student's weights")
    for logits in (outcome.clean_logits, outcome.adversarial_logits):
        if logits is not None and not (isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == images):
            raise UserError(f"{name}: its logits must be of shape ({images}, classes), for {images} images")
    return outcome


def required(teacher: Model | None, objective: Objective) -> Model:
    """The teacher, or a clear error."""
    if teacher is None:
        raise ValueError(f"{type(objective).__name__} distils from a teacher, but got None")
    return teacher


objectives: Registry[Objective] = Registry("objective")
