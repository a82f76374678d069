"""The Fast Adaptive Boundary attack, FAB (Croce and Hein, arXiv 1907.02044): the shortest way over the boundary.

Written from the paper (algorithm 1), with two changes, as what counts here is what is within eps. The network is
linearised at the new point itself, which also says whether that fools: one forward and one backward pass a step. In
place of the search at the end, between the image and the nearest point that fools, it looks where eps ends on that way.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.deepfool import nearest_boundary
from proard.attacks.steps import Attempt, GuardedAttack, Perturbed, best_of, images_are_apart, per_image, total
from proard.attacks.threat import TINY, ThreatModel

BIAS = 0.1  # alpha_max of the paper: the greatest share of the step from the image itself
OVERSHOOT = 1.05  # eta: steps go that far beyond the linearised boundary
RETURN = 0.9  # beta: what fools is drawn back to that share of its distance
MOST_ROUNDS = 50  # of Newton's method, which ends by itself after a few


@attacks.register("fab")
@dataclass(frozen=True)
class FAB(GuardedAttack):
    """Steps to the nearest linearised boundary, which stay near the image; within eps, or the image withstands it.

    Attributes:
        threat: norm, radius and bounds.
        steps: at least 1; 100 in the paper. Each takes a backward pass for every wrong class.
        restarts: runs, the first from the image, the others from points at half of eps around it.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    steps: int = 100
    restarts: int = 1

    trains = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("steps", "restarts")

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The nearest of what the runs find, projected into the ball where that is farther than eps."""
        classes = model(images).shape[1]

        def run(start: int, chosen: slice) -> Attempt:
            def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
                others = model(images).scatter(1, labels[:, None], float("-inf"))
                rivals = others.argsort(1, descending=True)[:, :-1][:, chosen]
                x = images if start == 0 else half_way(images, self.threat, generator)
                return self._approach(model, images, labels, rivals, x)

            return attempt

        runs = [run(start, chosen) for chosen in self.rivals(classes - 1) for start in range(self.restarts)]
        return best_of(runs, model, images, labels)

    def rivals(self, wrong: int) -> list[slice]:
        """For each run, which of so many wrong classes it approaches, counted from the likeliest."""
        return [slice(None)]

    def _approach(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor, x: torch.Tensor
    ) -> Perturbed:
        """Algorithm 1 from a start; the score is minus the distance of the nearest image that fools."""
        left, apart = torch.arange(len(images), device=images.device), images_are_apart(model)
        nearest, fooled = images.clone(), torch.zeros_like(left, dtype=torch.bool)
        shortest = torch.full((len(images),), float("inf"), dtype=images.dtype, device=images.device)
        whole = images, labels
        for step in range(self.steps + 1):
            if step < self.steps:
                logits, gap, normal, _ = nearest_boundary(model, x, labels, rivals, self.threat)
            else:
                logits = model(x)
            length = self.threat.size(x - images)
            beyond = logits.argmax(1) != labels
            closer = beyond & (length < shortest[left]) & ~fooled[left]
            if bool(closer.any()):
                nearest[left[closer]], shortest[left[closer]] = x[closer], length[closer]
                fooled[left] |= closer & (length <= self.threat.eps)
                if bool(fooled.all()):
                    break
                if apart and bool((gone := fooled[left]).any()):
                    parts = (left, images, labels, rivals, x, beyond)
                    left, images, labels, rivals, x, beyond = (part[~gone] for part in parts)
                    if step < self.steps:
                        gap, normal = gap[~gone], normal[~gone]
            if step < self.steps:
                offset = gap - total(normal * x)
                x = images + per_image(torch.where(beyond, RETURN, 1.0), x) * (x - images)
                to, back = (to_hyperplane(at, normal, offset, self.threat) for at in (x, images))
                near, far = self.threat.size(to), self.threat.size(back)
                bias = per_image((near / (near + far).clamp_min(TINY)).clamp_max(BIAS), x)
                ahead, around = (torch.add(at, step, alpha=OVERSHOOT) for at, step in ((x, to), (images, back)))
                x = torch.lerp(ahead, around, bias).clamp(*self.threat.bounds)
        images, labels = whole
        never = shortest[left].isinf()
        nearest[left[never]] = x[never]  # as far as it came
        within = self.threat.project(nearest, images)
        if not bool(fooled.all()):
            fooled = fooled | (model(within).argmax(1) != labels)
        return within, -shortest.clamp_max(torch.finfo(shortest.dtype).max), fooled


@attacks.register("fab-t")
@dataclass(frozen=True)
class FABTargeted(FAB):
    """FAB towards one class after the other, with one backward pass a step.

    Attributes:
        targets: that many of the most likely wrong classes, likeliest first; at most all of them. 9 in AutoAttack.
        steps, restarts: per target; as of `FAB`.
    """

    _: KW_ONLY
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_one_or_more("targets")

    def rivals(self, wrong: int) -> list[slice]:
        """See `FAB`: one class for each run."""
        return [slice(rank, rank + 1) for rank in range(min(self.targets, wrong))]


def to_hyperplane(
    points: torch.Tensor, normal: torch.Tensor, offset: torch.Tensor, threat: ThreatModel
) -> torch.Tensor:
    """The shortest steps within the bounds from points (N, ...) to ``{z: normal . z + offset = 0}``: (N, ...).

    Where no point within the bounds is on the hyperplane, the step is to one that comes nearest. Each coordinate moves
    by ``min(s * pace, room)``, with a pace of 1 for linf and ``|normal|`` for l2. How near that comes to the hyperplane
    is concave and piecewise linear in s: Newton's method goes from bend to bend, and ends at the solution exactly. For
    l1, coordinates go to their bounds one after the other, from the largest ``|normal|``, until that is far enough.

    Args:
        points: within the bounds of the threat model.
        normal: as the points.
        offset: (N,).
        threat: norm and bounds.
    """
    value = total(normal * points) + offset
    low, high = threat.bounds
    direction = -per_image(value.sign(), normal) * normal.sign()
    room = direction * ((high + low) / 2 - points) + (high - low) / 2 * direction.abs()
    weight, need = normal.abs(), value.abs()
    if threat.norm == "l1":
        largest, order = weight.flatten(1).sort(1, descending=True)
        most = room.flatten(1).gather(1, order)
        reach = largest * most
        left = (need[:, None] - (reach.cumsum(1) - reach)).clamp_min(0)
        moved = torch.zeros_like(largest).scatter(1, order, torch.minimum(left / largest.clamp_min(TINY), most))
        return direction * moved.view(points.shape)
    pace = 1.0 if threat.norm == "linf" else weight
    slope = total(weight * pace)  # where nothing is at its bound; less at every bend
    length, least = need / slope.clamp_min(TINY), 64 * torch.finfo(points.dtype).eps * need
    for _ in range(MOST_ROUNDS):
        moved = torch.minimum(room, per_image(length, points) * pace)
        short = need - total(weight * moved)
        if not bool((short > least).any()):
            break
        slope = total(torch.gt(room, moved, out=torch.empty_like(moved)) * weight * pace)
        further = (short > least) & (slope > 0)
        if not bool(further.any()):
            break
        length = length + torch.where(further, short / slope.clamp_min(TINY), 0.0)
    return direction * moved


def half_way(images: torch.Tensor, threat: ThreatModel, generator: torch.Generator) -> torch.Tensor:
    """Random points at half of eps around the images, brought within the bounds."""
    delta = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
    if threat.norm == "linf":
        delta.uniform_(-1, 1, generator=generator)
    else:
        delta.normal_(generator=generator)
    delta = delta.to(images.device)
    return threat.project(images + per_image(threat.eps / 2 / threat.size(delta), delta) * delta, images)
