"""The static network of residual families: blocks of convolutions between a stem and a classifier.

The first block of every stage has a projection shortcut whatever the widths, so that parameter names depend on position
alone. What varies, and by how much, is in ``resnet_spaces.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from proard.supernet.family import ACTIVATIONS, Normalize, batch_norm


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

    def __init__(
        self, plan: ResNetPlan, normalize: Normalize, activation: str, max_pool: bool, dropout: float, num_classes: int
    ) -> None:
        super().__init__()
        make = ACTIVATIONS[activation]
        self.normalize = normalize
        self.stem = nn.Sequential(OrderedDict((name, Block(spec, make)) for name, spec in plan.stem))
        self.pool = nn.MaxPool2d(3, 2, 1) if max_pool else nn.Identity()
        self.stages = nn.Sequential(*(nn.Sequential(*(Block(spec, make) for spec in s)) for s in plan.stages))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(plan.features, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        features = self.stages(self.pool(self.stem(self.normalize(images))))
        return self.classifier(self.dropout(features.mean((2, 3))))
