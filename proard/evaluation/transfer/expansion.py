"""The loss around an image to first order: how steep it is, how far from linear, and how alike for two networks.

With L(x) the cross-entropy of the label at image x, a perturbation d gives ``L(x + d) = L(x) + d . grad L(x) + r(d)``.
KDIGA (Shao et al., arXiv 2110.12072) aligns the gradients of a student and its teacher, and measures the remainder by
the local linearity measure (LLM) ``max |r(d)|`` over the threat model, the gamma of Qin et al. (arXiv 1907.02610): the
smaller it is, the more the gradient says about what an attack can do.

Networks are called as they are; put them into evaluation mode, or images of a batch influence each other's gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch

from proard.attacks import ThreatModel, maximise
from proard.attacks.attack import Loss, Model
from proard.attacks.losses import cross_entropy
from proard.attacks.steps import buffers_restored, detached_in_float32, value_and_gradient

if TYPE_CHECKING:
    from typing_extensions import Unpack

PATH = 5.0  # of an ascent, in radii; twice that of an attack, as the best iterate is kept: it found the most


class Ascent(TypedDict, total=False):
    """How a largest value over the threat model is searched for, by projected gradient ascent.

    Attributes:
        steps: of each ascent, at least 1; default 10.
        restarts: ascents from different uniform starts, at least 1; default 10. They matter more than steps: each may
            end at another local maximum.
        step_size: in units of the norm; default 5 eps / steps.
        generator: of the starts; default one seeded with 0.
    """

    steps: int
    restarts: int
    step_size: float | None
    generator: torch.Generator | None


@dataclass(frozen=True)
class Expansion:
    """The cross-entropy of a network around N images, to first order.

    Attributes:
        threat: the perturbations that are considered.
        loss: L(x) per image (N,).
        gradient: of the loss by each image (N, ...).
        local_linearity: the largest |r(d)| that was found, per image (N,); see `local_linearity`.
    """

    threat: ThreatModel
    loss: torch.Tensor
    gradient: torch.Tensor
    local_linearity: torch.Tensor

    @property
    def linear_change(self) -> torch.Tensor:
        """``eps ||grad L(x)||_dual`` (N,): the most that the linear part can change within the radius."""
        return self.threat.eps * self.threat.dual_size(self.gradient)

    @property
    def worst_loss(self) -> torch.Tensor:
        """``L(x) + eps ||grad L(x)||_dual + LLM(x)`` (N,): no perturbation within the radius has a larger loss.

        It follows from Hoelder's inequality on ``d . grad L(x)``. It is exact mathematics on an estimated number: the
        local linearity is a lower bound found by gradient ascent, so this is **not a certificate**.
        """
        return self.loss + self.linear_change + self.local_linearity


def expand(
    network: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    threat: ThreatModel,
    **ascent: Unpack[Ascent],
) -> Expansion:
    """Expand the loss of a network around each image.

    Args:
        network: images (N, ...) in the threat model's bounds to logits (N, K), in evaluation mode.
        images: float (N, ...).
        labels: class indices (N,).
        threat: norm, radius and bounds of the perturbations.
        ascent: to the local linearity.

    Raises:
        ValueError: images outside the bounds, which means that normalisation is not inside the network.
    """
    if images.numel() and not threat.bounds[0] <= images.min() <= images.max() <= threat.bounds[1]:
        raise ValueError(f"images must be within {threat.bounds}; put normalisation inside the network")
    images = detached_in_float32(images)
    loss, gradient = loss_and_gradient(network, images, labels)

    def remainder(logits: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
        linear = ((perturbed - images) * gradient).flatten(1).sum(1)
        return (cross_entropy(logits, labels) - loss - linear).abs()

    return Expansion(threat, loss, gradient, largest(network, images, remainder, threat, **ascent))


def local_linearity(
    network: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    threat: ThreatModel,
    **ascent: Unpack[Ascent],
) -> torch.Tensor:
    """The local linearity measure ``max |L(x + d) - L(x) - d . grad L(x)|`` over the threat model, per image (N,).

    Projected gradient ascent finds it, so the result is a **lower bound** of the true maximum; more steps and restarts
    raise it. At least 0. See `expand` for the arguments and the source.
    """
    return expand(network, images, labels, threat, **ascent).local_linearity


@dataclass(frozen=True)
class GradientAlignment:
    """How alike two networks' input gradients are.

    Attributes:
        cosine: of the angle between them, per image (N,), in [-1, 1]. Two zero gradients agree (1); a zero one and
            another have no angle (0).
        distance: l2 norm of their difference, per image (N,): what KDIGA's alignment term lowers.
    """

    cosine: torch.Tensor
    distance: torch.Tensor


def gradient_alignment(student: Model, teacher: Model, images: torch.Tensor, labels: torch.Tensor) -> GradientAlignment:
    """Compare the input gradients of the cross-entropy of two networks on images (N, ...) with labels (N,)."""
    return align(loss_and_gradient(student, images, labels)[1], loss_and_gradient(teacher, images, labels)[1])


def align(student_gradient: torch.Tensor, teacher_gradient: torch.Tensor) -> GradientAlignment:
    """The same from gradients (N, ...) that are known already."""
    # float64: the squares of a confident network's gradients vanish in float32.
    student, teacher = (gradient.flatten(1).double() for gradient in (student_gradient, teacher_gradient))
    norms = student.norm(dim=1) * teacher.norm(dim=1)
    cosine = ((student * teacher).sum(1) / norms.where(norms > 0, 1.0)).clamp(-1, 1)
    both_zero = ~student.any(1) & ~teacher.any(1)
    dtype = student_gradient.dtype
    return GradientAlignment(cosine.where(~both_zero, 1.0).to(dtype), (student - teacher).norm(dim=1).to(dtype))


def loss_and_gradient(network: Model, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy per image (N,) and its gradient by that image (N, ...), both detached.

    Only the output is differentiated: parameters, their gradients, modes and buffers stay as they were.
    """
    with buffers_restored(network):
        _, loss, gradient = value_and_gradient(
            network, detached_in_float32(images), lambda logits, _: cross_entropy(logits, labels)
        )
    return loss, gradient


def largest(
    network: Model,
    images: torch.Tensor,
    value: Loss,
    threat: ThreatModel,
    *,
    steps: int = 10,
    restarts: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The largest ``value`` per image (N,) that projected gradient ascent meets on its way, ends included.

    A lower bound of the maximum over the threat model; see `Ascent` for the options.

    Raises:
        ValueError: no step or no restart.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}")
    found = images.new_full((len(images),), float("-inf"))

    def watched(logits: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
        nonlocal found
        values = value(logits, perturbed)
        found = torch.maximum(found, values.detach())
        return values

    if generator is None:
        generator = torch.Generator(images.device).manual_seed(0)
    step_size = PATH * threat.eps / steps if step_size is None else step_size
    for _ in range(restarts):
        last = maximise(
            network, images, watched, threat, steps=steps, step_size=step_size, start="uniform", generator=generator
        )
        with torch.no_grad(), buffers_restored(network):
            watched(network(last), last)
    return found
