"""Threat models: what an adversary may change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

TINY = 1e-12
Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
MOST_ROUNDS = 100  # of Newton's method, which ends by itself after a few
Projection = Callable[[torch.Tensor], torch.Tensor]
"""Images (N, ...) to the nearest admissible ones."""
SPREAD = 3  # an l1 step changes that many times the coordinates that eps takes from bound to bound


@dataclass(frozen=True)
class ThreatModel:
    """Perturbations of norm at most ``eps`` that leave the image within ``bounds``.

    Attributes:
        norm: ``linf`` (largest change of a pixel value), ``l2`` (Euclidean, over the whole image) or ``l1`` (the sum of
            all changes).
        eps: radius, positive, in units of images in [0, 1].
        bounds: least and greatest pixel value.

    Raises:
        ValueError: an unknown norm, a radius that is not positive and finite, or empty bounds.
    """

    norm: Norm = "linf"
    eps: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be linf, l2 or l1, got {self.norm!r}")
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"eps must be positive and finite, got {self.eps}")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds must be (least, greatest), got {self.bounds}")

    def project(self, perturbed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The admissible images nearest to ``perturbed`` around ``images``; both (N, ...), same shape out.

        For l2, the scaled perturbation is clipped to the bounds, which only shortens it. For l1, where that would lose
        much of eps, it is the exact projection onto ball and bounds together.
        """
        return self.projection(images)(perturbed)

    def projection(self, images: torch.Tensor) -> Projection:
        """`project` around these images (N, ...), to be called again and again: for linf ball and bounds are a box."""
        if self.norm == "linf":
            low, high = (images - self.eps).clamp(*self.bounds), (images + self.eps).clamp(*self.bounds)
            return lambda perturbed: perturbed.clamp(low, high)
        within = self._within_l1 if self.norm == "l1" else self._within_l2
        return lambda perturbed: (images + within(perturbed - images, images)).clamp(*self.bounds)

    def _within_l2(self, delta: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return delta * (self.eps / per_image_norm(delta).clamp_min(TINY)).clamp_max(1.0)

    def _within_l1(self, delta: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Perturbations projected onto l1 ball and bounds together (Croce and Hein, arXiv 2103.01208, section 2).

        Coordinate i becomes ``min(max(|d_i| - s, 0), room_i)``, with the least s for which they add up to eps at most.
        The sum is piecewise linear in s: Newton's method ends at the solution exactly, and where it would leave the
        interval that s is known to be in, that is halved (sorting the bends, as in the paper, takes much longer).
        """
        length, room = delta.abs(), torch.where(delta > 0, self.bounds[1] - images, images - self.bounds[0])
        column = (-1, *[1] * (delta.dim() - 1))
        low, high = torch.zeros_like(length.flatten(1)[:, 0]), length.flatten(1).amax(1)
        less, enough = low, 16 * torch.finfo(delta.dtype).eps * self.eps
        for _ in range(MOST_ROUNDS):
            rest = length - less.view(column)
            moved = torch.minimum(rest.clamp_min(0), room)
            over = self.size(moved) - self.eps
            off = (over > enough) | ((over < -enough) & (less > 0))
            if not bool(off.any()):
                break
            low, high = torch.where(over > 0, less, low), torch.where(over > 0, high, less)
            bends = ((rest > 0) & (rest < room)).flatten(1).sum(1)
            newton = less + over / bends.clamp_min(1)
            inside = (bends > 0) & (newton > low) & (newton < high)
            less = torch.where(off, torch.where(inside, newton, (low + high) / 2), less)
        return delta.sign() * moved

    def ascent_direction(self, gradient: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
        """The step of unit size that raises a linear function with this gradient most; (N, ...) to the same shape.

        For l1 that would be one coordinate, and is at its bound at once. It is the sign of those of largest gradient
        (Tramer and Boneh, arXiv 1904.13000): of a ``share`` (N,) of them, or by default of three times as many as eps
        takes from bound to bound. What the steepest way within ball and bounds changes is about twice as many (Croce
        and Hein, arXiv 2103.01208, section 2).
        """
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l2":
            return gradient / per_image_norm(gradient).clamp_min(TINY)
        length = gradient.abs().flatten(1)
        values = length.shape[1]
        fixed = math.ceil(SPREAD * self.eps / (self.bounds[1] - self.bounds[0]))
        wanted = torch.full_like(length[:, 0], fixed) if share is None else share * values
        count = wanted.long().clamp(1, values)
        most = min(max(fixed, 1), values) if share is None else int(count.max())  # only the latter waits for the device
        least = length.topk(most, 1).values.gather(1, count[:, None] - 1)
        chosen = gradient.sign() * (length >= least).view(gradient.shape)
        return chosen / self.size(chosen).clamp_min(1.0).view(-1, *[1] * (gradient.dim() - 1))

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of perturbations (N, ...): (N,)."""
        return _norm(delta, {"linf": math.inf, "l2": 2, "l1": 1}[self.norm])

    def dual_size(self, gradient: torch.Tensor) -> torch.Tensor:
        """The largest ``d . gradient`` over perturbations d of norm 1, of gradients (N, ...): (N,)."""
        return _norm(gradient, {"linf": 1, "l2": 2, "l1": math.inf}[self.norm])

    def random_start(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images with a perturbation drawn uniformly from the ball, within the bounds."""
        delta = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        if self.norm == "linf":
            delta.uniform_(-self.eps, self.eps, generator=generator)
        elif self.norm == "l1":
            signs = torch.empty_like(delta).uniform_(-1, 1, generator=generator).sign()
            delta.exponential_(generator=generator)
            rest = torch.empty_like(delta.view(len(images), -1)[:, 0]).exponential_(generator=generator)
            delta *= signs * (self.eps / (self.size(delta) + rest)).view(-1, *[1] * (images.dim() - 1))
        else:
            delta.normal_(generator=generator)
            volume = torch.empty_like(delta.view(len(images), -1)[:, 0]).uniform_(0, 1, generator=generator)
            radius = self.eps * volume ** (1 / images[0].numel())  # uniform in volume, not in radius
            delta *= radius.view(-1, *[1] * (images.dim() - 1)) / per_image_norm(delta).clamp_min(TINY)
        return self.project(images + delta.to(images.device), images)


def _norm(x: torch.Tensor, order: float) -> torch.Tensor:
    dimensions = tuple(range(1, x.dim()))
    if order == 2:
        return torch.linalg.vector_norm(x, order, dim=dimensions)
    length = x.abs()  # for these two orders vector_norm takes 5 and 20 times as long
    return length.sum(dimensions) if order == 1 else length.amax(dimensions)


def per_image_norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over everything but the first dimension, which is kept: (N, ...) to (N, 1, ...)."""
    return _norm(x, 2).view(-1, *[1] * (x.dim() - 1))
