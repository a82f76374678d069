"""Auto-PGD (Croce and Hein, arXiv 2003.01690, section 3 and algorithm 1): gradient ascent that sets its own step size.

Written from the paper. It has momentum, halves an image's step when its loss stops rising, then goes on from the best
point, and returns an iterate that fools the model if there was one, else the one of highest loss.

For l1 it is l1-APGD (Croce and Hein, arXiv 2103.01208, section 3): steps along a few coordinates, without momentum; how
many is set by how many the best point has changed. It ascends in a ball of 3 eps, then of 2 eps, and only then in that
of eps, each time from the best point before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.losses import at_least_float32, margin
from proard.attacks.steps import (
    Attempt,
    GuardedAttack,
    Perturbed,
    best_of,
    images_are_apart,
    per_image,
    total,
    value_and_gradient,
)
from proard.attacks.threat import TINY, ThreatModel
from proard.common.errors import UserError

MOMENTUM = 0.75  # alpha of the paper: the share of the new step against the previous one
RISING = 0.75  # rho: the share of steps that must raise the loss, or the step size is halved


# l1-APGD
FIRST_SHARE = 0.2  # of the coordinates that the first steps change
LOOKS = 0.04  # of the steps, between two looks at how many coordinates the best point has changed
FEWER = 0.95  # the share of those at the last look below which the best point has become sparser
SLOWER = 1.5  # where it has not, the step is divided by that; so is the share that it has changed, for the next steps
SHORTEST = 0.1  # of eps, a step
WIDER = (3, 2)  # times eps: the balls before that of the threat model, each for the next share of the steps
WIDER_STEPS = 0.3


def checkpoints(steps: int) -> list[int]:
    """After which steps the step size may be halved: at 22 %, then at intervals that shrink by 3 % down to 6 %."""
    share, interval, looks = 22, 22, []  # in per cent
    while share <= 100:
        looks.append(math.ceil(share * steps / 100))
        interval = max(interval - 3, 6)
        share += interval
    return sorted(set(looks))


def ascend(
    model: Model,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    loss: Callable[[torch.Tensor], Loss],
    threat: ThreatModel,
    *,
    steps: int,
    generator: torch.Generator,
    draws: int = 1,
    start: torch.Tensor | None = None,
) -> Perturbed:
    """One run from a start; where images surely do not depend on each other, each leaves once it is fooled.

    Args:
        model: images (N, ...) to logits (N, K).
        images: float32 or float64, within the threat model's bounds.
        labels: of the images (N,), to notice what is fooled; None to seek the highest loss alone.
        loss: what to raise, per image, for the images that are left: given their indices (n,).
        threat: norm, radius and bounds.
        steps: at least 1; there is one forward pass more than that.
        generator: of a random start.
        draws: passes at each point, whose losses and gradients are averaged.
        start: images (N, ...), projected; default random.

    Returns:
        Perturbed images, their highest loss (N,), and whether they are fooled (N,).
    """
    left = torch.arange(len(images), device=images.device)
    found, score = images.clone(), torch.zeros(len(images), dtype=images.dtype, device=images.device)
    fooled, apart = torch.zeros_like(left, dtype=torch.bool), labels is not None and images_are_apart(model)
    project = threat.projection(images)
    x = previous = best = threat.random_start(images, generator) if start is None else project(start)
    gradient = best_gradient = torch.zeros_like(x)
    value = best_value = value_at_last = torch.full_like(score, float("-inf"))
    sparse = threat.norm == "l1"
    step_size, rises, last = torch.full_like(score, (1 if sparse else 2) * threat.eps), torch.zeros_like(score), 0
    share, changed = torch.full_like(score, FIRST_SHARE), torch.ones_like(score)
    if sparse and start is not None:
        changed = coordinates_changed(x, images)
        share = changed / SLOWER
    halved = fooled.clone()
    often = max(int(LOOKS * steps), 1)
    looks = list(range(often, steps, often)) if sparse else checkpoints(steps)
    for step in range(steps + 1):
        if step > 0:
            direction = threat.ascent_direction(gradient, share)
            target = project(x + per_image(step_size, x) * direction)
            if step > 1 and not sparse:
                target = project(x + MOMENTUM * (target - x) + (1 - MOMENTUM) * (x - previous))
            previous, x = x, target
        if step == steps:  # nothing follows the gradient of the last point
            logits = model(x)
            new_value = loss(left)(logits, x)
        else:
            logits, new_value, gradient = value_and_gradient(model, x, loss(left))
            for _ in range(draws - 1):
                _, another_value, another = value_and_gradient(model, x, loss(left))
                new_value, gradient = new_value + another_value, gradient + another
            new_value = new_value / draws
        rises += (new_value > value) & (step > 0)
        value = new_value
        better = value > best_value
        best = torch.where(per_image(better, x), x, best)
        best_gradient = torch.where(per_image(better, x), gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if step == 0:
            value_at_last = value
        if labels is not None:
            hit = (logits.argmax(1) != labels[left]) & ~fooled[left]
            if bool(hit.any()):
                found[left[hit]], score[left[hit]], fooled[left[hit]] = x[hit], best_value[hit].to(score.dtype), True
                if bool(fooled.all()):
                    break
                if apart:
                    kept = (left, images, x, previous, best, gradient, best_gradient)
                    left, images, x, previous, best, gradient, best_gradient = (part[~hit] for part in kept)
                    project = threat.projection(images)
                    numbers = (value, best_value, value_at_last, step_size, rises, halved, share, changed)
                    value, best_value, value_at_last, step_size, rises, halved, share, changed = (
                        part[~hit] for part in numbers
                    )
        if step in looks:
            if sparse:
                share_now = coordinates_changed(best, images)
                stuck = share_now < FEWER * changed
                slower = (step_size / SLOWER).clamp_min(SHORTEST * threat.eps)
                step_size = torch.where(stuck, threat.eps, slower)
                share, changed = share_now / SLOWER, share_now
            else:
                stuck = (rises < RISING * (step - last)) | (~halved & (best_value <= value_at_last))
                step_size = torch.where(stuck, step_size / 2, step_size)
            x, gradient = (torch.where(per_image(stuck, x), a, b) for a, b in ((best, x), (best_gradient, gradient)))
            previous = torch.where(per_image(stuck, x), x, previous)
            value = torch.where(stuck, best_value, value)
            rises, last, halved, value_at_last = torch.zeros_like(rises), step, stuck, best_value
    else:
        if labels is None:  # a mask would wait for the device, which a training step must not
            return best, best_value.to(score.dtype), fooled
        rest = ~fooled[left]
        found[left[rest]], score[left[rest]] = best[rest], best_value[rest].to(score.dtype)
    return found, score, fooled


def coordinates_changed(x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The share of each image's values that differ (N,)."""
    return total((x != images).to(images.dtype)) / images[0].numel()


@dataclass(frozen=True)
class AutoPGD(GuardedAttack):
    """What the variants have in common.

    Attributes:
        threat: norm, radius and bounds.
        steps: at least 1; 100 in the paper.
        restarts: runs from different starts, each on what is not fooled yet.
        draws: passes at each point whose gradients are averaged, for networks that are random (expectation over
            transformation, Athalye et al., arXiv 1802.00420); 20 in the ``rand`` version of AutoAttack.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps", "restarts", "draws")

    def ascend(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor | None,
        loss: Callable[[torch.Tensor], Loss],
        generator: torch.Generator,
    ) -> Perturbed:
        """One run with the options of the attack, as of `ascend`; for l1, in ever smaller balls."""
        start, steps, before = None, self.steps, int(WIDER_STEPS * self.steps)
        options: dict[str, Any] = {"generator": generator, "draws": self.draws}
        if self.threat.norm == "l1" and before > 0:
            for times in WIDER:
                wider, steps = replace(self.threat, eps=times * self.threat.eps), steps - before
                start, *_ = ascend(model, images, None, loss, wider, steps=before, start=start, **options)
        return ascend(model, images, labels, loss, self.threat, steps=steps, start=start, **options)

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The best of the restarts; with a loss of the caller's, the highest, whatever it fools."""

        if loss is not None:  # closed over the whole batch: no image leaves it, and nothing waits for the device
            best, score = images, torch.full((len(images),), float("-inf"), dtype=images.dtype, device=images.device)
            for _ in range(self.restarts):
                perturbed, value, _ = self.ascend(model, images, None, lambda _: loss, generator)
                better = value > score
                best, score = torch.where(per_image(better, best), perturbed, best), torch.where(better, value, score)
            return best

        def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
            return self.ascend(model, images, labels, lambda left: self.own_loss(labels[left]), generator)

        return best_of([attempt] * self.restarts, model, images, labels)


@attacks.register("apgd-ce")
@dataclass(frozen=True)
class APGDCE(AutoPGD):
    """Auto-PGD on the cross-entropy, or on the loss of an objective; options as of `AutoPGD`."""


@attacks.register("apgd-dlr")
@dataclass(frozen=True)
class APGDDLR(AutoPGD):
    """Auto-PGD on the difference of logits ratio (equation 6 of the paper), for 3 classes or more.

    The ratio does not change when the logits are shifted or scaled, so it keeps a gradient where the cross-entropy
    saturates. Options as of `AutoPGD`.
    """

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The difference of logits ratio, which `dlr` computes."""
        return dlr(logits, labels)


@attacks.register("apgd-t")
@dataclass(frozen=True)
class APGDTargeted(AutoPGD):
    """Auto-PGD on the targeted difference of logits ratio (equation 7), towards one class after the other.

    For 4 classes or more.

    Attributes:
        targets: that many of the most likely wrong classes, likeliest first; at most all of them. 9 in the paper.
        steps, restarts: per target; as of `AutoPGD`, like ``draws``.
    """

    _: KW_ONLY
    targets: int = 9

    trains = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("targets")

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The best of all targets and restarts.

        Raises:
            UserError: fewer than 4 classes.
        """

        def towards(rank: int) -> Attempt:
            def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
                others = model(images).scatter(1, labels[:, None], float("-inf"))
                targets = others.argsort(1, descending=True)[:, rank]

                def own(left: torch.Tensor) -> Loss:
                    return lambda logits, _: targeted_dlr(logits, labels[left], targets[left])

                return self.ascend(model, images, labels, own, generator)

            return attempt

        targets = min(self.targets, model(images).shape[1] - 1)
        attempts = [towards(rank) for rank in range(targets) for _ in range(self.restarts)]
        return best_of(attempts, model, images, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Difference of logits ratio, ``(max_{k != y} z_k - z_y) / (z_1st - z_3rd)``: (N, K) and (N,) to (N,)."""
    if logits.shape[1] < 3:
        raise UserError(
            f"attack apgd-dlr needs 3 classes or more, the network has {logits.shape[1]}; use apgd-ce or cw"
        )
    logits = at_least_float32(logits)
    ordered = logits.sort(1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + TINY)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``(z_t - z_y) / (z_1st - (z_3rd + z_4th) / 2)``: (N, K), (N,) and (N,) to (N,)."""
    if logits.shape[1] < 4:
        raise UserError(f"attack apgd-t needs 4 classes or more, the network has {logits.shape[1]}; use apgd-dlr or cw")
    logits = at_least_float32(logits)
    difference = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    ordered = logits.sort(1, descending=True).values
    return difference.squeeze(1) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + TINY)
