"""Residual networks: ``resnet``, for small devices. (``resnet50.py`` is the same network with other blocks and stem.)

One static network of `Block`s. Width is chosen per stage (and stem layer), depth per stage, and expansion (the
width inside a block relative to the stage's) per block. The first block of every stage has a projection shortcut
whatever the widths, so that parameter names depend on position alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from proard.cost import Activation, CostMeter
from proard.supernet.architecture import Architecture
from proard.supernet.family import (
    ACTIVATIONS,
    ChannelGroup,
    Family,
    Normalize,
    batch_norm,
    families,
    round_channels,
)
from proard.supernet.space import Decision


@dataclass(frozen=True)
class ConvolutionSpec:
    """A convolution with batch norm: channel counts, kernel side and stride."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class BlockSpec:
    """Convolutions in a row; ``shortcut`` adds the block's input, through ``projection`` where there is one."""

    convolutions: tuple[ConvolutionSpec, ...]
    shortcut: bool = False
    projection: ConvolutionSpec | None = None


@dataclass(frozen=True)
class ResNetPlan:
    """A residual network with every channel count resolved; stem blocks are named, as one of them may be left out."""

    stem: tuple[tuple[str, BlockSpec], ...]
    stages: tuple[tuple[BlockSpec, ...], ...]
    features: int

    def blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """Every block with its module's name, in the order of the forward pass."""
        yield from ((f"stem.{name}", block) for name, block in self.stem)
        for stage, blocks in enumerate(self.stages):
            yield from ((f"stages.{stage}.{index}", block) for index, block in enumerate(blocks))


class Convolution(nn.Sequential):
    """Convolution and batch norm."""

    def __init__(self, spec: ConvolutionSpec) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(spec.inputs, spec.outputs, spec.kernel, spec.stride, spec.kernel // 2, bias=False)
        self.norm = batch_norm(spec.outputs)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out")


class Block(nn.Module):
    """Convolutions with activations between them, the shortcut, and a last activation."""

    def __init__(self, spec: BlockSpec, activation: type[nn.Module]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(Convolution(convolution) for convolution in spec.convolutions)
        self.projection = Convolution(spec.projection) if spec.projection else nn.Identity()
        self.shortcut = spec.shortcut
        self.activation = activation(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = x
        for index, convolution in enumerate(self.convolutions):
            y = convolution(y if index == 0 else self.activation(y))
        return self.activation(y + self.projection(x) if self.shortcut else y)


class ResNet(nn.Module):
    """Normalisation, stem, stages, global average pooling, classifier."""

    def __init__(self, plan: ResNetPlan, family: ResNetFamily) -> None:
        super().__init__()
        activation = ACTIVATIONS[family.activation]
        self.normalize: Normalize = family.normalize()
        self.stem = nn.Sequential(OrderedDict((name, Block(spec, activation)) for name, spec in plan.stem))
        self.pool = nn.MaxPool2d(3, 2, 1) if family.stem == "imagenet" else nn.Identity()
        self.stages = nn.Sequential(*(nn.Sequential(*(Block(spec, activation) for spec in s)) for s in plan.stages))
        self.dropout = nn.Dropout(family.dropout)
        self.classifier = nn.Linear(plan.features, family.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        features = self.stages(self.pool(self.stem(self.normalize(images))))
        return self.classifier(self.dropout(features.mean((2, 3))))


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
        stem: ``cifar`` (stride 1), or ``imagenet`` (stride 2 and a max-pooling layer).
        dropout: before the classifier.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    depth_choices: tuple[int, ...] = (0, 1)
    width_choices: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    expand_choices: tuple[float, ...] = (0.5, 0.75, 1.0)
    activation: Literal["relu", "relu6", "hswish", "silu"] = "relu"
    stem: Literal["cifar", "imagenet"] = "cifar"
    dropout: float = 0.0

    # Finer than elsewhere: multiples of 8 would make one network of two expansions of a narrow stage.
    middle_divisor: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks need one entry per stage each, got {self.widths} and {self.blocks}")
        if min(self.blocks) < 1 or min(self.widths) < 1 or min(self.depth_choices, default=-1) < 0:
            raise ValueError("widths and blocks must be at least 1, depth_choices at least 0")
        for name in ("width_choices", "expand_choices"):
            if min(getattr(self, name), default=0) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

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
        """The static network."""
        return ResNet(plan, self)

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
        stride = 2 if self.stem == "imagenet" else 1
        return (("input", BlockSpec((ConvolutionSpec(self.input_shape[0], width, 3, stride),))),), width

    def _convolutions(self, inputs: int, middle: int, outputs: int, stride: int) -> tuple[ConvolutionSpec, ...]:
        """A basic block: two 3x3 convolutions."""
        return ConvolutionSpec(inputs, middle, 3, stride), ConvolutionSpec(middle, outputs, 3)


def _tensors(convolution: str) -> list[str]:
    return [f"{convolution}.convolution.weight", f"{convolution}.norm.weight", f"{convolution}.norm.bias"]
