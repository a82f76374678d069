"""Mobile families: ``mobilenetv3``, ``proxyless`` and ``mobilenetv2``, the spaces of ProARD and Once-for-All.

Depth is chosen per stage, kernel size and expansion per block, of the network in ``mobilenet.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from proard.supernet.architecture import Architecture, Decision
from proard.supernet.cost import Activation, CostMeter
from proard.supernet.families.mobilenet import BlockSpec, MobileNet, MobileNetPlan
from proard.supernet.family import ChannelGroup, Family, families, round_channels

TENSORS = ("convolution.weight", "norm.weight", "norm.bias")


@dataclass(frozen=True)
class MobileNetFamily(Family):
    """Options of all mobile networks.

    Attributes:
        depth_choices: blocks per stage.
        kernel_choices: odd sides of the depthwise kernels.
        expand_choices: channels inside a block, relative to its input's.
        kernel_transform: derive smaller kernels by learned matrices (Once-for-All, section 3.3); else centre crops.
        width_multiplier: factor on every channel count outside of blocks, in [0.1, 2].
        activation: for the whole network; default the family's own.
        squeeze_excitation: default the family's own.
        stem: ``cifar`` (first halving in the second stage), or ``imagenet`` (two halvings before).
        dropout: before the classifier.
    """

    depth_choices: tuple[int, ...] = (2, 3, 4)
    kernel_choices: tuple[int, ...] = (3, 5, 7)
    expand_choices: tuple[float, ...] = (3, 4, 6)
    kernel_transform: bool = True
    width_multiplier: float = 1.0
    activation: Literal["relu", "relu6", "hswish", "silu"] | None = None
    squeeze_excitation: bool | None = None
    stem: Literal["cifar", "imagenet"] = "cifar"
    dropout: float = 0.1

    # The family's own: stem and first block, stages (a last stage of `single` blocks has no depth choice), head.
    first: ClassVar[tuple[int, int]]
    widths: ClassVar[tuple[int, ...]]
    strides: ClassVar[tuple[int, ...]]
    single_last: ClassVar[bool] = False
    activations: ClassVar[tuple[str, ...]]  # of every stage, and last of stem and head
    attention: ClassVar[tuple[bool, ...]]
    head: ClassVar[tuple[int, int]]  # before and after pooling; 0 is no second layer

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda kernel: kernel % 2 == 1 and kernel >= 1, "odd", "kernel_choices")
        self.require_positive("depth_choices", "expand_choices")
        self.require(lambda factor: 0.1 <= factor <= 2, "in [0.1, 2]", "width_multiplier")
        self.require_fraction("dropout")

    def decisions(self) -> list[Decision]:
        """Per stage: depth, and kernel and expansion of every block."""
        decisions = []
        for stage, name, depths in self._stages():
            depth = f"{name}.depth"
            if len(depths) > 1 or not (self.single_last and stage == len(self.widths) - 1):
                decisions.append(Decision(depth, "depth", depths))
            for block in range(1, depths[-1] + 1):
                needs = (depth, block) if block > depths[0] else None
                decisions.append(Decision(f"{name}.block{block}.kernel", "kernel", self.kernel_choices, needs))
                decisions.append(Decision(f"{name}.block{block}.expand", "expand", self.expand_choices, needs))
        return decisions

    def plan(self, architecture: Architecture) -> MobileNetPlan:
        """Channel counts of every block."""
        chosen = dict(architecture.decisions)
        stem, channels = self._scaled(self.first[0]), self._scaled(self.first[1])
        stem_stride = 2 if self.stem == "imagenet" else 1  # of the first convolution, and of the first stage
        activations = [self.activation or own for own in self.activations]
        attention = [own if self.squeeze_excitation is None else self.squeeze_excitation for own in self.attention]
        fixed = BlockSpec(stem, stem, channels, 3, 1, activations[0], 0, expands=False)
        stages: list[tuple[BlockSpec, ...]] = [(fixed,)]
        for stage, name, depths in self._stages():
            outputs, blocks = self._scaled(self.widths[stage]), []
            for block in range(1, int(chosen.get(f"{name}.depth", depths[-1])) + 1):
                expanded = round_channels(channels * chosen[f"{name}.block{block}.expand"])
                blocks.append(
                    BlockSpec(
                        channels,
                        expanded,
                        outputs,
                        int(chosen[f"{name}.block{block}.kernel"]),
                        (stem_stride if stage == 0 else self.strides[stage]) if block == 1 else 1,
                        activations[stage],
                        round_channels(expanded // 4) if attention[stage] else 0,
                    )
                )
                channels = outputs
            stages.append(tuple(blocks))
        head = self._scaled(self.head[0]), self._scaled(self.head[1]) if self.head[1] else 0
        return MobileNetPlan(self.input_shape[0], stem_stride, tuple(stages), head, activations[-1])

    def measure(self, plan: MobileNetPlan, meter: CostMeter, images: Activation) -> None:
        """Walk the plan as the forward pass does."""
        x = meter.normalize(images)
        with meter.block("stem"):
            x = meter.convolution(x, plan.stages[0][0].inputs, 3, plan.stride)
        blocks = ((f"blocks.{s}.{b}", spec) for s, stage in enumerate(plan.stages) for b, spec in enumerate(stage))
        for name, spec in blocks:
            with meter.block(name, spec.activation), meter.holding(*[x] * spec.residual):
                y = meter.convolution(x, spec.expanded, 1) if spec.expands else x
                y = meter.convolution(y, spec.expanded, spec.kernel, spec.stride, groups=spec.expanded)
                if spec.squeezed:
                    with meter.holding(y):
                        z = meter.convolution(meter.global_pool(y), spec.squeezed, 1, bias=True, batch_norm=False)
                        meter.convolution(z, spec.expanded, 1, bias=True, batch_norm=False)
                x = meter.convolution(y, spec.outputs, 1)
        before, after = plan.head
        with meter.block("features"):
            x = meter.convolution(x, before, 1)
        x = meter.global_pool(x)
        if after:
            with meter.block("head"):
                x = meter.convolution(x, after, 1, batch_norm=False)
        meter.linear(x, self.num_classes)

    def network(self, plan: MobileNetPlan) -> MobileNet:
        """The static network of a plan."""
        return MobileNet(plan, self.normalize(), self.dropout, self.num_classes)

    def channel_groups(self) -> list[ChannelGroup]:
        """The expanded channels of every block, and the squeezed ones of its attention."""
        groups = []
        for name, spec in self._named_blocks():
            inside = tuple(f"{name}.{layer}.{part}" for layer in ("expand", "depthwise") for part in TENSORS)
            readers: tuple[str, ...] = (f"{name}.project.convolution.weight",)
            if spec.squeezed:
                squeeze, excite = f"{name}.attention.squeeze", f"{name}.attention.excite"
                inside += (f"{excite}.weight", f"{excite}.bias")
                readers += (f"{squeeze}.weight",)
                squeezed = (f"{squeeze}.weight", f"{squeeze}.bias")
                groups.append(ChannelGroup(frozenset({"expand"}), squeezed, (f"{excite}.weight",)))
            groups.append(ChannelGroup(frozenset({"expand"}), inside, readers))
        return groups

    def elastic_kernels(self) -> dict[str, tuple[int, ...]]:
        """The depthwise kernels, unless plain centre crops are wanted."""
        if not self.kernel_transform or len(self.kernel_choices) == 1:
            return {}
        return {f"{name}.depthwise.convolution.weight": self.kernel_choices for name, _ in self._named_blocks()}

    def _scaled(self, channels: int) -> int:
        return round_channels(channels * self.width_multiplier)

    def _stages(self) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        for stage in range(len(self.widths)):
            single = self.single_last and stage == len(self.widths) - 1
            yield stage, f"stage{stage + 1}", (1,) if single else self.depth_choices

    def _named_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """Every elastic block of the largest network, with its module's name."""
        plan = self.plan(self.space().largest())
        for stage, blocks in enumerate(plan.stages[1:], start=1):
            yield from ((f"blocks.{stage}.{index}", block) for index, block in enumerate(blocks))


@families.register("mobilenetv3")
@dataclass(frozen=True)
class MobileNetV3Family(MobileNetFamily):
    """MobileNetV3-Large (arXiv 1905.02244) as an elastic space, as in Once-for-All and ProARD."""

    first = (16, 16)
    widths = (24, 40, 80, 112, 160)
    strides = (1, 2, 2, 1, 2)
    activations = ("relu", "relu", "hswish", "hswish", "hswish", "hswish")
    attention = (False, True, False, True, True)
    head = (960, 1280)


@families.register("proxyless")
@dataclass(frozen=True)
class ProxylessFamily(MobileNetFamily):
    """The ProxylessNAS backbone (arXiv 1812.00332)."""

    first = (32, 16)
    widths = (24, 40, 80, 96, 192, 320)
    strides = (1, 2, 2, 1, 2, 1)
    single_last = True
    activations = ("relu6",) * 7
    attention = (False,) * 6
    head = (1280, 0)


@families.register("mobilenetv2")
@dataclass(frozen=True)
class MobileNetV2Family(ProxylessFamily):
    """MobileNetV2 (arXiv 1801.04381): the proxyless space with its widths."""

    widths = (24, 32, 64, 96, 160, 320)
