"""Square Attack (Andriushchenko et al., arXiv 1912.00049): random search with squares, which needs no gradient.

Written from the paper: algorithm 1, with the sampling of algorithm 2 for linf and of algorithm 3 for l2. For l1 it is
that of l2 with absolute values in the place of squares, as in Croce and Hein's l1-AutoAttack (arXiv 2103.01208).
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from types import EllipsisType

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.losses import margin
from proard.attacks.steps import GuardedAttack, Perturbed, best_of, images_are_apart, per_image, total
from proard.attacks.threat import TINY

Window = tuple[EllipsisType, slice, slice]  # rows and columns of images
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10,000 after which squares get smaller


@attacks.register("square")
@dataclass(frozen=True)
class Square(GuardedAttack):
    """Squares at random places, kept where they lower the margin of the true class. The model's output is all it uses.

    Attributes:
        threat: norm, radius and bounds.
        queries: forward passes per image, at least 2; the schedule of sizes is scaled to it. 5000 in AutoAttack.
        area: of the first squares, as a share of the image, in (0, 1]; 0.8 in AutoAttack.
        restarts: runs from different starts, each on what is not fooled yet.

    Raises:
        ValueError: an option out of range; images that are not (N, C, H, W).
    """

    _: KW_ONLY
    queries: int = 5000
    area: float = 0.8
    restarts: int = 1

    trains = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda queries: queries >= 2, "at least 2", "queries")
        self.require_one_or_more("restarts")
        self.require(lambda area: 0 < area <= 1, "in (0, 1]", "area")

    def side(self, query: int, height: int, width: int) -> int:
        """Of the square that is tried at a query, in pixels."""
        share = self.area / 2 ** sum(query * 10_000 / self.queries > bound for bound in HALVED_AT)
        least = 1 if self.threat.norm == "linf" else 3  # others are patterns
        return min(max(round(math.sqrt(share * height * width)), least), height, width)

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """What the best of the restarts found."""
        if images.dim() != 4:
            raise ValueError(f"square needs images (N, C, H, W), got {images.dim()} dimensions")

        def attempt(images: torch.Tensor, labels: torch.Tensor) -> Perturbed:
            return self._search(model, images, labels, generator)

        return best_of([attempt] * self.restarts, model, images, labels)

    def _search(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> Perturbed:
        """Algorithm 1. The squares of a query are at one place for the whole batch, with a sign for each image."""
        height, width = images.shape[2:]
        start, propose = (self._stripes, self._square) if self.threat.norm == "linf" else (self._tiles, self._move)
        best = start(images, generator)
        found, score = best.clone(), margin(model(best), labels)
        left, value, apart = torch.arange(len(images), device=images.device), score.clone(), images_are_apart(model)
        used = total((best - images).abs().double() ** self._power)
        places = torch.rand((self.queries, 4), generator=generator, device=generator.device).tolist()
        for query in range(1, self.queries):
            if bool((done := value > 0).any()):
                found[left], score[left] = best, value
                if bool(done.all()):
                    break
                if apart:
                    kept = (left, best, images, labels, value, used)
                    left, best, images, labels, value, used = (part[~done] for part in kept)
            side = self.side(query, height, width)
            room = (height - side + 1, width - side + 1) * 2
            corners = [int(share * size) for share, size in zip(places[query], room, strict=True)]
            windows = [(..., slice(y, y + side), slice(x, x + side)) for y, x in (corners[:2], corners[2:])]
            before = [best[window].clone() for window in windows]
            would_use = propose(best, images, used, windows, generator)
            new = margin(model(best), labels)
            better = new > value
            for window, old in zip(windows, before, strict=True):
                best[window] = torch.where(per_image(better, best), best[window], old)
            value, used = torch.where(better, new, value), torch.where(better, would_use, used)
        found[left], score[left] = best, value
        return found, score, score > 0

    # linf: the start, and the proposal

    def _stripes(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Every column of every channel moved by eps, up or down."""
        count, channels, _, width = images.shape
        signs = _signs((count, channels, 1, width), images, generator)
        return self.threat.project(images + self.threat.eps * signs, images)

    def _square(
        self,
        best: torch.Tensor,
        images: torch.Tensor,
        used: torch.Tensor,
        windows: list[Window],
        generator: torch.Generator,
    ) -> torch.Tensor:
        """One square moved to eps, up or down per channel: in place."""
        moved = images[windows[0]] + self.threat.eps * _signs((*images.shape[:2], 1, 1), images, generator)
        best[windows[0]] = moved.clamp(*self.threat.bounds)
        return used

    # l2 and l1: the start, and the proposal

    @property
    def _power(self) -> int:
        """Of the values that are summed into a perturbation's mass, which is at most eps to that power."""
        return 1 if self.threat.norm == "l1" else 2

    def _mass(self, window: torch.Tensor) -> torch.Tensor:
        """Of each channel: (N, C, H, W) to (N, C, 1, 1)."""
        return (window.abs() ** self._power).sum((2, 3), keepdim=True)

    def _normalised(self, window: torch.Tensor) -> torch.Tensor:
        return window / (self._mass(window) ** (1 / self._power)).clamp_min(TINY)

    def _tiles(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Five by five patterns with random signs, scaled to eps together."""
        count, channels, height, width = images.shape
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        signs = _signs((count, channels, rows, columns), images, generator)
        patterns = _pattern(side).to(images).repeat(rows, columns)
        tiled = signs.repeat_interleave(side, 2).repeat_interleave(side, 3) * patterns
        delta = torch.zeros_like(images)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        delta[:, :, top : top + rows * side, left : left + columns * side] = tiled
        return self.threat.project(images + delta * per_image(self.threat.eps / self.threat.size(delta), delta), images)

    def _move(
        self,
        best: torch.Tensor,
        images: torch.Tensor,
        used: torch.Tensor,
        windows: list[Window],
        generator: torch.Generator,
    ) -> torch.Tensor:
        """The perturbation's mass in one window, and what is left of eps, moved into a pattern in another: in place.

        Of eps^2 (l1: eps), ``used`` (N,) is how much the perturbation uses; returned is how much it does then.
        """
        to, away = windows
        delta, left_behind = best[to] - images[to], best[away] - images[away]
        best[away] = images[away]
        mass = self._mass(left_behind) + self._mass(best[to] - images[to])  # the windows may overlap
        unused = per_image((self.threat.eps**self._power - used).clamp_min(0) / images.shape[1], images)
        pattern = _pattern(delta.shape[-1]).to(images)
        turned = torch.rand((), generator=generator, device=generator.device) < 0.5
        pattern = torch.where(turned.to(images.device), pattern.T, pattern)
        pattern = pattern * pattern.abs() if self.threat.norm == "l1" else pattern  # a mass that is spread as in l2
        signs = _signs((*images.shape[:2], 1, 1), images, generator)
        new = pattern * signs + self._normalised(delta)
        moved = images[to] + self._normalised(new) * (mass + unused.to(mass)) ** (1 / self._power)
        best[to] = moved.clamp(*self.threat.bounds)
        return used - total(mass) + total(self._mass(best[to] - images[to]))


@lru_cache(maxsize=256)
def _pattern(side: int) -> torch.Tensor:
    """Two bumps of opposite sign side by side, of norm 1 together: (side, side); equation 2 of the paper."""
    half = side // 2
    pattern = torch.cat([_bump(side, half), -_bump(side, side - half)], 1)
    return pattern / pattern.norm()


def _bump(height: int, width: int) -> torch.Tensor:
    """Concentric rectangles, ever higher towards the middle: (height, width)."""
    n = height // 2
    rows = (torch.arange(1, height + 1) - n - 1).abs()
    columns = (torch.arange(1, width + 1) - width // 2 - 1).abs()
    inside = n - torch.maximum(rows[:, None], columns[None, :])  # M of the paper
    steps = torch.tensor([1.0 / (n + 1 - k) ** 2 for k in range(n + 1)], dtype=torch.float64)
    return steps.cumsum(0)[inside].float()


def _signs(shape: tuple[int, ...], like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """-1 or 1 with equal probability."""
    draws = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (2 * draws - 1).to(like)
