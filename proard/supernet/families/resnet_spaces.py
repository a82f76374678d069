"""The residual spaces: ``resnet`` for small devices, and ``resnet50``, that of the ProARD paper.

Width is chosen per stage (and stem layer), depth per stage, and expansion (the width inside a block relative to the
stage's) per block. The two differ in their stem and blocks; the network is in ``resnet.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from proard.supernet.architecture import Architecture, Decision
from proard.supernet.cost import Activation, CostMeter
from proard.supernet.families.resnet import BlockSpec, ConvolutionSpec, ResNet, ResNetPlan
from proard.supernet.family import ChannelGroup, Family, families, round_channels


@families.register("resnet")
@dataclass(frozen=True)
class ResNetFamily(Family):
    """A residual network of basic blocks, for images from 8x8 up; its largest student is a ResNet-18.

    Attributes:
        widths: channels of each stage; the stem has those of the first. Strides are 1, 2, 2 ...
        blocks: blocks that every student has in each stage.
        depth_choices: blocks added to those, per stage.
        width_choices: factors on the channels of the stem and of each stage, at most 1.
        expand_choices: channels inside a block, relative to its stage's.
        activation: relu, relu6, hswish or silu.
        stem: ``cifar`` (stride 1), ``strided`` (stride 2: a quarter of the work), or ``imagenet`` (stride 2 and a
            max-pooling layer).
        dropout: before the classifier.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    depth_choices: tuple[int, ...] = (0, 1)
    width_choices: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    expand_choices: tuple[float, ...] = (0.5, 0.75, 1.0)
    activation: Literal["relu", "relu6", "hswish", "silu"] = "relu"
    stem: Literal["cifar", "strided", "imagenet"] = "cifar"
    dropout: float = 0.0

    # Finer than elsewhere: multiples of 8 would make one network of two expansions of a narrow stage.
    middle_divisor: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks need one entry per stage each, got {self.widths} and {self.blocks}")
        if min(self.blocks) < 1 or min(self.widths) < 1 or min(self.depth_choices, default=-1) < 0:
            raise ValueError("widths and blocks must be at least 1, depth_choices at least 0")
        self.require_positive("width_choices", "expand_choices")
        self.require_fraction("dropout")

    def decisions(self) -> list[Decision]:
        """Width of the stem and, per stage, width, depth and the expansion of every block."""
        return [*self._stem_decisions(), *self._stage_decisions()]

    def plan(self, architecture: Architecture) -> ResNetPlan:
        """Channel counts of every block."""
        chosen = dict(architecture.decisions)
        stem, channels = self._stem_plan(chosen)
        stages = []
        for stage, (width, base) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            outputs = round_channels(width * chosen[f"stage{stage}.width"])
            blocks = []
            for block in range(1, base + int(chosen[f"stage{stage}.depth"]) + 1):
                expand = chosen[f"stage{stage}.block{block}.expand"]
                middle = round_channels(outputs * expand, self.middle_divisor)
                stride = 2 if stage > 1 and block == 1 else 1
                projection = ConvolutionSpec(channels, outputs, 1, stride) if block == 1 else None
                blocks.append(BlockSpec(self._convolutions(channels, middle, outputs, stride), True, projection))
                channels = outputs
            stages.append(tuple(blocks))
        return ResNetPlan(stem, tuple(stages), channels)

    def measure(self, plan: ResNetPlan, meter: CostMeter, images: Activation) -> None:
        """Walk the plan as the forward pass does."""
        x = meter.normalize(images)
        for name, block in plan.blocks():
            if name == "stages.0.0" and self.stem == "imagenet":
                x = meter.max_pool(x, 3, 2)
            with meter.block(name, "shortcut" if block.shortcut else ""):
                y = x
                with meter.holding(*[x] * block.shortcut):
                    for spec in block.convolutions:
                        y = meter.convolution(y, spec.outputs, spec.kernel, spec.stride)
                if block.projection:
                    with meter.holding(y):
                        meter.convolution(x, block.projection.outputs, 1, block.projection.stride)
                x = y
        meter.linear(meter.global_pool(x), self.num_classes)

    def network(self, plan: ResNetPlan) -> ResNet:
        """The static network of a plan."""
        max_pool = self.stem == "imagenet"
        return ResNet(plan, self.normalize(), self.activation, max_pool, self.dropout, self.num_classes)

    def channel_groups(self) -> list[ChannelGroup]:
        """The axes inside blocks, and one axis for the stem's layers and for each stage's residual stream."""
        plan = self.plan(self.space().largest())
        writers: list[list[str]] = [[]]  # axis 0 is the image's channels, which nothing writes
        readers: list[list[str]] = [[]]
        kinds = [frozenset[str]()]
        stream = 0
        for name, block in plan.blocks():
            source, axis = stream, stream
            for index, _ in enumerate(block.convolutions):
                readers[axis].append(f"{name}.convolutions.{index}.convolution.weight")
                last = index == len(block.convolutions) - 1
                if last and block.shortcut and not block.projection:
                    axis = source  # an identity shortcut: the block writes into the stream that it reads
                else:
                    axis = len(kinds)
                    kinds.append(frozenset({"width"} if last else {"width", "expand"}))
                    writers.append([])
                    readers.append([])
                writers[axis] += _tensors(f"{name}.convolutions.{index}")
            if block.projection:
                readers[source].append(f"{name}.projection.convolution.weight")
                writers[axis] += _tensors(f"{name}.projection")
            stream = axis
        readers[stream].append("classifier.weight")
        return [ChannelGroup(k, tuple(w), tuple(r)) for k, w, r in zip(kinds, writers, readers, strict=True) if w]

    def _stem_decisions(self) -> list[Decision]:
        return [Decision("stem.width", "width", self.width_choices)]

    def _stage_decisions(self) -> Iterator[Decision]:
        for stage, base in enumerate(self.blocks, start=1):
            depth = f"stage{stage}.depth"
            yield Decision(f"stage{stage}.width", "width", self.width_choices)
            yield Decision(depth, "depth", self.depth_choices)
            for block in range(1, base + self.depth_choices[-1] + 1):
                needs = (depth, block - base) if block > base + self.depth_choices[0] else None
                yield Decision(f"stage{stage}.block{block}.expand", "expand", self.expand_choices, needs)

    def _stem_plan(self, chosen: dict[str, float]) -> tuple[tuple[tuple[str, BlockSpec], ...], int]:
        width = round_channels(self.widths[0] * chosen["stem.width"])
        stride = 1 if self.stem == "cifar" else 2
        return (("input", BlockSpec((ConvolutionSpec(self.input_shape[0], width, 3, stride),))),), width

    def _convolutions(self, inputs: int, middle: int, outputs: int, stride: int) -> tuple[ConvolutionSpec, ...]:
        """A basic block: two 3x3 convolutions."""
        return ConvolutionSpec(inputs, middle, 3, stride), ConvolutionSpec(middle, outputs, 3)


@families.register("resnet50")
@dataclass(frozen=True)
class ResNet50Family(ResNetFamily):
    """The residual space of ProARD (arXiv 2506.07666), with its channel counts: bottlenecks and a stem of three layers.

    The options are those of ``resnet``. A stem depth of 0 or 1 leaves out the stem's residual layer, so both are one
    network; so are stem widths that round to equal channel counts.
    """

    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (2, 2, 4, 2)
    depth_choices: tuple[int, ...] = (0, 1, 2)
    width_choices: tuple[float, ...] = (0.65, 0.8, 1.0)
    expand_choices: tuple[float, ...] = (0.2, 0.25, 0.35)
    dropout: float = 0.1

    middle_divisor = 8
    stem_widths = (32, 64)  # of the inner layers, and of the last one

    def _stem_decisions(self) -> list[Decision]:
        deepest, shallowest = self.depth_choices[-1], self.depth_choices[0]
        return [
            Decision(
                "stem.depth",
                "depth",
                self.depth_choices,
                same=tuple((choice, shallowest) for choice in self.depth_choices if choice != deepest),
            ),
            *(
                self._stem_width(f"stem.{name}.width", width)
                for name, width in zip(("middle", "output"), self.stem_widths, strict=True)
            ),
        ]

    def _stem_width(self, name: str, width: int) -> Decision:
        first: dict[int, float] = {}  # rounded channel count to the first choice that gives it
        for choice in self.width_choices:
            first.setdefault(round_channels(width * choice), choice)
        same = tuple((choice, first[round_channels(width * choice)]) for choice in self.width_choices)
        return Decision(name, "width", self.width_choices, same=same)

    def _stem_plan(self, chosen: dict[str, float]) -> tuple[tuple[tuple[str, BlockSpec], ...], int]:
        middle = round_channels(self.stem_widths[0] * chosen["stem.middle.width"])
        outputs = round_channels(self.stem_widths[1] * chosen["stem.output.width"])
        stride = 1 if self.stem == "cifar" else 2
        stem = [("input", BlockSpec((ConvolutionSpec(self.input_shape[0], middle, 3, stride),)))]
        if chosen["stem.depth"] == self.depth_choices[-1]:
            stem.append(("residual", BlockSpec((ConvolutionSpec(middle, middle, 3),), shortcut=True)))
        stem.append(("output", BlockSpec((ConvolutionSpec(middle, outputs, 3),))))
        return tuple(stem), outputs

    def _convolutions(self, inputs: int, middle: int, outputs: int, stride: int) -> tuple[ConvolutionSpec, ...]:
        """A bottleneck: 1x1, 3x3 (which has the stride), 1x1."""
        return (
            ConvolutionSpec(inputs, middle, 1),
            ConvolutionSpec(middle, middle, 3, stride),
            ConvolutionSpec(middle, outputs, 1),
        )


def _tensors(convolution: str) -> list[str]:
    return [f"{convolution}.convolution.weight", f"{convolution}.norm.weight", f"{convolution}.norm.bias"]
