"""Samplers: private generators, and what they promise to draw."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from proard.errors import UserError
from proard.samplers import samplers
from proard.supernet import SearchSpace, families


@pytest.fixture
def space() -> SearchSpace:
    return families.build("resnet", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()


@pytest.mark.parametrize("name", samplers.names())
def test_private_and_resumable(name: str, space: SearchSpace) -> None:
    state = random.getstate()
    whole = samplers.build(name, {}, space=space, seed=3)
    sequence = [whole.sample() for _ in range(20)]
    again = samplers.build(name, {}, space=space, seed=3)
    assert [again.sample() for _ in range(10)] == sequence[:10]
    resumed = samplers.build(name, {}, space=space, seed=99)
    resumed.load_state_dict(again.state_dict())
    assert [resumed.sample() for _ in range(10)] == sequence[10:]
    assert random.getstate() == state
    other = samplers.build(name, {}, space=space, seed=4)
    assert [other.sample() for _ in range(20)] != sequence


@pytest.mark.parametrize("name", samplers.names())
def test_students_of_a_step_differ_and_are_unlocked(name: str, space: SearchSpace) -> None:
    part = space.unlocked({"width"})
    sampler = samplers.build(name, {"students": 6}, space=part, seed=0)
    for _ in range(50):
        students = sampler.sample()
        assert len(set(students)) == len(students) <= 6
        for student in students:
            assert all(student[f"stage{stage}.depth"] == 1 for stage in range(1, 5))
    assert samplers.build(name, {}, space=space.unlocked(()), seed=0).sample() == [space.largest()]


def test_sandwich_has_both_ends(space: SearchSpace) -> None:
    sampler = samplers.build("sandwich", {"students": 4}, space=space, seed=0)
    for _ in range(20):
        students = sampler.sample()
        assert students[0] == space.largest()
        assert students[1] == space.smallest()
        assert len(students) == 4


def test_uniform_draws_every_choice_equally_often(space: SearchSpace) -> None:
    sampler = samplers.build("uniform", {"students": 2}, space=space, seed=0)
    widths = Counter(student["stage3.width"] for _ in range(1000) for student in sampler.sample())
    assert set(widths) == {0.25, 0.5, 0.75, 1.0}
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in widths.values())


def test_too_few_students(space: SearchSpace) -> None:
    for name, students in (("sandwich", 1), ("uniform", 0)):
        with pytest.raises(UserError, match="students must be at least"):
            samplers.build(name, {"students": students}, space=space, seed=0)
