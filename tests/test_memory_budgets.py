"""Memory and size: peak activations against the liveness of the exported graph, weights against the network itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.fx import Node

from proard.supernet import Family, Supernet, build_supernet
from proard.supernet.activation_memory import peak_elements
from proard.supernet.budgets import Budget
from proard.supernet.calibration import add_running_statistics
from proard.supernet.cost import Activation, CostMeter, Counts
from proard.supernet.family import Normalize

CASES: list[tuple[str, dict[str, Any]]] = [
    ("resnet", {"widths": (16, 24), "blocks": (1, 1)}),
    ("resnet", {"widths": (16, 24), "blocks": (1, 1), "stem": "imagenet", "activation": "silu"}),
    ("resnet50", {"widths": (32, 48), "blocks": (1, 1)}),
    ("mobilenetv3", {"depth_choices": (1, 2), "width_multiplier": 0.5}),
    ("mobilenetv3", {"depth_choices": (1,), "width_multiplier": 0.5, "squeeze_excitation": True, "stem": "imagenet"}),
    ("mobilenetv2", {"depth_choices": (1, 2), "width_multiplier": 0.5}),
    ("vit", {"width_choices": (16, 32), "depth_choices": (1, 2), "heads_choices": (1, 2), "head_channels": 8}),
    ("vit", {"width_choices": (16,), "depth_choices": (1,), "heads_choices": (4,), "pool": "token", "stem": "patch"}),
]
SHAPE = (3, 16, 16)


@pytest.fixture(params=CASES, ids=str)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    family, options = request.param
    return build_supernet(family, num_classes=5, input_shape=SHAPE, **options)


def students(supernet: Supernet, count: int = 1) -> list[tuple[Any, nn.Module]]:
    """Architectures of all sizes with their networks, which normalise by running statistics."""
    space, rng = supernet.space, random.Random(3)
    chosen = dict.fromkeys([space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))])
    networks = [(architecture, supernet.student(architecture).eval()) for architecture in chosen]
    for _, network in networks:
        add_running_statistics(network)
    return networks


# The oracle: liveness over the graph that torch.export makes

ELEMENT_WISE = {
    *("add", "add_", "sub", "mul", "div", "batch_norm", "relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_"),
    *("hardswish", "hardswish_", "silu", "silu_", "gelu", "hardsigmoid", "softmax", "dropout"),
}
VIEWS = {"view", "unflatten", "transpose", "unsqueeze", "expand", "select", "slice", "permute", "unbind", "getitem"}
VIEWS_OF_CONTIGUOUS = {"flatten", "reshape"}


def operator_name(node: Node) -> str:
    """``conv2d`` of ``aten.conv2d.default``; empty for an input."""
    if node.op != "call_function":
        return ""
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else str(node.target.__name__)


def graph_peak(network: nn.Module) -> int:
    """Values alive at the worst operator: element-wise ones overwrite an input that dies there, never the image."""
    program = torch.export.export(network, (torch.zeros(1, *SHAPE),))
    (images,) = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor | list | tuple)]
    place = {node: index for index, node in enumerate(program.graph.nodes)}
    root: dict[Node, Node | None] = {}  # whose memory a value is in; None for parameters
    last: dict[Node, int] = {}
    for node in nodes:
        name = operator_name(node)
        inputs = [value for value in node.all_input_nodes if value in root]
        is_view = name in VIEWS or (name in VIEWS_OF_CONTIGUOUS and inputs[0].meta["val"].is_contiguous())
        if node.op == "placeholder":
            root[node] = node if node.name == images else None
        else:
            root[node] = root[inputs[0]] if is_view else node
        source = root[node]
        if source is not None:
            uses = max((place[user] for user in node.users), default=place[node])
            last[source] = max(last.get(source, 0), uses)
    peak = 0
    for node in nodes:
        if root[node] is not node:
            continue
        now = place[node]
        alive = {value for value, end in last.items() if place[value] <= now <= end}
        if operator_name(node) in ELEMENT_WISE:
            overwritten = [
                source
                for value in node.all_input_nodes
                if (source := root.get(value)) is not None
                and source.name != images
                and last[source] == now
                and source.meta["val"].numel() == node.meta["val"].numel()
            ]
            alive -= set(overwritten[:1])
        peak = max(peak, sum(value.meta["val"].numel() for value in alive))
    return peak


def test_peak_memory_is_that_of_the_graph(supernet: Supernet) -> None:
    """Exactly, for every family that is walked: the same assumptions, from the graph instead of the plan."""
    for architecture, network in students(supernet):
        cost = supernet.space.cost(architecture)
        assert cost.peak_activation_bytes == 4 * graph_peak(network)
        assert cost.peak_activation_bytes_int8 == graph_peak(network)


def test_peak_memory_of_a_timm_network_bounds_that_of_the_graph() -> None:
    pytest.importorskip("timm")
    for model in ("test_resnet", "test_vit"):
        options = {"img_size": SHAPE[1], "patch_size": 4} if model == "test_vit" else {}
        net = build_supernet("timm", num_classes=5, input_shape=SHAPE, model=model, model_options=options)
        ((architecture, network),) = students(net)
        cost, peak = net.space.cost(architecture), graph_peak(network)
        assert peak <= cost.peak_activation_bytes_int8 <= 2.5 * peak
        assert cost.peak_activation_bytes == 4 * cost.peak_activation_bytes_int8


class Branches(nn.Module):
    """``x + 2`` and its double stay alive while the third is made; then an in-place step, and a view."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x + 2
        b = 2 * a
        c = (b.relu_().flatten(1) @ torch.ones(8, 16, device=x.device)).sum()
        return a.sum() + c


def test_traced_liveness_by_hand() -> None:
    """x: 8 values. a, b: 8 each; the product needs a, b, the ones (128) and its result (16)."""
    for device in ("cpu", "meta"):
        assert peak_elements(Branches(), torch.zeros(1, 8, device=device)) == 8 + 8 + 128 + 16
    layer = nn.Linear(8, 4)  # parameters are not activations
    assert peak_elements(layer, torch.zeros(2, 8)) == 16 + 8


def test_holding_nothing_inside_holding_something_forgets_nothing() -> None:
    meter, x = CostMeter(), Activation(4, 2, 2)
    with meter.holding(x):
        with meter.holding():
            pass
        meter.convolution(Activation(2, 2, 2), 3, 1)
    assert meter.cost().peak_activation_bytes_int8 == 16 + 8 + 12


# Weights


def int8_bytes(network: nn.Module) -> int:
    """By the documented formula, from the modules: batch norm is folded, all else of the state stays in float32."""
    total = 0
    for module in network.modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += module.weight.numel() + (4 + 4) * module.weight.shape[0]
        elif isinstance(module, Normalize):
            total += 2 * 4 * module.mean.numel()
        elif not isinstance(module, nn.BatchNorm2d):
            total += 4 * own
    return total


def test_weights_in_int8(supernet: Supernet) -> None:
    for architecture, network in students(supernet):
        assert supernet.space.cost(architecture).weight_bytes_int8 == int8_bytes(network)


def test_the_file_in_float16_is_bounded(supernet: Supernet, tmp_path: Path) -> None:
    """Closely: the bound lets every tensor have 160 bytes of header."""
    for architecture, network in students(supernet):
        state = {name: tensor.contiguous() for name, tensor in network.half().state_dict().items()}
        save_file(state, tmp_path / "half.safetensors")
        size, cost = (tmp_path / "half.safetensors").stat().st_size, supernet.space.cost(architecture)
        assert size <= cost.file_bytes_float16 <= size + 160 * (len(state) + 1)
        assert cost.file_bytes_float16 < cost.file_bytes


def test_sizes_of_a_timm_network(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    net = build_supernet("timm", num_classes=5, input_shape=(3, 32, 32), model="test_resnet")
    ((architecture, network),) = students(net)
    cost = net.space.cost(architecture)
    norms = sum(2 * m.weight.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert cost.weight_bytes_int8 == int8_bytes(network) + 4 * norms
    save_file(network.half().state_dict(), tmp_path / "half.safetensors")
    assert 0.9 * cost.file_bytes_float16 < (tmp_path / "half.safetensors").stat().st_size <= cost.file_bytes_float16


def test_costs_measured_by_default_against_the_walk(supernet: Supernet) -> None:
    """A family that describes its forward pass once gets the same sums, and upper bounds of the rest."""
    family = supernet.family
    for architecture, _ in students(supernet):
        meter = CostMeter()
        Family.measure(family, family.plan(architecture), meter, Activation(*family.input_shape))
        measured, walked = meter.cost(), supernet.space.cost(architecture)
        for name in ("multiply_adds", "parameters", "file_bytes", "file_bytes_float16"):
            assert getattr(measured, name) == getattr(walked, name)
        assert walked.peak_activation_bytes <= measured.peak_activation_bytes <= 3 * walked.peak_activation_bytes
        assert walked.weight_bytes_int8 <= measured.weight_bytes_int8 < measured.file_bytes


def test_a_measured_network_of_ones_own() -> None:
    meter = CostMeter()
    meter.add_measured(Counts(100, 10, 2, 3, counters=1, int8_bytes=40), peak_elements=50)
    cost = meter.cost()
    assert (cost.multiply_adds, cost.parameters, cost.weight_bytes_int8) == (100, 10, 40)
    assert (cost.peak_activation_bytes, cost.peak_activation_bytes_int8) == (200, 50)
    assert cost.file_bytes - cost.file_bytes_float16 == 2 * (10 + 2)


# Budgets


def test_a_microcontroller_budget() -> None:
    """An STM32F746-like device: int8 admits students that float32 does not, and every unit is read."""
    options: dict[str, Any] = {"width_multiplier": 0.5, "stem": "imagenet"}
    space = build_supernet("mobilenetv3", num_classes=10, input_shape=(3, 128, 128), **options).space
    cost = space.cost(space.smallest())
    assert Budget.parse("memory-int8", "266KB").admits(cost)
    assert not Budget.parse("memory", "266KB").admits(cost)
    assert Budget.parse("size-int8", "889KB").admits(cost)
    assert not Budget.parse("size", "889KB").admits(cost)
    assert Budget.parse("memory-int8", "266KB").name == "memory-int8-266KB"
