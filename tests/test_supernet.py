"""The supernet against closed forms, counts of the ProARD spaces, and PyTorch's own FLOP counter."""

from __future__ import annotations

import itertools
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from proard.common.errors import UserError
from proard.supernet import (
    Architecture,
    Decision,
    SearchSpace,
    Supernet,
    build_supernet,
    calibrate,
    families,
    require_calibrated,
)
from proard.supernet.family import ACTIVATIONS, ChannelGroup
from proard.supernet.supernet import leading_slice

# timm is optional: its family is tested where it is installed.
FAMILIES = [name for name in families.names() if name != "timm" or find_spec("timm")]
SHAPES = {"cifar": (3, 32, 32), "grey": (1, 28, 28), "tiny": (1, 8, 8), "odd": (4, 13, 17)}
SMALL = {
    "resnet": {"widths": (32, 48, 64), "blocks": (1, 2, 1), "depth_choices": (0, 1, 2)},
    "resnet50": {"widths": (64, 96), "blocks": (1, 2)},
    "mobilenetv3": {"depth_choices": (1, 2), "width_multiplier": 0.5},
    "proxyless": {"depth_choices": (1, 2), "width_multiplier": 0.5},
    "mobilenetv2": {"depth_choices": (1, 2), "width_multiplier": 0.5, "kernel_transform": False},
    "timm": {"model": "test_resnet"},
    "vit": {"width_choices": (16, 24), "depth_choices": (1, 3), "heads_choices": (1, 2), "head_channels": 8},
}
# Every option of a family, beside its defaults; a family that is not named here is tested with its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "resnet": [{"stem": "imagenet"}, {"activation": "silu", "dropout": 0.2}],
    "resnet50": [{"stem": "imagenet"}],
    "mobilenetv3": [{"stem": "imagenet"}, {"squeeze_excitation": False, "activation": "relu6"}],
    "proxyless": [{"stem": "imagenet"}, {"squeeze_excitation": True, "activation": "silu"}],
    "mobilenetv2": [{"kernel_choices": (3,), "width_multiplier": 1.4}],
    "timm": [
        {"model": "test_efficientnet"},
        {"model": "test_vit", "model_options": {"dynamic_img_size": True, "dynamic_img_pad": True}},
    ],
    "vit": [{"stem": "patch", "pool": "token"}, {"patch_size": 2, "activation": "silu"}],
}
EVERY_OPTION = [(family, options) for family in FAMILIES for options in ({}, *VARIANTS.get(family, []))]


@pytest.fixture(params=FAMILIES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A small supernet of every family, in float64 where equality matters."""
    options = {
        **({"dropout": 0.0} if "dropout" in families.parameters(request.param) else {}),
        **SMALL.get(request.param, {}),
    }
    return build_supernet(request.param, num_classes=5, input_shape=(3, 16, 16), **options).double()


def architectures(space: SearchSpace, count: int = 20) -> list[Architecture]:
    rng = random.Random(0)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Golden counts: multiply-adds and parameters of the authors' spaces, counted on their networks.
@pytest.mark.parametrize(
    ("family", "classes", "which", "multiply_adds", "parameters"),
    [
        ("resnet50", 10, "largest", 2358.014, 46_077_482),
        ("resnet50", 10, "smallest", 285.232, 5_223_570),
        ("resnet50", 10, "middle", 777.122, 14_236_178),
        ("resnet50", 100, "largest", 2358.198, 46_261_892),
        ("resnet50", 100, "smallest", 285.352, 5_343_180),
        ("mobilenetv3", 10, "largest", 179.707, 6_396_570),
        ("mobilenetv3", 10, "smallest", 35.294, 2_142_602),
        ("mobilenetv3", 100, "largest", 179.822, 6_511_860),
        ("mobilenetv3", 100, "smallest", 35.409, 2_257_892),
        ("proxyless", 10, "largest", 187.835, 3_835_146),
        ("proxyless", 10, "smallest", 42.462, 1_232_442),
        ("proxyless", 100, "largest", 187.950, 3_950_436),
        ("proxyless", 100, "smallest", 42.577, 1_347_732),
        ("mobilenetv2", 10, "largest", 161.511, 3_072_266),
        ("mobilenetv2", 10, "smallest", 36.731, 1_051_978),
        ("mobilenetv2", 100, "largest", 161.626, 3_187_556),
        ("mobilenetv2", 100, "smallest", 36.846, 1_167_268),
    ],
)
def test_spaces_of_the_paper(family: str, classes: int, which: str, multiply_adds: float, parameters: int) -> None:
    space = families.build(family, {"num_classes": classes, "input_shape": (3, 32, 32)}).space()
    middle = space.canonical({decision.name: decision.choices[1] for decision in space.decisions})
    architecture = {"largest": space.largest(), "smallest": space.smallest(), "middle": middle}[which]
    cost = space.cost(architecture)
    assert round(cost.multiply_adds / 1e6, 3) == multiply_adds
    assert cost.parameters == parameters


def test_resnet50_channels_of_the_paper() -> None:
    family = families.build("resnet50", {"num_classes": 10, "input_shape": (3, 32, 32)})
    space = family.space()
    kinds = [decision.kind for decision in space.decisions]
    assert [kinds.count(kind) for kind in ("width", "depth", "expand")] == [6, 5, 18]

    def channels(architecture: Architecture) -> tuple[list[int], list[tuple[int, int, int]]]:
        plan = family.plan(architecture)
        stem = [block.convolutions[0].outputs for _, block in plan.stem]
        blocks = [block.convolutions for stage in plan.stages for block in stage]
        return stem, [(c[1].outputs, c[0].inputs, c[2].outputs) for c in blocks]

    assert channels(space.smallest()) == (
        [24, 40],
        [
            *[(32, 40, 168), (32, 168, 168), (64, 168, 336), (64, 336, 336), (136, 336, 664)],
            *[(136, 664, 664)] * 3,
            *[(264, 664, 1328), (264, 1328, 1328)],
        ],
    )
    stem, blocks = channels(space.largest())
    assert stem == [32, 32, 64]
    assert (blocks[0], blocks[-1], len(blocks)) == ((88, 64, 256), (720, 2048, 2048), 18)
    stem, blocks = channels(space.canonical({decision.name: decision.choices[1] for decision in space.decisions}))
    assert stem == [24, 48]
    assert blocks[:4] == [(56, 48, 208), (56, 208, 208), (56, 208, 208), (104, 208, 408)]
    assert blocks[-1] == (408, 1640, 1640)


def test_resnet_reaches_every_budget_of_small_devices() -> None:
    space = build_supernet("resnet", num_classes=10, input_shape=(3, 32, 32)).space
    assert space.cost(space.smallest()).multiply_adds <= 20e6
    assert space.cost(space.largest()).multiply_adds >= 500e6
    rng = random.Random(0)
    costs = [space.cost(space.sample(rng)).multiply_adds for _ in range(3000)]
    for budget in (25e6, 50e6, 100e6, 200e6, 340e6):
        assert any(0.9 * budget <= cost <= budget for cost in costs), budget
    assert 0.9 * 400e6 <= space.cost(_shrink_to(space, 400e6)).multiply_adds <= 400e6


def _shrink_to(space: SearchSpace, budget: float) -> Architecture:
    from proard.search.selection import fit

    return fit(space, space.largest(), lambda a: space.cost(a).multiply_adds <= budget, random.Random(0))


def counted(network: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds of all the images, by PyTorch's counter.

    Attention runs as two matrix products: what the counter knows of its fused kernels depends on PyTorch's version and
    on the processor (of the one for CPUs it counts nothing).
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(images)
    return counter.get_total_flops() // 2


def test_torch_counts_both_products_of_attention() -> None:
    """The oracle itself: with nothing of attention counted, 2 queries by 3 keys of 4 channels would cost 0."""

    class Attention(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(tokens[..., :2, :], tokens, tokens)

    assert counted(Attention(), torch.rand(1, 1, 3, 4)) == 2 * (2 * 3 * 4)


@pytest.mark.parametrize(("family", "options"), EVERY_OPTION, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_costs_are_those_that_torch_counts(family: str, options: dict[str, Any], shape: str) -> None:
    settings = {**SMALL.get(family, {}), **options}
    supernet = build_supernet(family, num_classes=7, input_shape=SHAPES[shape], **settings)
    for architecture in architectures(supernet.space, 4):
        student = supernet.student(architecture).eval()
        batch = images(2, *SHAPES[shape], dtype=torch.float32)
        cost = supernet.space.cost(architecture)
        assert student(batch).shape == (2, 7)
        assert counted(student, batch) == 2 * cost.multiply_adds
        assert sum(parameter.numel() for parameter in student.parameters()) == cost.parameters


def test_default_spaces_cost_what_torch_counts() -> None:
    for name in FAMILIES:
        family = families.build(name, {"num_classes": 10, "input_shape": (3, 32, 32)})
        for architecture in architectures(space := family.space(), 1):
            with torch.device("meta"):
                network = family.network(family.plan(architecture)).eval()
                batch = torch.zeros(2, 3, 32, 32)  # batch norm wants two values per channel
            assert counted(network, batch) == 2 * space.cost(architecture).multiply_adds


def test_largest_resnet_is_resnet18() -> None:
    """At 224 pixels: torchvision's ResNet-18, but for a 3x3 first convolution and a projection in the first stage."""
    from torchvision.models import resnet18

    space = families.build("resnet", {"num_classes": 1000, "input_shape": (3, 224, 224), "stem": "imagenet"}).space()
    with torch.device("meta"):
        reference, image = resnet18(), torch.zeros(1, 3, 224, 224)
    projection, stem = 64 * 64 * 56 * 56, 64 * 3 * (7 * 7 - 3 * 3) * 112 * 112
    assert space.cost(space.largest()).multiply_adds == counted(reference, image) + projection - stem


def test_peak_activation_memory_by_hand() -> None:
    """One basic block after the stem; float32, batch 1; the largest moment is worked out on paper."""
    options = {"widths": (8,), "blocks": (1,), "depth_choices": (0,), "width_choices": (1.0,), "expand_choices": (1.0,)}
    space = build_supernet("resnet", num_classes=2, input_shape=(1, 8, 8), **options).space
    # While the block's second convolution runs, the block's input (for the projection), its input and its output are
    # alive: three tensors of 8 x 8 x 8; so are they while the projection runs.
    assert space.cost(space.largest()).peak_activation_bytes == 4 * 3 * 8 * 8 * 8


def test_student_equals_extracted(supernet: Supernet) -> None:
    batches = [images(6, 3, 16, 16, seed=seed) for seed in (1, 2)]
    x = images(4, 3, 16, 16)
    for architecture in architectures(supernet.space, 6):
        student, fixed = supernet.student(architecture), supernet.extract(architecture, batches)
        assert not fixed.training
        calibrate(student, batches)
        torch.testing.assert_close(student.eval()(x), fixed(x), rtol=0, atol=0)
        torch.testing.assert_close(student.train()(x), fixed.train()(x), rtol=0, atol=0)
        names = dict(supernet.named_parameters())
        for name, parameter in student.named_parameters():
            assert parameter.is_contiguous()
            assert torch.equal(parameter, leading_slice(names[name], parameter.shape))


def test_largest_student_is_the_static_network(supernet: Supernet) -> None:
    network = supernet.family.network(supernet.family.plan(supernet.space.largest())).double()
    network.load_state_dict({name: supernet.state_dict()[name] for name in network.state_dict()})
    x = images(4, 3, 16, 16)
    torch.testing.assert_close(supernet.student(supernet.space.largest())(x), network(x), rtol=0, atol=0)


def test_gradients_add_up_in_the_slice_and_are_zero_outside(supernet: Supernet) -> None:
    x = images(4, 3, 16, 16)
    for architecture in architectures(supernet.space, 3):
        supernet.zero_grad()
        students = [supernet.student(architecture), supernet.student(architecture)]
        for student in students:
            student(x).square().sum().backward()
            supernet.accumulate(student)
        gradients = {name: parameter.grad for name, parameter in students[0].named_parameters()}
        for name, parameter in supernet.named_parameters():
            if name not in gradients:
                assert parameter.grad is None or name.startswith("kernel_transforms.")
                continue
            inside = leading_slice(parameter.grad, gradients[name].shape)
            torch.testing.assert_close(inside, 2 * gradients[name], rtol=1e-12, atol=1e-12)
            outside = parameter.grad.clone()
            leading_slice(outside, gradients[name].shape).zero_()
            assert not outside.any()


def elastic_kernels() -> Supernet:
    """A supernet whose kernel transforms are not identities."""
    supernet = build_supernet("mobilenetv3", num_classes=3, input_shape=(1, 8, 8), dropout=0.0, **SMALL["mobilenetv3"])
    supernet.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.kernel_transforms.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return supernet


def test_kernel_transform_by_hand() -> None:
    supernet = elastic_kernels()
    name = "blocks.1.0.depthwise.convolution.weight"
    space = supernet.space
    full = supernet.get_parameter(name)
    steps = supernet.kernel_transforms[name.replace(".", "/")]
    five = (full[:, 0, 1:6, 1:6].flatten(1) @ (torch.eye(25) + steps.from_7_to_5).t()).view(-1, 5, 5)
    three = (five[:, 1:4, 1:4].flatten(1) @ (torch.eye(9) + steps.from_5_to_3).t()).view(-1, 3, 3)
    for size, expected in ((7, full[:, 0]), (5, five), (3, three)):
        architecture = space.canonical({**space.largest(), "stage1.block1.kernel": size})
        kernel = supernet.student(architecture).get_parameter(name)
        torch.testing.assert_close(kernel[:, 0], expected)
        narrow = space.canonical({**architecture, "stage1.block1.expand": 3})
        kernel = supernet.student(narrow).get_parameter(name)
        torch.testing.assert_close(kernel[:, 0], expected[: len(kernel)])


def test_gradient_through_the_kernel_transform_against_finite_differences() -> None:
    supernet = elastic_kernels()
    x = images(3, 1, 8, 8)
    architecture = supernet.space.smallest()

    def loss() -> torch.Tensor:
        return supernet.student(architecture)(x).square().sum()

    for _ in range(2):  # gradients add up
        student = supernet.student(architecture)
        student(x).square().sum().backward()
        supernet.accumulate(student)
    name = "blocks.1.0.depthwise.convolution.weight"
    for target, entry in (
        (supernet.get_parameter(name), (0, 0, 3, 3)),
        (supernet.get_parameter(name), (1, 0, 2, 4)),
        (supernet.kernel_transforms[name.replace(".", "/")].from_7_to_5, (12, 11)),
        (supernet.kernel_transforms[name.replace(".", "/")].from_5_to_3, (4, 7)),
    ):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                target[entry] += step
                values.append(loss().item())
                target[entry] -= step
        assert abs((values[0] - values[1]) / 2e-6 * 2 - target.grad[entry].item()) < 1e-4
    outside = supernet.get_parameter(name).grad
    assert not outside[24:].any()


def test_plain_crops_have_no_transform() -> None:
    supernet = build_supernet("mobilenetv3", num_classes=3, input_shape=(1, 8, 8), kernel_transform=False)
    assert not list(supernet.kernel_transforms.parameters())


def test_heads_slice_whole() -> None:
    """A student with fewer heads computes what the larger one computes with its last heads silenced."""
    supernet = build_supernet("vit", num_classes=3, input_shape=(1, 8, 8), **SMALL["vit"]).double()
    space = supernet.space
    wide = supernet.student(space.largest())
    with torch.no_grad():
        for block in wide.blocks:
            block.attention.output.weight[:, 8:] = 0  # what reads the second head, of 8 channels
    narrow = space.canonical({n: 1 if n.endswith("heads") else v for n, v in space.largest().items()})
    x = images(2, 1, 8, 8)
    torch.testing.assert_close(supernet.student(narrow)(x), wide(x))


def test_micro_controllers_have_a_space() -> None:
    options = {"width_multiplier": 0.5, "expand_choices": (2, 3), "kernel_choices": (3,), "depth_choices": (1, 2)}
    space = families.build("mobilenetv2", {"num_classes": 10, "input_shape": (3, 32, 32), **options}).space()
    cost = space.cost(space.smallest())
    assert cost.multiply_adds < 10e6
    assert cost.parameters < 300e3


def test_vit_spans_small_devices() -> None:
    space = families.build("vit", {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
    assert space.cost(space.smallest()).multiply_adds <= 20e6
    assert space.cost(space.largest()).multiply_adds >= 350e6


def test_slicing_takes_the_centre_of_kernels() -> None:
    kernel = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    assert torch.equal(leading_slice(kernel, (1, 2, 3, 3)), kernel[:1, :2, 1:4, 1:4])
    embedding = torch.arange(24).view(1, 4, 6)
    assert torch.equal(leading_slice(embedding, (1, 4, 3)), embedding[..., :3])


def test_students_are_independent(supernet: Supernet) -> None:
    architecture = supernet.space.smallest()
    first, second = supernet.student(architecture), supernet.student(architecture)
    before = [{n: tensor.clone() for n, tensor in network.state_dict().items()} for network in (second, supernet)]
    with torch.no_grad():
        for tensor in (*first.parameters(), *first.buffers()):
            tensor.fill_(7.0)
    for network, tensors in zip((second, supernet), before, strict=True):
        assert tensors
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def test_cutting_and_adding_back_take_few_operators(supernet: Supernet) -> None:
    """On a GPU each is a launch; where kernels have transforms, those come on top."""
    student = supernet.student(supernet.space.smallest())
    for network in (student, supernet):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
    supernet.kernel_transforms.clear()
    with Operators() as cut:
        supernet.student(supernet.space.smallest())
    with Operators() as added:
        supernet.accumulate(student)
    assert 1 <= cut.names.count("_foreach_copy_") <= 2
    assert 1 <= added.names.count("_foreach_add_") <= 2
    assert not {"clone", "copy_", "add_", "add"} & {*cut.names, *added.names}


def test_names_of_students_are_names_of_the_supernet(supernet: Supernet) -> None:
    names = set(supernet.state_dict())
    for architecture in architectures(supernet.space):
        assert set(supernet.student(architecture).state_dict()) <= names


def test_sorting_channels_keeps_the_largest_and_puts_the_most_important_first(supernet: Supernet) -> None:
    x = images(4, 3, 16, 16)
    largest = supernet.space.largest()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    before = supernet.student(largest)(x)
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    def importance(group: ChannelGroup) -> torch.Tensor:
        return torch.stack([weights[n].abs().transpose(0, 1).flatten(1).sum(1) for n in group.readers]).sum(0)

    groups = supernet.family.channel_groups()
    unsorted = [importance(group) for group in groups]
    supernet.sort_channels({"width", "expand"})
    weights = supernet.state_dict()
    torch.testing.assert_close(supernet.student(largest)(x), before, rtol=1e-9, atol=1e-9)
    assert groups or not supernet.space.decisions
    for group, was in zip(groups, unsorted, strict=True):
        torch.testing.assert_close(importance(group), was.sort(descending=True).values)


def test_sorting_leaves_axes_that_were_cut_before(supernet: Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    # Where there is a width, the middle channels of a block follow it: they were cut with it.
    supernet.sort_channels({"expand"}, unlocked={"width"} if "width" in supernet.space.kinds else {"expand"})
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_calibration_is_the_average_over_batches() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).double()
    batches = [images(5, 1, 6, 6, seed=seed) for seed in range(3)]
    calibrate(network, [(batch, torch.zeros(5)) for batch in batches])
    features = [network[0](batch) for batch in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.transpose(0, 1).flatten(1).var(1) for f in features]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert network.training
    assert network[1].momentum == 0.1


def test_uncalibrated_students_are_refused(supernet: Supernet) -> None:
    student = supernet.student(supernet.space.smallest())
    with pytest.raises(UserError, match="no statistics"):
        require_calibrated(student)
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(student, [])
    with pytest.raises(UserError, match="no statistics"):
        require_calibrated(student)
    require_calibrated(supernet.extract(supernet.space.smallest(), [images(4, 3, 16, 16)]))


def test_a_supernet_has_no_forward_pass(supernet: Supernet) -> None:
    with pytest.raises(TypeError, match="one student at a time"):
        supernet(images(1, 3, 16, 16))


def test_building_is_deterministic_and_leaves_the_global_random_state() -> None:
    state = torch.get_rng_state()
    nets = [
        build_supernet("resnet", num_classes=3, input_shape=(1, 8, 8), seed=seed, widths=(8,), blocks=(1,))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("family", FAMILIES)
def test_export_computes_the_same_for_any_batch_size(family: str, tmp_path: Path) -> None:
    supernet = build_supernet(family, num_classes=5, input_shape=(3, 16, 16), **SMALL.get(family, {}))
    x = images(7, 3, 16, 16, dtype=torch.float32)
    student = supernet.extract(supernet.space.sample(random.Random(1)), [x])
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(student, (x[:2],), dynamic_shapes=dynamic), tmp_path / "student.pt2")
    program = torch.export.load(tmp_path / "student.pt2").module()
    for count in (1, 7):
        torch.testing.assert_close(program(x[:count]), student(x[:count]), rtol=1e-5, atol=1e-5)


def test_wrong_options_are_named() -> None:
    for options, message in (
        ({"family": "resnt"}, "unknown family 'resnt'; did you mean 'resnet'?"),
        ({"width": (8,)}, "no option 'width'; did you mean 'widths'?"),
        ({"widths": (8, 16)}, "one entry per stage"),
        ({"num_classes": 1}, "at least 2"),
        ({"activation": "tanh"}, "'relu', 'relu6'"),
        ({"std": (0.0,)}, "std must be positive"),
    ):
        arguments = {"family": "resnet", "num_classes": 10, "input_shape": (3, 32, 32), **options}
        with pytest.raises(UserError, match=message.replace("?", r"\?")) as caught:
            build_supernet(arguments.pop("family"), **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("activation", ["relu", "relu6", "hswish", "silu"])
def test_activations(activation: str) -> None:
    supernet = build_supernet(
        "resnet", num_classes=3, input_shape=(1, 8, 8), activation=activation, widths=(8,), blocks=(1,)
    )
    student = supernet.student(supernet.space.largest())
    student(images(2, 1, 8, 8, dtype=torch.float32)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


@pytest.mark.parametrize("name", ["relu", "relu6", "hswish", "silu"])
def test_activations_in_place_without_a_copy_for_autograd(name: str) -> None:
    module = ACTIVATIONS[name](inplace=True)
    with torch.no_grad():
        values = images(2, 3)
        assert module(values).data_ptr() == values.data_ptr()
    leaf = images(2, 3).requires_grad_()
    with Operators() as ran:
        found = module(leaf * 1)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
    assert "clone" not in ran.names
    plain = ACTIVATIONS[name]()(leaf)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.sum(), leaf)[0])


# ---------------------------------------------------------------------------------------------------------------------
# Spaces


def tiny_space() -> SearchSpace:
    return SearchSpace(
        [
            Decision("width", "width", (0.5, 0.75, 1.0), same=((0.75, 0.5),)),
            Decision("depth", "depth", (1, 2, 3)),
            Decision("block1", "expand", (2, 4)),
            Decision("block2", "expand", (2, 4), requires=("depth", 2)),
            Decision("block3", "expand", (2, 3, 4), requires=("depth", 3)),
        ],
        cost=lambda architecture: None,  # type: ignore[arg-type,return-value]
    )


def test_size_against_brute_force() -> None:
    space = tiny_space()
    products = itertools.product(*(decision.choices for decision in space.decisions))
    names = [decision.name for decision in space.decisions]
    different = {space.canonical(dict(zip(names, values, strict=True))) for values in products}
    assert space.size == len(different) == 2 * 2 * (1 + 2 + 2 * 3)
    assert space.unlocked({"depth"}).size == 3
    assert space.unlocked(()).size == 1


def test_equal_networks_are_equal_architectures() -> None:
    """Different canonical architectures of a small space build different plans."""
    options = {"widths": (256, 512), "blocks": (1, 1), "num_classes": 10, "input_shape": (3, 32, 32)}
    family = families.build("resnet50", {**options, "depth_choices": (0, 1)})
    space = family.space()
    rng = random.Random(0)
    sampled = {space.sample(rng) for _ in range(2000)}
    assert len({family.plan(architecture) for architecture in sampled}) == len(sampled)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_networks_are_equal_architectures_by_default(family: str) -> None:
    described = families.build(family, {"num_classes": 10, "input_shape": (3, 32, 32)})
    space = described.space().unlocked({kind for kind in described.space().kinds if kind != "depth"})
    smallest = dict(space.smallest())
    for decision in space.decisions:  # one decision at a time, where everything else is narrow
        if decision.kind != "depth":
            plans = {described.plan(space.canonical({**smallest, decision.name: c})) for c in decision.distinct}
            assert len(plans) == len(decision.distinct), decision.name


def test_architectures_are_values(supernet: Supernet) -> None:
    for architecture in architectures(supernet.space):
        again = Architecture.from_json(architecture.to_json())
        assert again == architecture
        assert hash(again) == hash(architecture)
        assert supernet.space.canonical(architecture) == architecture
        assert all(name in architecture.to_json() for name in architecture)
    with pytest.raises(AttributeError):
        supernet.space.largest().decisions = ()  # type: ignore[misc]


def test_sampling_is_seeded_and_covers_every_choice() -> None:
    space = tiny_space()
    first, second = ([space.sample(random.Random(seed)) for seed in range(200)] for _ in range(2))
    assert first == second
    for decision in space.decisions:
        assert {a[decision.name] for a in first if decision.name in a} == set(decision.distinct)


def test_mutation_and_crossover_stay_in_the_space() -> None:
    space = tiny_space()
    rng = random.Random(0)
    for _ in range(300):
        a, b = space.sample(rng), space.sample(rng)
        mutant, child = space.mutate(a, rng, 0.5), space.crossover(a, b, rng)
        assert space.canonical(mutant) == mutant
        for name, value in child.items():
            assert value in {parent[name] for parent in (a, b) if name in parent}
    assert space.mutate(space.largest(), rng, 0.0) == space.largest()


def test_encoding_tells_architectures_apart() -> None:
    space = tiny_space()
    everything = {space.sample(random.Random(seed)) for seed in range(2000)}
    assert len(everything) == space.size
    codes = {tuple(space.encode(architecture)) for architecture in everything}
    assert len(codes) == space.size
    assert len({len(code) for code in codes}) == 1


def test_wrong_architectures_are_named() -> None:
    space = tiny_space()
    values = {decision.name: decision.choices[-1] for decision in space.decisions}
    for change, message in (
        ({"widht": 1}, "unknown decision 'widht'; did you mean 'width'?"),
        ({"width": 0.6}, "width = 0.6 is not one of 0.5, 0.75, 1"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            space.canonical({**values, **change})
    values.pop("depth")
    with pytest.raises(UserError, match="'depth' is missing"):
        space.canonical(values)
    for text in ("[1]", "{", '{"a": "b"}'):
        with pytest.raises(UserError, match="architecture"):
            Architecture.from_json(text)
    with pytest.raises(UserError, match="unknown kind of decision 'kernel'"):
        space.unlocked({"kernel"})
