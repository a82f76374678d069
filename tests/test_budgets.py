"""Budgets: how they are read, what they admit, and what they say when nothing fits."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proard.common.errors import UserError
from proard.common.units import short, short_time
from proard.supernet.budgets import KINDS, Budget, budgets_of, parse_budgets
from proard.supernet.cost import Cost

COST = Cost(
    multiply_adds=2_010_000,
    parameters=512,
    peak_activation_bytes=4096,
    file_bytes=5000,
    peak_activation_bytes_int8=1024,
    file_bytes_float16=2600,
    weight_bytes_int8=1300,
    latency=0.25,
)
COUNTED = sorted(KINDS.keys() - {"latency"})  # in whole numbers


@pytest.mark.parametrize(
    ("kind", "text", "limit"),
    [
        ("flops", "100M", 100e6),
        ("flops", "1.5G", 1.5e9),
        ("flops", "2e8", 2e8),
        ("flops", "100m", 100e6),
        ("flops", " 3 k ", 3000),
        ("flops", ".5T", 0.5e12),
        ("flops", "2.01M", 2_010_000),
        ("flops", 2e8, 2e8),
        ("params", "2M", 2e6),
        ("params", "512", 512),
        ("memory", "256KB", 256_000),
        ("memory", "256KiB", 262_144),
        ("memory", "1.5mib", 1_572_864),
        ("size", "1MB", 1e6),
        ("size", "1GB", 1e9),
        ("size", "1GiB", 2**30),
        ("size", "700B", 700),
        ("size", "700", 700),
        ("memory-int8", "266KB", 266_000),
        ("size-int8", "889kb", 889_000),
        ("size-fp16", "1MiB", 2**20),
        ("latency", "5ms", 0.005),
        ("latency", "5 MS", 0.005),
        ("latency", "1.5s", 1.5),
        ("latency", "750us", 0.00075),
    ],
)
def test_what_a_budget_means(kind: str, text: Any, limit: float) -> None:
    assert Budget.parse(kind, text).limit == limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "-5", "-1e9", "nan", "inf", "1e999", "1e-999", "M", "10X", "1,000", "1e", "ten", "1 2", "5min"],
)
def test_what_is_no_budget_is_refused_with_an_example(kind: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        Budget.parse(kind, text)
    message = str(caught.value)
    assert message.startswith(f"--{kind} {text}")
    assert KINDS[kind].example in message
    assert Budget.parse(kind, KINDS[kind].example).limit > 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [("flops", "10KB"), ("params", "1MiB"), ("size", "3K"), ("memory", "1M"), ("latency", "5"), ("flops", "5ms")],
)
def test_units_belong_to_a_kind(kind: str, text: str) -> None:
    with pytest.raises(UserError, match="expected a number with a unit"):
        Budget.parse(kind, text)


def test_an_unknown_kind() -> None:
    with pytest.raises(UserError, match="did you mean 'flops'"):
        Budget.parse("flop", "1M")


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("flops", 2_010_000),
        ("params", 512),
        ("memory", 4096),
        ("size", 5000),
        ("memory-int8", 1024),
        ("size-fp16", 2600),
        ("size-int8", 1300),
    ],
    ids=lambda x: str(x),
)
def test_a_budget_admits_its_own_cost_up_to_the_limit(kind: str, least: int) -> None:
    assert Budget.parse(kind, str(least)).admits(COST)
    assert Budget.parse(kind, str(least)).value(COST) == least
    assert not Budget.parse(kind, str(least - 1)).admits(COST)
    Budget.parse(kind, str(least)).check(COST)
    with pytest.raises(UserError) as caught:
        Budget.parse(kind, str(least - 1)).check(COST)
    message = str(caught.value)
    assert f"--{kind} {least - 1}" in message
    assert f"{least:,}" in message
    advice = re.search(r"at least (\S+)$", message)
    assert advice is not None
    assert Budget.parse(kind, advice[1]).admits(COST)


def test_a_latency_budget() -> None:
    assert Budget.parse("latency", "250ms").admits(COST)
    assert Budget.parse("latency", "0.25s").value(COST) == 0.25
    assert Budget.parse("latency", "5.5ms").name == "latency-5.5ms"
    with pytest.raises(UserError, match=r"--latency 249ms: below the smallest student, .* at least 250ms$"):
        Budget.parse("latency", "249ms").check(COST)
    with pytest.raises(UserError, match=r"--latency 1s: .*'proard profile'"):
        Budget.parse("latency", "1s").admits(Cost(1, 1, 1))


@given(st.floats(1e-6, 1e4))
def test_the_advice_on_latency_is_always_enough_and_never_much_more(seconds: float) -> None:
    with pytest.raises(UserError) as caught:
        Budget.parse("latency", "0.1us").check(Cost(1, 1, 1, latency=seconds))
    least = Budget.parse("latency", str(caught.value).split()[-1])
    assert seconds <= least.limit <= 1.011 * seconds
    assert Budget.parse("latency", short_time(seconds)).limit == pytest.approx(seconds, rel=0.0051)


@given(st.integers(1, 10**13), st.sampled_from(COUNTED))
def test_the_advice_is_always_enough_and_never_much_more(value: int, kind: str) -> None:
    cost = Cost(*[value] * 7)
    if value == 1:
        return
    with pytest.raises(UserError) as caught:
        Budget.parse(kind, "1" if value > 1 else "0.5").check(cost)
    budget = Budget.parse(kind, str(caught.value).split()[-1])
    assert budget.admits(cost)
    assert budget.limit <= value * 1.011 + 1


@given(st.integers(1, 10**13))
def test_short_has_three_digits(value: int) -> None:
    shown = Budget.parse("flops", short(value)).limit
    assert abs(shown - value) <= 0.0051 * value
    assert sum(character.isdigit() for character in short(value)) <= 4


def test_short_examples() -> None:
    assert [short(value) for value in (98_700_000, 1_230_000_000, 999, 1000, 29_690)] == [
        "98.7M",
        "1.23G",
        "999",
        "1.00K",
        "29.7K",
    ]


def test_names_are_fit_for_directories() -> None:
    named = (("flops", "100M"), ("size", " 1 MB"), ("memory", "2.5KiB"), ("params", "2e+6"), ("latency", "5 ms"))
    for kind, text in named:
        assert re.fullmatch(r"[a-z]+-[\w.+-]+", Budget.parse(kind, text).name)
    assert Budget.parse("flops", "100M").name == "flops-100M"


def test_a_command_line_of_budgets() -> None:
    limits: dict[str, list[str]] = {"flops": ["2M", "1M", "2M"], "params": [], "size": ["1MB"]}
    assert [budget.name for budget in parse_budgets(limits)] == ["flops-2M", "flops-1M", "size-1MB"]
    assert parse_budgets({"flops": [], "size": []}) == []
    with pytest.raises(UserError, match="--size x"):
        parse_budgets({"flops": ["1M"], "size": ["x"]})


def test_budgets_in_python() -> None:
    flops = Budget.parse("flops", "1M")
    for budgets in (flops, [flops], [("flops", "1M")]):
        named = {"params": 2e6, "memory_int8": "64KB", "size": None}
        assert [budget.name for budget in budgets_of(budgets, named)] == [
            "flops-1M",
            "params-2000000.0",
            "memory-int8-64KB",
        ]
    assert budgets_of((), {}) == []
    for kind, about in KINDS.items():
        (budget,) = budgets_of((), {kind.replace("-", "_"): about.example})
        assert budget.kind == kind
    with pytest.raises(UserError, match="did you mean 'size-fp16'"):
        budgets_of((), {"size_fp_16": "1MB"})
