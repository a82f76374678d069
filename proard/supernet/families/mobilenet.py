"""The static network of mobile families: inverted residual blocks between a stem and a head.

What varies, and by how much, is in ``mobilenet_spaces.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from proard.supernet.family import ACTIVATIONS, Normalize, batch_norm


@dataclass(frozen=True)
class BlockSpec:
    """An inverted residual block; ``expanded`` equals ``inputs`` in one without an expansion layer."""

    inputs: int
    expanded: int
    outputs: int
    kernel: int
    stride: int
    activation: str
    squeezed: int  # channels inside squeeze-and-excitation; 0 is none
    expands: bool = True

    @property
    def residual(self) -> bool:
        """Whether the input is added."""
        return self.stride == 1 and self.inputs == self.outputs


@dataclass(frozen=True)
class MobileNetPlan:
    """A mobile network with every channel count resolved.

    Attributes:
        inputs: channels of an image.
        stride: of the stem.
        stages: blocks; the fixed first block is a stage of its own.
        head: channels of the layers before and after pooling; 0 is no second layer.
        activation: of the stem and the head.
    """

    inputs: int
    stride: int
    stages: tuple[tuple[BlockSpec, ...], ...]
    head: tuple[int, int]
    activation: str


class Convolution(nn.Sequential):
    """Convolution, batch norm and activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: str = ""
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = batch_norm(outputs)
        if activation:
            self.activation = ACTIVATIONS[activation](inplace=True)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out")


class SqueezeExcitation(nn.Module):
    """Channels weighted by a function of their means (arXiv 1709.01507), with ReLU and hard sigmoid."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        weights = self.excite(nn.functional.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(weights)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection (arXiv 1801.04381)."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.residual = spec.residual
        middle = spec.expanded
        self.expand = Convolution(spec.inputs, middle, 1, activation=spec.activation) if spec.expands else nn.Identity()
        self.depthwise = Convolution(middle, middle, spec.kernel, spec.stride, middle, spec.activation)
        self.attention = SqueezeExcitation(middle, spec.squeezed) if spec.squeezed else nn.Identity()
        self.project = Convolution(middle, spec.outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.project(self.attention(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Normalisation, stem, blocks, one or two layers of features around the pooling, classifier."""

    def __init__(self, plan: MobileNetPlan, normalize: Normalize, dropout: float, classes: int) -> None:
        super().__init__()
        self.normalize = normalize
        self.stem = Convolution(plan.inputs, plan.stages[0][0].inputs, 3, plan.stride, activation=plan.activation)
        self.blocks = nn.Sequential(*(nn.Sequential(*map(InvertedResidual, stage)) for stage in plan.stages))
        before, after = plan.head
        self.features = Convolution(plan.stages[-1][-1].outputs, before, 1, activation=plan.activation)
        self.head = nn.Sequential()
        if after:
            self.head.append(nn.Conv2d(before, after, 1, bias=False))
            self.head.append(ACTIVATIONS[plan.activation](inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(after or before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        x = self.features(self.blocks(self.stem(self.normalize(images))))
        x = self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return self.classifier(self.dropout(x))
