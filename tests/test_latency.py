"""Latency: timing, blocks, tables and predictions, against clocks that the test turns. No real time is asserted."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from proard.commands.cli import main
from proard.commands.extract import find_table
from proard.commands.profile import profile
from proard.common.errors import UserError
from proard.common.units import short_time
from proard.evaluation.latency import (
    Execution,
    LatencyTable,
    Timing,
    blocks_of,
    distinct_blocks,
    latency_card,
    measure_latency,
    time_calls,
    with_latency,
)
from proard.evaluation.latency import timing as measure_module
from proard.evaluation.latency.blocks import layer_module
from proard.evaluation.latency.profiling import Profiler, evenly, graded_students, thinned
from proard.evaluation.latency.table import Entry, describe_family, line, quality
from proard.runs.run import Run
from proard.supernet import Architecture, Decision, Family, SearchSpace, Supernet, build_supernet, families
from proard.supernet.budgets import Budget
from proard.supernet.cost import Activation, Block, CostMeter
from proard.supernet.family import batch_norm

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("resnet", {"widths": (16, 24), "blocks": (1, 1), "width_choices": (0.5, 1.0), "expand_choices": (0.5, 1.0)}),
    ("resnet50", {"widths": (32, 48), "blocks": (1, 1), "depth_choices": (0, 1)}),
    (
        "mobilenetv3",
        {"depth_choices": (1, 2), "width_multiplier": 0.25, "kernel_choices": (3,), "expand_choices": (3, 6)},
    ),
    ("mobilenetv2", {"depth_choices": (1,), "width_multiplier": 0.25, "stem": "imagenet", "expand_choices": (3, 6)}),
    ("vit", {"width_choices": (16, 32), "depth_choices": (1, 2), "heads_choices": (1, 2), "head_channels": 8}),
]
SHAPE = (3, 16, 16)


@dataclass(frozen=True)
class UnmarkedFamily(Family):
    """Of one's own, without marks: every layer is a block."""

    def decisions(self) -> list[Decision]:
        return [Decision("depth", "depth", (1, 2)), Decision("width", "width", (4, 8))]

    def plan(self, architecture: Architecture) -> list[int]:
        return [int(architecture["width"])] * int(architecture["depth"])

    def network(self, plan: list[int]) -> nn.Module:
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, 1, 1, bias=False), batch_norm(b), nn.ReLU())
            for a, b in itertools.pairwise([self.input_shape[0], *plan])
        ]
        network = nn.Sequential(self.normalize(), nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return network.append(nn.Linear(plan[-1], self.num_classes))

    def measure(self, plan: list[int], meter: CostMeter, images: Activation) -> None:
        x = meter.normalize(images)
        for channels in plan:
            x = meter.convolution(x, channels, 3)
        meter.linear(meter.global_pool(x), self.num_classes)


@pytest.fixture(scope="module")
def unmarked() -> Any:
    """Registered under a name for as long as this file runs."""
    families.register("unmarked-for-latency")(UnmarkedFamily)
    yield
    del families._entries["unmarked-for-latency"]


@pytest.fixture(params=[*FAMILIES, ("unmarked-for-latency", {})], ids=lambda param: param[0])
def supernet(request: pytest.FixtureRequest, unmarked: None) -> Supernet:
    family, options = request.param
    return build_supernet(family, num_classes=5, input_shape=SHAPE, **options)


@pytest.fixture
def resnet() -> Supernet:
    return build_supernet("resnet", num_classes=5, input_shape=SHAPE, **FAMILIES[0][1])


def samples(space: SearchSpace, count: int) -> list[Architecture]:
    rng = random.Random(5)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float) -> Callable[[], None]:
        """A callable that takes these times in turn, and then again."""
        turns = itertools.cycle(seconds)

        def call() -> None:
            self.now += next(turns)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure_module, "clock", clock)
    return clock


def synthesize(clock: Clock, patch: pytest.MonkeyPatch) -> None:
    """Every module takes its `work`, and every call `CALL`."""
    patch.setattr(measure_module, "clock", clock)
    patch.setattr(Execution, "prepare", lambda _, module, shape: clock.takes(CALL + work(module)))


CALL = 3e-6  # what calling anything takes


def work(module: nn.Module) -> float:
    """Seconds that depend on the layers alone, and add up over them."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(1e-5 + 1e-8 * layer.weight.numel() + 1e-7 * math.sqrt(layer.weight.shape[0]) for layer in layers)


@pytest.fixture
def synthetic(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize(clock, monkeypatch)


# Timing


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 333])
def test_median_and_p95(count: int) -> None:
    times = np.random.default_rng(count).exponential(size=count)
    timing = Timing.of(list(times))
    assert timing.median == pytest.approx(np.median(times))
    assert timing.p95 == np.percentile(times, 95, method="inverted_cdf")
    assert timing.repeats == count


def test_time_is_spent_by_time_and_not_by_count(clock: Clock) -> None:
    slow, fast, uneven = time_calls(
        [clock.takes(0.5), clock.takes(1e-3), clock.takes(2e-3, 2e-3, 2e-3, 10e-3)], seconds=0.2, rounds=5
    )
    assert (slow.median, slow.repeats) == (pytest.approx(0.5), 15)  # three at least in every round
    assert fast.median == pytest.approx(1e-3)
    assert fast.repeats == pytest.approx(200, abs=5)
    assert uneven.median == pytest.approx(2e-3)
    assert uneven.p95 == pytest.approx(10e-3)


def test_a_clock_that_stands_still_does_not_hang(clock: Clock) -> None:
    assert time_calls([lambda: None], seconds=0.1, rounds=1)[0].median == 0


def test_rounds_interleave_and_every_call_is_synchronised(clock: Clock) -> None:
    events: list[str] = []

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            clock.now += 1
            events.append(name)

        return run

    progress: list[int] = []
    time_calls(
        [call("a"), call("b")],
        seconds=1,
        rounds=3,
        synchronize=lambda: events.append("-"),
        progress=lambda: progress.append(1),
    )
    text = "".join(events)
    assert text.replace("-", "") == "ab" + 3 * ("a" * 4 + "b" * 4)  # a warm-up; then one untimed and three timed calls
    assert text == "".join(f"-{name}-" for name in text.replace("-", ""))
    assert len(progress) == 6


# Blocks


def test_the_blocks_cover_every_architecture(supernet: Supernet) -> None:
    """Exhaustively where that is possible, else a hundred random ones: every block is among the distinct ones."""
    family, space = supernet.family, supernet.space
    found = distinct_blocks(family)
    if space.size <= 2000:
        values = itertools.product(*(decision.choices for decision in space.decisions))
        names = [decision.name for decision in space.decisions]
        every = {space.canonical(dict(zip(names, chosen, strict=True))) for chosen in values}
        assert len(every) == space.size
    else:
        every = set(samples(space, 100))
    seen = {block.key for architecture in every for block in blocks_of(family, architecture)}
    assert seen <= found.keys()
    if len(every) == space.size:
        assert seen == found.keys()
    for key, (block, architecture) in found.items():
        assert block.key == key
        assert block in blocks_of(family, architecture)


def test_default_spaces_have_blocks_to_measure_one_by_one() -> None:
    for name in ("resnet50", "mobilenetv3", "vit"):
        family = families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)})
        found = distinct_blocks(family)
        assert 20 < len(found) < 300
        for architecture in samples(family.space(), 20):
            assert {block.key for block in blocks_of(family, architecture)} <= found.keys()


def test_blocks_add_up_to_the_student(supernet: Supernet) -> None:
    for architecture in samples(supernet.space, 5):
        blocks, cost = blocks_of(supernet.family, architecture), supernet.space.cost(architecture)
        assert sum(block.multiply_adds for block in blocks) == cost.multiply_adds
        names = [block.module for block in blocks if block.module is not None]
        assert len(set(names)) == len(names)


def test_blocks_of_one_space_only(resnet: Supernet) -> None:
    space = resnet.space.only(resnet.space.smallest())
    found = distinct_blocks(resnet.family, space)
    assert list(found) == list(dict.fromkeys(b.key for b in blocks_of(resnet.family, space.largest())))


def test_what_is_measured_is_the_block(supernet: Supernet) -> None:
    """The module for a block does the block's multiply-adds on the input that it is given, as torch counts them."""
    profiler = Profiler(supernet, Execution(batch_size=3).resolved(), 0.01, quiet=True)
    for block, architecture in thinned(distinct_blocks(supernet.family), 16).values():
        module, shape = profiler._block_maker(block, architecture)()
        assert shape[0] == 3
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(torch.rand(shape))
        assert counter.get_total_flops() == 2 * 3 * block.multiply_adds


def test_layers_outside_of_blocks_are_measured_as_themselves() -> None:
    meter, x = CostMeter(), Activation(8, 6, 6)
    meter.max_pool(meter.convolution(x, 12, 3, 2, groups=4, bias=True, batch_norm=False), 3, 2)
    tokens = Activation(8, 9)
    meter.linear(meter.layer_norm(tokens), 16, bias=False)
    meter.attention(tokens, tokens, tokens, 2)
    outputs = [(2, 12, 3, 3), (2, 12, 2, 2), (2, 9, 8), (2, 9, 16), (2, 2, 9, 4)]
    for block, expected in zip(meter.blocks, outputs, strict=True):
        module, shape = layer_module(block.layers[0], 2)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert module(torch.rand(shape)).shape == expected
        assert counter.get_total_flops() == 2 * 2 * block.multiply_adds


def test_a_timm_network_is_one_block() -> None:
    pytest.importorskip("timm")
    net = build_supernet("timm", num_classes=5, input_shape=(3, 32, 32), model="test_resnet")
    ((block, architecture),) = distinct_blocks(net.family).values()
    assert block.multiply_adds == net.space.cost(architecture).multiply_adds
    module, shape = Profiler(net, Execution().resolved(), 0.01, quiet=True)._block_maker(block, architecture)()
    assert shape == (1, 3, 32, 32)
    assert module(torch.rand(shape)).shape == (1, 5)


# Predictions


def table_of(profiler: Profiler, chosen: dict[str, tuple[Block, Architecture]], **more: Any) -> LatencyTable:
    return LatencyTable(
        **describe_family(profiler.supernet.family),
        batch_size=1,
        dtype="float32",
        runtime="eager",
        threads=1,
        device="a synthetic device",
        versions={"torch": torch.__version__},
        call_overhead=profiler.call_overhead(),
        blocks=profiler.blocks(chosen),
        **more,
    )


def test_predictions_are_exact_where_blocks_add_up(supernet: Supernet, synthetic: None) -> None:
    """Known additive times: overhead, scale and every student's latency come out exactly."""
    profiler = Profiler(supernet, Execution().resolved(), 1e-3, quiet=True)
    table = profiler.fit(table_of(profiler, distinct_blocks(supernet.family)), 3, 4)
    assert table.call_overhead == pytest.approx(CALL)
    assert table.overhead == pytest.approx(CALL, rel=1e-5)
    assert table.scale == pytest.approx(1)
    for architecture in samples(supernet.space, 20):
        expected = CALL + work(supernet.student(architecture))
        assert table.predict(architecture) == pytest.approx(expected, rel=1e-6)
    for student in table.students:
        assert student.predicted == pytest.approx(student.measured, rel=1e-6)
    if len([student for student in table.students if student.held_out]) > 2:
        assert table.error == pytest.approx(0, abs=1e-6)
        assert table.rank_correlation == pytest.approx(1)


def test_students_are_spread_and_distinct(resnet: Supernet) -> None:
    space = resnet.space
    students = graded_students(space, 12)
    costs = [space.cost(architecture).multiply_adds for architecture in students]
    assert len(set(students)) == 12
    assert costs == sorted(costs)
    assert {space.smallest(), space.largest()} <= set(students)
    assert graded_students(space.only(space.largest()), 12) == [space.largest()]


def test_a_space_of_one_student(synthetic: None, resnet: Supernet) -> None:
    resnet.space = resnet.space.only(resnet.space.smallest())
    profiler = Profiler(resnet, Execution().resolved(), 1e-3, quiet=True)
    table = profiler.fit(table_of(profiler, distinct_blocks(resnet.family, resnet.space)), 8, 12)
    assert len(table.students) == 1
    assert table.error is None
    assert table.predict(resnet.space.largest()) == pytest.approx(CALL + work(resnet.student(resnet.space.largest())))


def test_blocks_without_an_entry_are_interpolated(resnet: Supernet, synthetic: None) -> None:
    """Times that are linear in layers, multiply-adds and bytes are recovered exactly from a third of the blocks."""
    found = distinct_blocks(resnet.family)
    chosen = thinned(found, len(found) // 3)
    assert len(chosen) == len(found) // 3

    def seconds(block: Block) -> float:
        return 2e-6 + 4e-6 * len(block.layers) + 1e-10 * block.multiply_adds + 3e-10 * block.bytes

    entries = {key: Entry.of(b, Timing(CALL + seconds(b), 1.0, 9)) for key, (b, _) in chosen.items()}
    profiler = Profiler(resnet, Execution().resolved(), 1e-3, quiet=True)
    whole = table_of(profiler, chosen)
    table = whole.model_copy(update={"blocks": entries, "interpolate": True})
    for block, _ in found.values():
        assert table.block_seconds(block) == pytest.approx(seconds(block), rel=1e-6)
    strict = whole.model_copy(update={"blocks": entries})
    with pytest.raises(UserError, match=r"no entry for the block '.*'; profile again"):
        strict.predict(resnet.space.largest())


def test_a_subset_holds_every_kind_of_block() -> None:
    family = families.build("mobilenetv3", {"num_classes": 5, "input_shape": SHAPE})
    found = distinct_blocks(family)
    kinds = {tuple(layer.kind for layer in block.layers) for block, _ in found.values()}
    chosen = thinned(found, 30)
    assert len({tuple(layer.kind for layer in block.layers) for block, _ in chosen.values()}) >= len(kinds) - 3
    assert thinned(found, 10_000).keys() == found.keys()


def test_the_line_is_found_and_never_negative() -> None:
    exact = [(x, 2e-5 + 0.8 * x) for x in (1e-5, 3e-5, 4e-4)]
    assert line(exact) == (pytest.approx(2e-5), pytest.approx(0.8))
    assert line([(3.0, 5.0)]) == (2.0, 1.0)
    assert line([(5.0, 3.0)]) == (0.0, 0.6)
    overhead, scale = line([(1.0, 0.5), (2.0, 1.6)])  # the free line would start below zero
    assert overhead == 0
    # One weight s: the least of (s / 0.5 - 1)^2 + (2 s / 1.6 - 1)^2.
    assert scale == pytest.approx((1 / 0.5 + 2 / 1.6) / ((1 / 0.5) ** 2 + (2 / 1.6) ** 2))


def test_quality_by_hand() -> None:
    result = quality([(1.0, 1.0), (2.2, 2.0), (2.1, 3.0), (4.0, 4.0)])  # one pair of six is swapped
    assert result["error"] == pytest.approx(0.05)
    assert result["kendall_tau"] == pytest.approx((5 - 1) / 6)
    assert result["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert quality([(1.0, 2.0)]) == {"error": 0.5}
    assert quality([]) == {}
    assert evenly(20, 8)[0] == 0
    assert evenly(20, 8)[-1] == 19
    assert len(set(evenly(20, 8))) == 8


# Tables


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    net = build_supernet("resnet", num_classes=5, input_shape=SHAPE, **FAMILIES[0][1])
    profiler, clock = Profiler(net, Execution().resolved(), 1e-3, quiet=True), Clock()
    with pytest.MonkeyPatch.context() as patch:
        synthesize(clock, patch)
        return profiler.fit(table_of(profiler, distinct_blocks(net.family)), 3, 3)


def test_a_table_round_trip(table: LatencyTable, resnet: Supernet, tmp_path: Path) -> None:
    table.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json")
    assert again == table
    again.check(resnet.family)
    for architecture in samples(resnet.space, 5):
        assert again.predict(architecture) == table.predict(architecture)


BROKEN: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda t: t.update(format=2), "format"),
    (lambda t: t.pop("family"), "family"),
    (lambda t: t.update(comment="x"), "comment"),
    (lambda t: t.update(blocks={}), "blocks"),
    (lambda t: next(iter(t["blocks"].values())).update(median=-1e-3), r"median: .*greater than 0, got -0\.001"),
    (lambda t: next(iter(t["blocks"].values())).update(median=0), "median: .*greater than 0, got 0"),
    (lambda t: next(iter(t["blocks"].values())).update(p95=math.nan), r"p95: .*, got nan"),
    (lambda t: next(iter(t["blocks"].values())).update(median=math.inf), "median: .*finite"),
    (lambda t: next(iter(t["blocks"].values())).update(median="fast"), "median: .*number"),
    (lambda t: next(iter(t["blocks"].values())).update(repeats=0), "repeats"),
    (lambda t: next(iter(t["blocks"].values())).pop("bytes"), "bytes"),
    (lambda t: t.update(overhead=-1e-6), "overhead"),
    (lambda t: t.update(scale=0), "scale"),
    (lambda t: t.update(input_shape=[3, 16]), "input_shape"),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_damaged_table_is_refused_in_one_line(
    table: LatencyTable, tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    values = json.loads(table.model_dump_json())
    spoil(values)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as caught:
        LatencyTable.load(path)
    assert str(caught.value).startswith(f"latency table {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latency.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^latency table ") as caught:
        LatencyTable.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        LatencyTable.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"widths": (16, 32)}, "widths"),
        ({"stem": "imagenet"}, "stem"),
        ({"num_classes": 7}, "num_classes"),
        ({"input_shape": (3, 32, 32)}, "input_shape"),
    ],
)
def test_a_table_of_other_networks_is_refused(
    table: LatencyTable, resnet: Supernet, change: dict[str, Any], name: str
) -> None:
    with pytest.raises(UserError, match=rf"latency table: made for {name} .* this run has .*'proard profile'"):
        table.check(replace(resnet.family, **change))
    table.check(replace(resnet.family, mean=(0.1,), std=(0.9,), dropout=0.3))  # take no time
    other = families.build("mobilenetv3", {"num_classes": 5, "input_shape": SHAPE})
    with pytest.raises(UserError, match="made for family resnet, and this run has mobilenetv3"):
        table.check(other)


def test_a_table_that_cannot_be_written(table: LatencyTable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"latency table .*cannot be written \(No such file"):
        table.save(tmp_path / "nowhere" / "latency.json")


# Budgets


def test_latency_as_a_budget(table: LatencyTable, resnet: Supernet) -> None:
    space = with_latency(resnet.space, table)
    for architecture in samples(resnet.space, 5):
        cost = space.cost(architecture)
        assert cost.latency == table.predict(architecture)
        assert replace(cost, latency=None) == resnet.space.cost(architecture)
    assert space.decisions == resnet.space.decisions
    smallest, largest = space.cost(space.smallest()), space.cost(space.largest())
    assert smallest.latency is not None
    assert largest.latency is not None
    between = Budget.parse("latency", f"{500 * (smallest.latency + largest.latency)}ms")
    assert between.admits(smallest)
    assert not between.admits(largest)
    with pytest.raises(UserError, match="needs a table of this device's latency"):
        between.admits(resnet.space.cost(space.smallest()))


def test_what_a_card_says(table: LatencyTable, resnet: Supernet) -> None:
    smallest, execution = resnet.space.smallest(), Execution(threads=1).resolved()
    card = latency_card(table, smallest, Timing(0.001, 0.002, 50), execution)
    assert json.loads(json.dumps(card)) == card
    assert card["predicted"] == {"seconds": table.predict(smallest), "device": "a synthetic device"}
    assert card["measured"]["median"] == 0.001
    assert card["measured"]["device"] == execution.device_name
    assert (card["measured"]["runtime"], card["measured"]["threads"]) == ("eager", 1)
    assert card["same_device"] is False
    ours = table.model_copy(update={"device": execution.device_name})
    assert latency_card(ours, smallest, Timing(1, 1, 1), execution)["same_device"] is True


# How networks run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "egaer"}, "--runtime egaer: unknown; did you mean 'eager'"),
        ({"dtype": "float31"}, "--dtype float31: unknown; did you mean 'float32'"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"threads": -1}, "--threads -1: must be at least 1"),
        ({"runtime": "onnxruntime", "dtype": "bfloat16"}, "--dtype bfloat16: runtime onnxruntime"),
        ({"runtime": "onnxruntime", "device": "cuda"}, "--device cuda: runtime onnxruntime"),
        ({"device": "toaster"}, "device toaster: unknown"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Execution(**settings).resolved()


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proard.evaluation.latency.execution.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the package 'onnxruntime'; pip install 'proard\[onnx\]'"):
        Execution(runtime="onnxruntime").resolved()


def test_threads_are_pinned_and_put_back() -> None:
    before, execution = torch.get_num_threads(), Execution(threads=torch.get_num_threads() + 1).resolved()

    def fails() -> None:
        with execution.pinned():
            assert torch.get_num_threads() == before + 1
            assert torch.is_inference_mode_enabled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert torch.get_num_threads() == before
    assert Execution().resolved().threads == before


@pytest.mark.parametrize("runtime", ["eager", "export", "onnxruntime"])
def test_every_runtime_runs_the_network(resnet: Supernet, runtime: str) -> None:
    """What is timed gives the network's own logits."""
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    network = resnet.extract(resnet.space.smallest(), [torch.rand(8, *SHAPE)])
    execution = Execution(batch_size=2, runtime=runtime, threads=1).resolved()
    call = execution.prepare(copy.deepcopy(network), (2, *SHAPE))
    with execution.pinned():
        outcome = call()
        images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
        expected = network(images)
    outcome = torch.as_tensor(outcome[0] if runtime == "onnxruntime" else outcome)
    torch.testing.assert_close(outcome, expected, atol=1e-5, rtol=1e-4)
    timing = measure_latency(network, SHAPE, execution, seconds=0.001)
    assert 0 < timing.median <= timing.p95
    assert not network.training


# The command


@pytest.fixture
def run(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was never trained: latency does not need it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / "tiny"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(tiny))
    return path


def lines(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    printed = capsys.readouterr()
    assert left.value.code == code, printed.err
    return (printed.err if code else printed.out).splitlines()


def test_the_command_with_known_times(run: Path, synthetic: None, capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines(capsys, 0, "profile", "--quiet", "--threads", "1")
    text = "\n".join(printed)
    assert "median error 0.0 %, rank correlation 1.00 (Spearman)" in text
    assert "1 thread, batch size 1" in text
    assert "next:    proard extract --run runs/tiny --latency " in printed[-1]
    assert max(map(len, printed)) <= 80
    family = build_family(run)
    table = find_table(Run(run), family)
    predict = find_table(Run(run), family, run / "latency.json").predict
    architecture = family.space().smallest()
    assert predict(architecture) == table.predict(architecture)
    assert f"{len(table.blocks)} of {len(distinct_blocks(family))} distinct ones measured" in text
    report = json.loads("\n".join(lines(capsys, 0, "profile", "--quiet", "--json", "--out", "other.json")))
    assert report["path"] == "other.json"
    assert report["error"] == pytest.approx(0, abs=1e-6)
    assert len([student for student in report["students"] if student["held_out"]]) == 12
    assert LatencyTable.load("other.json").family == "resnet"


def build_family(run: Path) -> Family:
    from proard.data import load_data
    from proard.runs.components import supernet_for

    config = Run(run).config()
    return supernet_for(config, load_data(config.data)).family


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "tflite"], "--runtime tflite: unknown; valid: eager, export, onnxruntime"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--run", "nowhere"], "run nowhere: no config.yaml there"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (line_,) = lines(capsys, 2, "profile", *arguments)
    assert message in line_


def test_a_missing_table_names_the_command(run: Path) -> None:
    with pytest.raises(UserError, match=r"has no latency.json; make it with 'proard profile --run .*--latency-table"):
        find_table(Run(run), build_family(run))
    with pytest.raises(UserError, match=r"latency table .*other.json: No such file"):
        find_table(Run(run), build_family(run), run / "other.json")


def test_blocks_are_really_run(run: Path) -> None:
    """Once without a synthetic clock; a subset of the blocks, so that some are interpolated."""
    done = profile(run, threads=1, seconds=1e-4, most_blocks=6, students=(2, 2), quiet=True)
    assert json.loads((run / "energy.json").read_text())["commands"][-1]["command"] == "profile"
    table = LatencyTable.load(done.path)
    assert (len(table.blocks), table.interpolate) == (6, True)
    assert done.distinct > 6
    assert all(student.measured > 0 and student.predicted > 0 for student in table.students)
    assert table.versions["eager"] == torch.__version__
    assert table.predict(build_family(run).space().sample(random.Random(1))) > 0


def test_a_student_for_a_latency(
    trained_run: Path, tmp_path: Path, synthetic: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the table to the card: the chosen student keeps the budget, and is measured."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    table = profile(run, threads=1, quiet=True).table
    middle = sorted(student.predicted for student in table.students)[len(table.students) // 2]
    limit = short_time(middle, up=True)
    printed = lines(capsys, 0, "extract", "--run", str(run), "--latency", limit, "--quiet")
    card = json.loads((run / "students" / f"latency-{limit}" / "student.json").read_text())
    latency = card["latency"]
    assert latency["predicted"]["seconds"] <= Budget.parse("latency", limit).limit
    assert latency["measured"]["median"] == pytest.approx(latency["predicted"]["seconds"], rel=1e-6)
    assert latency["same_device"] is True
    assert any(line.startswith(f"latency: latency-{limit}: predicted ") for line in printed)
    (run / "latency.json").unlink()
    (error,) = lines(capsys, 2, "extract", "--run", str(run), "--latency", limit, "--quiet")
    assert "make it with 'proard profile" in error
