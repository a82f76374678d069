"""Samplers: private generators, and what they promise to draw."""

from __future__ import annotations

import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from proard.common.errors import UserError
from proard.samplers import Signals, samplers
from proard.supernet import Architecture, SearchSpace, families


@pytest.fixture
def space() -> SearchSpace:
    return families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()


@pytest.mark.parametrize("name", samplers.names())
def test_private_and_resumable(name: str, space: SearchSpace) -> None:
    state = random.getstate()
    whole = samplers.build(name, {}, space=space, seed=3)
    sequence = [whole.sample(step) for step in range(20)]
    again = samplers.build(name, {}, space=space, seed=3)
    assert [again.sample(step) for step in range(10)] == sequence[:10]
    resumed = samplers.build(name, {}, space=space, seed=99)
    resumed.load_state_dict(again.state_dict())
    assert [resumed.sample(step) for step in range(10, 20)] == sequence[10:]
    assert random.getstate() == state
    other = samplers.build(name, {}, space=space, seed=4)
    assert [other.sample(step) for step in range(20)] != sequence


@pytest.mark.parametrize("name", samplers.names())
def test_students_of_a_step_differ_and_are_unlocked(name: str, space: SearchSpace) -> None:
    part = space.unlocked({"width"})
    sampler = samplers.build(name, {"students": 6}, space=part, seed=0)
    for step in range(50):
        students = sampler.sample(step)
        assert len(set(students)) == len(students) <= 6
        for student in students:
            assert all(student[f"stage{stage}.depth"] == 1 for stage in range(1, 5))
    assert samplers.build(name, {}, space=space.unlocked(()), seed=0).sample(0) == [space.largest()]


def test_sandwich_has_both_ends(space: SearchSpace) -> None:
    sampler = samplers.build("sandwich", {"students": 4}, space=space, seed=0)
    for step in range(20):
        students = sampler.sample(step)
        assert students[0] == space.largest()
        assert students[1] == space.smallest()
        assert len(students) == 4


def test_uniform_draws_every_choice_equally_often(space: SearchSpace) -> None:
    sampler = samplers.build("uniform", {"students": 2}, space=space, seed=0)
    widths = Counter(student["stage3.width"] for step in range(1000) for student in sampler.sample(step))
    assert set(widths) == {0.25, 0.5, 0.75, 1.0}
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in widths.values())


def test_too_few_students(space: SearchSpace) -> None:
    for name, students in (("sandwich", 1), ("uniform", 0)):
        with pytest.raises(UserError, match="students must be at least"):
            samplers.build(name, {"students": students}, space=space, seed=0)


# ---------------------------------------------------------------------------------------------------------------------
# What each one promises


def build(name: str, space: SearchSpace, seed: int = 0, **options: Any) -> Any:
    given = {key: options.pop(key) for key in ("steps_per_epoch", "steps") if key in options}
    return samplers.build(name, options, space=space, seed=seed, **given)


def test_epoch_uniform_holds_its_students_for_an_epoch(space: SearchSpace) -> None:
    sampler = build("epoch-uniform", space, students=2, steps_per_epoch=5, steps=20)
    steps = [tuple(sampler.sample(step)) for step in range(20)]
    assert all(len(set(steps[start : start + 5])) == 1 for start in range(0, 20, 5))
    assert len(set(steps)) == 4
    assert len(build("epoch-uniform", space).sample(0)) == 1


def test_epoch_uniform_resumes_within_an_epoch(space: SearchSpace) -> None:
    sampler = build("epoch-uniform", space, steps_per_epoch=5, steps=20)
    first = [sampler.sample(step) for step in range(3)]
    resumed = build("epoch-uniform", space, seed=9, steps_per_epoch=5, steps=20)
    resumed.load_state_dict(sampler.state_dict())
    assert resumed.sample(3) == first[0]
    assert [resumed.sample(step) for step in range(4, 12)] == [sampler.sample(step) for step in range(4, 12)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("robustness", {"floor": 1.5}, r"floor must be in \[0, 1\]"),
        ("robustness", {"memory": 1.0}, r"memory in \[0, 1\)"),
        ("robustness", {"bins": 0}, "bins must be at least 1"),
        ("robustness", {"smallest": 0.7, "largest": 0.4}, "shares of at most 1 in all, got 0.7 and 0.4"),
        ("robustness", {"students": 0}, "students must be at least 1"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str, space: SearchSpace) -> None:
    with pytest.raises(UserError, match=message):
        build(name, space, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Robustness


def divergence_of(space: SearchSpace) -> Callable[[Architecture], float]:
    """Small students lack robustness: from 0.1 at the largest to 0.9 at the smallest, by log multiply-adds."""
    low, high = (math.log(space.cost(end).multiply_adds) for end in (space.smallest(), space.largest()))
    return lambda a: 0.9 - 0.8 * (math.log(space.cost(a).multiply_adds) - low) / (high - low)


def trained(
    sampler: Any, steps: Iterable[int], divergence: Callable[[Architecture], float]
) -> list[list[Architecture]]:
    """What a trainer does with a sampler, on students of known divergence."""
    taken = []
    for step in steps:
        taken.append(sampler.sample(step))
        for student in taken[-1]:
            sampler.update(student, Signals(torch.tensor(divergence(student)), 0.5, 0.5))
    return taken


def test_robustness_draws_where_robustness_is_missing(space: SearchSpace) -> None:
    """More often than by cost alone, which is left where nobody is farther from the teacher than the largest."""
    divergence = divergence_of(space)
    drawn = []
    for wanted in (divergence, lambda a: 1.0 - divergence(a)):  # small ones lack it; then: the largest does most
        sampler = build("robustness", space, bins=4, floor=0.2, smallest=0.0, largest=0.1)
        taken = trained(sampler, range(1500), wanted)
        counts = Counter(sampler.strata.index(a) for step in taken[50:] for a in step if a != space.largest())
        drawn.append([counts[index] * sampler.costs[index] ** 0.5 for index in range(4)])
    missing, equal = ([amount / sum(amounts) for amount in amounts] for amounts in drawn)
    assert missing[0] > missing[1] > missing[2] > missing[3] > 0.2 / 4 * 0.6
    assert all(abs(share - 0.25) < 0.08 for share in equal)


def test_shares_follow_the_formula(space: SearchSpace) -> None:
    """A floor, and the rest by how much farther than the largest each bin is; over the root of what it costs."""
    sampler = build("robustness", space, bins=4, floor=0.4, memory=0.0, smallest=0.3, largest=0.1)
    sampler.update(space.largest(), Signals(0.1, 1.0, 1.0))
    for index, divergence in ((0, 0.7), (1, 0.3), (2, 0.1), (3, 0.05)):
        sampler.update(sampler.strata.members[index][-1], Signals(divergence, 1.0, 1.0))
    sampler.sample(0)  # reads
    needs = [0.1 + 0.6 * 0.6 / 0.8, 0.1 + 0.6 * 0.2 / 0.8, 0.1, 0.1]
    weights = [need / math.sqrt(cost) for need, cost in zip(needs, sampler.costs, strict=True)]
    assert sampler.shares() == pytest.approx([0.3, 0.1, *(0.6 * weight / sum(weights) for weight in weights)])


def test_draws_follow_the_shares(space: SearchSpace) -> None:
    sampler = build("robustness", space, students=1, smallest=0.25, largest=0.1)
    counts = Counter(sampler.sample(step)[0] for step in range(2000))
    for end, share in ((space.largest(), 0.1), (space.smallest(), 0.25)):  # which their bins may draw as well
        deviation = (2000 * share * (1 - share)) ** 0.5
        assert -4 * deviation < counts[end] - 2000 * share < 4 * deviation + 40


def test_moving_average(space: SearchSpace) -> None:
    sampler = build("robustness", space, bins=2, memory=0.75)
    sampler.update(space.largest(), Signals(0.25, 1.0, 1.0))
    for value in (1.0, 2.0, 0.0):
        sampler.update(space.smallest(), Signals(value, 1.0, 1.0))
    sampler.sample(0)
    assert sampler.gap(0) == pytest.approx(0.75 * (0.75 * 1.0 + 0.25 * 2.0) - 0.25)


def test_a_space_of_one_has_one_student(space: SearchSpace) -> None:
    one = space.only(space.smallest())
    assert build("robustness", one).sample(0) == [one.largest()]


def test_robustness_resumes_with_what_it_learnt(space: SearchSpace) -> None:
    """Between two readings of the signals too; and two ranks that see the same signals draw the same students."""
    divergence = divergence_of(space)
    whole, rank = (build("robustness", space) for _ in range(2))
    assert trained(whole, range(27), divergence) == trained(rank, range(27), divergence)
    resumed = build("robustness", space, seed=5)
    with tempfile.TemporaryFile() as file:
        torch.save(whole.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))

    assert trained(resumed, range(27, 60), divergence) == trained(whole, range(27, 60), divergence)
