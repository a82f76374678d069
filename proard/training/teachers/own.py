"""The supernet's own largest student as the teacher, and what makes any teacher answer once per batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from proard.objectives.differentiation import input_gradient
from proard.supernet import Supernet
from proard.supernet.calibration import Batches, add_running_statistics


class BatchTeacher:
    """A teacher that computes its logits on a batch once, for all students of the step.

    Called with the batch's own images it answers from memory, detached. Any other images, such as adversarial ones or a
    copy that requires a gradient, go through the network, so that an objective may differentiate it.

    Args:
        network: images to logits.
        images: the batch.
        logits: the network's logits on the batch, where they are known already.
    """

    def __init__(
        self, network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, logits: torch.Tensor | None = None
    ) -> None:
        self.network = network
        self._images = images
        self._logits = None if logits is None else logits.detach()
        self._input_gradient: torch.Tensor | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K)."""
        if images is not self._images:
            return self.network(images)
        if self._logits is None:
            with torch.no_grad():
                self._logits = self.network(images)
        return self._logits

    def input_gradient(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `proard.objectives.differentiation.input_gradient`; on the batch's own images computed once as well."""
        if images is not self._images:
            return input_gradient(self.network, images, labels)
        if self._input_gradient is None:
            self._input_gradient = input_gradient(self.network, images, labels)
        return self._input_gradient


def freeze_largest(supernet: Supernet, calibration: Batches) -> nn.Module:
    """The largest student as it is now: a copy with its own statistics, in evaluation mode, without gradients."""
    return supernet.extract(supernet.space.largest(), calibration).requires_grad_(False)


def restore_largest(supernet: Supernet, state: dict[str, torch.Tensor]) -> nn.Module:
    """The teacher that `freeze_largest` made, from its saved tensors."""
    teacher = supernet.student(supernet.space.largest())
    add_running_statistics(teacher)
    teacher.load_state_dict(state)
    return teacher.eval().requires_grad_(False)
