"""Auto-PGD (Croce and Hein, arXiv 2003.01690, section 3 and algorithm 1): gradient ascent that sets its own step size.

Written from the paper. It has momentum, halves an image's step when its loss stops rising, then goes on from the best
point, and returns an iterate that fools the model if there was one, else the one of highest loss.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.losses import at_least_float32, margin
from proard.attacks.steps import Attempt, GuardedAttack, Perturbed, best_of, per_image, value_and_gradient
from proard.attacks.threat import TINY, ThreatModel
from proard.common.errors import UserError

MOMENTUM = 0.75  # alpha of the paper: the share of the new step against the previous one
RISING = 0.75  # rho: the share of steps that must raise the loss, or the step size is halved


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
    loss: Loss,
    threat: ThreatModel,
    *,
    steps: int,
    generator: torch.Generator,
) -> Perturbed:
    """One run from a random start.

    Args:
        model: images (N, ...) to logits (N, K).
        images: float32 or float64, within the threat model's bounds.
        labels: of the images (N,), to notice what is fooled; None to seek the highest loss alone.
        loss: what to raise, per image.
        threat: norm, radius and bounds.
        steps: at least 1; there is one forward and backward pass more than that.
        generator: of the start.

    Returns:
        Perturbed images, their highest loss (N,), and whether they are fooled (N,).
    """

    nothing = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def noticed(logits: torch.Tensor) -> torch.Tensor:
        return nothing if labels is None else logits.argmax(1) != labels

    x = previous = threat.random_start(images, generator)
    logits, value, gradient = value_and_gradient(model, x, loss)
    best, best_value, best_gradient = x, value, gradient
    fooled, fooling = noticed(logits), x
    step_size = torch.full_like(value, 2 * threat.eps)
    rises, last, halved, value_at_last = torch.zeros_like(value), 0, nothing, value
    looks = checkpoints(steps)
    for step in range(1, steps + 1):
        target = threat.project(x + per_image(step_size, x) * threat.ascent_direction(gradient), images)
        if step > 1:
            target = threat.project(x + MOMENTUM * (target - x) + (1 - MOMENTUM) * (x - previous), images)
        previous, x = x, target
        logits, new_value, gradient = value_and_gradient(model, x, loss)
        hit = noticed(logits) & ~fooled
        fooling = torch.where(per_image(hit, x), x, fooling)
        fooled = fooled | hit
        rises += new_value > value
        value = new_value
        better = value > best_value
        best = torch.where(per_image(better, x), x, best)
        best_gradient = torch.where(per_image(better, x), gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if step in looks:
            if bool(fooled.all()):
                break
            stuck = (rises < RISING * (step - last)) | (~halved & (best_value <= value_at_last))
            step_size = torch.where(stuck, step_size / 2, step_size)
            x, gradient = (torch.where(per_image(stuck, x), a, b) for a, b in ((best, x), (best_gradient, gradient)))
            previous = torch.where(per_image(stuck, x), x, previous)
            value = torch.where(stuck, best_value, value)
            rises, last, halved, value_at_last = torch.zeros_like(rises), step, stuck, best_value
    return torch.where(per_image(fooled, x), fooling, best), best_value, fooled


@dataclass(frozen=True)
class AutoPGD(GuardedAttack):
    """What the variants have in common.

    Attributes:
        threat: norm, radius and bounds.
        steps: at least 1; 100 in the paper.
        restarts: runs from different starts, each on what is not fooled yet.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps", "restarts")

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The best of the restarts; with a loss of the caller's, the highest, whatever it fools."""

        def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
            # A caller's loss is closed over the whole batch; it gets the whole batch, as nothing counts as fooled.
            seen, raised = (labels, self.own_loss(labels)) if loss is None else (None, loss)
            return ascend(model, images, seen, raised, self.threat, steps=self.steps, generator=generator)

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
        steps, restarts: per target; as of `AutoPGD`.
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
                own = lambda logits, _: targeted_dlr(logits, labels, targets)  # noqa: E731
                return ascend(model, images, labels, own, self.threat, steps=self.steps, generator=generator)

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
