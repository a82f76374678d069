"""Bins of students by multiply-adds, and random students of each."""

from __future__ import annotations

import math
import random

import pytest

from proard.supernet import CostBins, SearchSpace, families
from proard.supernet.cost_bins import Strata


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    options = {"widths": (16, 24), "blocks": (1, 1), "width_choices": (0.5, 1.0), "expand_choices": (0.5, 1.0)}
    return families.build("resnet", {"num_classes": 5, "input_shape": (3, 16, 16), **options}).space()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bins_are_equally_wide_in_the_logarithm(count: int, space: SearchSpace) -> None:
    bins = CostBins(space, count)
    smallest, largest = (space.cost(end).multiply_adds for end in (space.smallest(), space.largest()))
    assert len(bins) == count == len(bins.edges) - 1
    assert (bins.edges[0], bins.edges[-1]) == (smallest, largest)
    assert (bins.index(space.smallest()), bins.index(space.largest())) == (0, count - 1)
    seen = set()
    for architecture in [space.sample(random.Random(seed)) for seed in range(60)]:
        cost = space.cost(architecture).multiply_adds
        expected = int(count * math.log(cost / smallest) / math.log(largest / smallest))
        assert bins.index(architecture) == min(expected, count - 1)
        seen.add(bins.index(architecture))
    assert seen == set(range(count))


def test_bins_clamp_and_one_cost_is_one_bin(space: SearchSpace) -> None:
    low = CostBins(space.only(space.smallest()), 4)
    assert len(low) == 1
    assert (low.index(space.smallest()), low.index(space.largest())) == (0, 0)
    narrow = CostBins(space.unlocked(["expand"]), 3)
    assert narrow.index(space.smallest()) == 0
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CostBins(space, 0)


@pytest.mark.parametrize("family", families.names())
def test_every_bin_can_be_drawn(family: str) -> None:
    """Also the rare ends, which uniform sampling hardly hits."""
    if family == "timm":
        pytest.importorskip("timm", reason="needs timm, of the extra timm")
    options = {"model": "test_resnet"} if family == "timm" else {}
    space = families.build(family, {"num_classes": 10, "input_shape": (3, 32, 32), **options}).space()
    strata = Strata(space, 6)
    rng = random.Random(0)
    assert 0 in strata.members
    assert len(strata) - 1 in strata.members
    for index, members in strata.members.items():
        assert all(strata.index(member) == index for member in members)
        assert all(strata.index(strata.draw(index, rng)) == index for _ in range(10))
    if space.size > 10_000:
        assert all(len(strata.members[index]) >= 20 for index in range(6))
