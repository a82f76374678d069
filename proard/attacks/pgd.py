"""Projected gradient descent (Madry et al., arXiv 1706.06083): the attack of training and of evaluation.

`maximise` is the one loop. Every inner maximisation (TRADES, RSLAD ...) is a call of it with another loss. It touches
the model through its output alone: no ``.backward()``, no change of mode, no gradient on a parameter, no global seed,
and buffers that a forward pass in training mode would move are put back.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

from proard.attacks.attack import Attack, Loss, Model, attacks
from proard.attacks.losses import margin
from proard.attacks.steps import (
    Perturbed,
    best_of,
    buffers_restored,
    detached_in_float32,
    images_are_apart,
    value_and_gradient,
)
from proard.attacks.threat import Projection, ThreatModel

KEPT = 7 / 8  # fooled images leave the batch when so few are left in it: every batch size costs a kernel its set-up
GAUSSIAN_START = 0.001  # standard deviation of the start of TRADES and RSLAD


def maximise(
    model: Model,
    images: torch.Tensor,
    loss: Loss,
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float,
    start: Literal["uniform", "gaussian", "clean"] | torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Raise ``loss`` by projected gradient ascent from a start near ``images``; the last iterate.

    Args:
        model: images (N, ...) to logits (N, K); called as it is, in whatever mode it is.
        images: float, within the threat model's bounds; not changed.
        loss: what to raise, per image.
        threat: norm, radius and bounds.
        steps: at least 1.
        step_size: in units of the norm.
        start: uniform in the ball, a small gaussian perturbation, the clean images, or given images.
        generator: of the start.

    Returns:
        Images of the same shape and device, detached, inside the ball and the bounds.
    """
    images = detached_in_float32(images)
    perturbed, project = started(images, start, threat, generator), threat.projection(images)
    with buffers_restored(model), torch.no_grad():
        for _ in range(steps):
            _, perturbed = stepped(model, perturbed, loss, threat, step_size, project)
    return perturbed


def stepped(
    model: Model, perturbed: torch.Tensor, loss: Loss, threat: ThreatModel, step_size: float, project: Projection
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the ascent: the logits (N, K) before it, and the images (N, ...) after it."""
    logits, _, gradient = value_and_gradient(model, perturbed, loss)
    return logits, project(perturbed.add(threat.ascent_direction(gradient), alpha=step_size))


def started(
    images: torch.Tensor,
    start: Literal["uniform", "gaussian", "clean"] | torch.Tensor,
    threat: ThreatModel,
    generator: torch.Generator,
) -> torch.Tensor:
    """The images that `maximise` begins with."""
    if isinstance(start, torch.Tensor):
        return threat.project(start.detach(), images)
    if start == "uniform":
        return threat.random_start(images, generator)
    if start == "gaussian":
        noise = torch.empty(images.shape, dtype=images.dtype, device=generator.device).normal_(generator=generator)
        return threat.project(images + GAUSSIAN_START * noise.to(images.device), images)
    return images


@attacks.register("pgd")
@dataclass(frozen=True)
class PGD(Attack):
    """An attack by projected gradient ascent.

    ``PGD(threat, steps=20, step_size=2 / 255)(model, images, labels)`` returns adversarial images.

    Attributes:
        threat: norm, radius and bounds.
        steps: gradient steps, at least 1.
        step_size: in units of the norm; default 2.5 eps / steps.
        start: ``uniform`` in the ball, ``gaussian`` (deviation 0.001, as TRADES and RSLAD) or ``clean``.
        restarts: runs from different starts; each image keeps the run that fools the model by the largest margin.
        targeted: lower the loss of the given labels instead of raising it.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 20
    step_size: float | None = None
    start: Literal["uniform", "gaussian", "clean"] = "uniform"
    restarts: int = 1
    targeted: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps", "restarts")
        self.require_positive("step_size")
        starts = ("uniform", "gaussian", "clean")
        self.require(lambda start: start in starts, "uniform, gaussian or clean", "start")
        if self.restarts > 1 and self.start == "clean":
            raise ValueError("restarts from clean images would all be the same; use start='uniform'")

    @property
    def resolved_step_size(self) -> float:
        """The step size in use."""
        return 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        """Short name: ``pgd20``, ``pgd20x5`` with five restarts, ``fgsm``."""
        if self.steps == 1 and self.start == "clean" and self.resolved_step_size == self.threat.eps:
            return "fgsm"
        return f"pgd{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def own_loss(self, labels: torch.Tensor) -> Loss:
        """`label_loss` of these labels, or minus that where the labels are targets."""
        own = super().own_loss(labels)
        return (lambda logits, images: -own(logits, images)) if self.targeted else own

    def perturb(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
        start: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Adversarial images, as of `Attack`; the default loss is the labels' cross-entropy, ``start`` its own."""
        generator = self.generator(images, generator)
        runs = [
            maximise(
                model,
                images,
                loss or self.own_loss(labels),
                self.threat,
                steps=self.steps,
                step_size=self.resolved_step_size,
                start=self.start if start is None else start,
                generator=generator,
            )
            for _ in range(self.restarts)
        ]
        if self.restarts == 1:
            return runs[0]
        with torch.no_grad(), buffers_restored(model):
            margins = torch.stack([margin(model(perturbed), labels) for perturbed in runs])
        best = (-margins if self.targeted else margins).argmax(0)
        return torch.stack(runs)[best, torch.arange(len(images), device=best.device)]

    def until_fooled(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """What evaluation calls: restart after restart, each on the images that none before it broke."""
        changed = type(self).perturb is not PGD.perturb  # a subclass with an ascent of its own
        if changed or self.targeted or not images_are_apart(model):
            return super().until_fooled(model, images, labels, generator)
        with torch.inference_mode(False), torch.no_grad():
            model, images, labels = self.usable(model, images, labels)
            images, generator = detached_in_float32(images), self.generator(images, generator)

            def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
                return self._ascend_until_fooled(model, images, labels, generator)

            with buffers_restored(model):
                return best_of([attempt] * self.restarts, model, images, labels)

    def _ascend_until_fooled(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> Perturbed:
        """`maximise`, without the images that are misclassified on the way."""
        ends, fooled = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        active = torch.arange(len(images), device=images.device)
        perturbed, project = started(images, self.start, self.threat, generator), self.threat.projection(images)

        def note(logits: torch.Tensor) -> torch.Tensor:
            """Keep the images that fool the model for the first time; which are left."""
            hit = (logits.argmax(1) != labels[active]) & ~fooled[active]
            ends[active[hit]], fooled[active[hit]] = perturbed[hit], True
            return ~fooled[active]

        for _ in range(self.steps):
            loss = self.own_loss(labels[active])
            logits, following = stepped(model, perturbed, loss, self.threat, self.resolved_step_size, project)
            left = note(logits)
            perturbed = following
            if left.float().mean() <= KEPT:
                active, perturbed = active[left], perturbed[left]
                project = self.threat.projection(images[active])
            if len(active) == 0:
                return ends, fooled.to(images.dtype), fooled
        left = note(model(perturbed)) if self.restarts > 1 else ~fooled[active]  # another start for what is left
        ends[active[left]] = perturbed[left]
        return ends, fooled.to(images.dtype), fooled
