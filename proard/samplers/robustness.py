"""The robustness-aware sampler: students train where robustness is missing, for what they cost.

Few students train in a step, and many steps are taken: the unit is the multiply-add, not the step. What the students of
a bin of multiply-adds lack is their *robust gap*: how much farther than the largest student they are from the teacher
on adversarial images (ShiftNAS and PA&DA adapt to losses on clean images). A bin is drawn in proportion to its gap over
the square root of its cost; the two ends of the space have fixed shares. It is the default, as at equal compute it
beats the sandwich rule everywhere, and uniform draws at the smallest student (docs/results/samplers.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from proard.samplers.base import Sampler, Signals, samplers
from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost_bins import Strata

REFRESH = 10  # steps between two readings of the signals, each of which waits for the device


@samplers.register("robustness")
class Robustness(Sampler):
    """Students by robust gap and cost, and the two ends of the space now and then.

    Args:
        space: where to draw from.
        seed: of the private generator.
        students: how many to draw per step.
        smallest: in [0, 1]: the smallest student's share of all draws.
        largest: likewise the largest's, whose weights the teacher's were: enough to keep it.
        bins: of multiply-adds, of equal ratio, for all others.
        floor: in [0, 1]: the part of the bins' shares that ignores the gap.
        memory: in [0, 1): the weight of a moving average of divergences, at each update of it.
        steps_per_epoch: optimizer steps.
        steps: of the whole phase.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        students: int = 1,
        smallest: float = 0.2,
        largest: float = 0.2,
        bins: int = 6,
        floor: float = 0.3,
        memory: float = 0.95,
        steps_per_epoch: int = 1,
        steps: int = 1,
    ) -> None:
        super().__init__(space, seed, students, steps_per_epoch, steps)
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        if not 0 <= floor <= 1 or not 0 <= memory < 1:
            raise ValueError(f"floor must be in [0, 1] and memory in [0, 1), got {floor} and {memory}")
        if min(smallest, largest) < 0 or smallest + largest > 1:
            raise ValueError(f"smallest and largest must be shares of at most 1 in all, got {smallest} and {largest}")
        self.floor, self.memory = floor, memory
        self.strata = Strata(space, bins)
        self.ends = {space.smallest(): smallest, space.largest(): largest}
        self.costs = [
            sum(space.cost(member).multiply_adds for member in members) / len(members)
            for members in self.strata.members.values()
        ]
        self.averages: dict[int, float] = {}  # of the divergence, by bin; -1: of the largest student
        self.pending: list[tuple[Architecture, float | torch.Tensor]] = []

    def draw(self, step: int) -> list[Architecture]:
        """An end or a bin by its share, again and again, until there are enough different students."""
        if step % REFRESH == 0:
            self._read()
        shares, ends, bins = self.shares(), list(self.ends), list(self.strata.members)
        students: dict[Architecture, None] = {}
        wanted = min(self.students, self.size)
        for _ in range(20 * wanted):
            if len(students) >= wanted:
                break
            (place,) = self.rng.choices(range(len(shares)), shares)
            inner = place - len(ends)
            students.setdefault(ends[place] if inner < 0 else self.strata.draw(bins[inner], self.rng))
        return list(students)

    def shares(self) -> list[float]:
        """Of the draws: the smallest student's, the largest's, then every bin's; they add up to 1."""
        gaps = [self.gap(index) for index in self.strata.members]
        total, count = sum(gaps), len(gaps)
        needs = [self.floor / count + (1 - self.floor) * (gap / total if total else 1 / count) for gap in gaps]
        weights = [need / math.sqrt(cost) for need, cost in zip(needs, self.costs, strict=True)]
        rest = 1 - sum(self.ends.values())
        return [*self.ends.values(), *(rest * weight / sum(weights) for weight in weights)]

    def gap(self, index: int) -> float:
        """How much farther than the largest student a bin's are from the teacher on adversarial images; at least 0.

        A bin without a student so far has the average of the nearest one that has.
        """
        known = [bin for bin in self.averages if bin >= 0]
        if not known or -1 not in self.averages:
            return 0.0
        nearest = min(known, key=lambda other: abs(other - index))
        return max(0.0, self.averages[nearest] - self.averages[-1])

    def update(self, architecture: Architecture, signals: Signals) -> None:
        """Remember; the numbers are read every few steps."""
        self.pending.append((architecture, signals.divergence))

    def _read(self) -> None:
        """Move what was remembered into the averages; waits for the device once."""
        if not self.pending:
            return
        device = next((v.device for _, v in self.pending if isinstance(v, torch.Tensor)), "cpu")
        numbers = [torch.as_tensor(value, dtype=torch.float64, device=device) for _, value in self.pending]
        for (architecture, _), value in zip(self.pending, torch.stack(numbers).tolist(), strict=True):
            index = -1 if architecture == self.space.largest() else self.strata.index(architecture)
            before = self.averages.get(index, value)
            self.averages[index] = self.memory * before + (1 - self.memory) * value
        self.pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs: the generator, and what is known of the gaps."""
        return {
            **super().state_dict(),
            "averages": dict(self.averages),
            "pending": [(architecture.to_json(), float(value)) for architecture, value in self.pending],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        super().load_state_dict(state)
        self.averages = dict(state["averages"])
        self.pending = [(Architecture.from_json(text), value) for text, value in state["pending"]]
