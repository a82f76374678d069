"""An elastic vision transformer, ``vit`` (arXiv 2010.11929), with a convolutional stem on request (arXiv 2106.14881).

Width is one choice for the whole network (tokens carry it from the stem to the classifier), depth likewise; the number
of heads and the MLP ratio are chosen per block. Queries, keys and values are separate layers whose outputs are ordered
by head, so that a leading slice is whole heads. Layer norm normalises over the active width, as any static network
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from proard.supernet.architecture import Architecture, Decision
from proard.supernet.cost import Activation, CostMeter
from proard.supernet.family import ACTIVATIONS, ChannelGroup, Family, batch_norm, families


@dataclass(frozen=True)
class BlockSpec:
    """A transformer block: token width, number of heads, channels of a head, and hidden channels of the MLP."""

    width: int
    heads: int
    head_channels: int
    hidden: int


@dataclass(frozen=True)
class ViTPlan:
    """A transformer with every channel count resolved; ``stem`` lists (inputs, outputs, kernel, stride, padding)."""

    stem: tuple[tuple[int, int, int, int, int], ...]
    width: int
    blocks: tuple[BlockSpec, ...]


class Attention(nn.Module):
    """Multi-head self-attention of all tokens."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.heads, inner = spec.heads, spec.heads * spec.head_channels
        self.query = nn.Linear(spec.width, inner)
        self.key = nn.Linear(spec.width, inner)
        self.value = nn.Linear(spec.width, inner)
        self.output = nn.Linear(inner, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (N, T, width) to the same shape."""
        x = x.to(self.query.weight.dtype)  # under autocast, once for all three
        query, key, value = (
            f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        # Written out, not fused: the fused kernels have no second derivative.
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, spec: BlockSpec, activation: type[nn.Module]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.width)
        self.attention = Attention(spec)
        self.mlp_norm = nn.LayerNorm(spec.width)
        self.expand = nn.Linear(spec.width, spec.hidden)
        self.activation = activation()
        self.project = nn.Linear(spec.hidden, spec.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (N, T, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.project(self.activation(self.expand(self.mlp_norm(x))))


class VisionTransformer(nn.Module):
    """Normalisation, stem, tokens with positions, blocks, classifier."""

    def __init__(self, plan: ViTPlan, family: ViTFamily) -> None:
        super().__init__()
        activation = nn.GELU if family.activation == "gelu" else ACTIVATIONS[family.activation]
        self.normalize = family.normalize()
        stem: list[nn.Module] = []
        for convolution in plan.stem[:-1]:
            stem += [nn.Conv2d(*convolution, bias=False), batch_norm(convolution[1]), activation()]
        self.stem = nn.Sequential(*stem, nn.Conv2d(*plan.stem[-1]))
        height, width = family.grid(plan)
        self.position = nn.Parameter(0.02 * torch.randn(1, height * width, plan.width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, plan.width)) if family.pool == "token" else None
        self.blocks = nn.Sequential(*(Block(spec, activation) for spec in plan.blocks))
        self.norm = nn.LayerNorm(plan.width)
        self.dropout = nn.Dropout(family.dropout)
        self.classifier = nn.Linear(plan.width, family.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        tokens = self.stem(self.normalize(images)).flatten(2).transpose(1, 2) + self.position
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens))
        return self.classifier(self.dropout(tokens.mean(1) if self.class_token is None else tokens[:, 0]))


@families.register("vit")
@dataclass(frozen=True)
class ViTFamily(Family):
    """A vision transformer for small images; for 224 pixels set ``patch_size: 16``.

    Attributes:
        patch_size: side in pixels of a token, a power of 2.
        width_choices: channels of a token.
        depth_choices: blocks.
        heads_choices: attention heads, per block.
        mlp_choices: hidden channels of the MLP relative to the width, per block.
        head_channels: of every head.
        stem: ``convolution`` (3x3 convolutions of stride 2, which helps robustness) or ``patch`` (one convolution).
        pool: ``mean`` over tokens, or a class ``token``.
        activation: gelu, silu, relu, relu6 or hswish.
        dropout: before the classifier.
    """

    patch_size: int = 4
    width_choices: tuple[int, ...] = (64, 128, 192)
    depth_choices: tuple[int, ...] = (4, 8, 12)
    heads_choices: tuple[int, ...] = (2, 4, 6)
    mlp_choices: tuple[float, ...] = (1, 2, 4)
    head_channels: int = 32
    stem: Literal["convolution", "patch"] = "convolution"
    pool: Literal["mean", "token"] = "mean"
    activation: Literal["gelu", "silu", "relu", "relu6", "hswish"] = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda side: side >= 1 and side & (side - 1) == 0, "a power of 2", "patch_size")
        if min(self.input_shape[1:]) < self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} is larger than an image of {self.input_shape[1:]}")
        self.require_positive("width_choices", "depth_choices", "heads_choices", "mlp_choices", "head_channels")
        self.require_fraction("dropout")

    def decisions(self) -> list[Decision]:
        """Width, depth, and heads and MLP ratio of every block."""
        decisions = [Decision("width", "width", self.width_choices), Decision("depth", "depth", self.depth_choices)]
        for block in range(1, self.depth_choices[-1] + 1):
            needs = ("depth", block) if block > self.depth_choices[0] else None
            decisions.append(Decision(f"block{block}.heads", "heads", self.heads_choices, needs))
            decisions.append(Decision(f"block{block}.mlp", "expand", self.mlp_choices, needs))
        return decisions

    def plan(self, architecture: Architecture) -> ViTPlan:
        """Channel counts of the stem and of every block."""
        chosen = dict(architecture.decisions)
        width, channels = int(chosen["width"]), self.input_shape[0]
        if self.stem == "patch":
            stem = [(channels, width, self.patch_size, self.patch_size, 0)]
        else:
            inputs = [channels, *[width // 2] * int(math.log2(self.patch_size))]
            stem = [(n, width // 2, 3, 2, 1) for n in inputs[:-1]] + [(inputs[-1], width, 1, 1, 0)]
        blocks = tuple(
            BlockSpec(width, int(chosen[f"block{b}.heads"]), self.head_channels, round(width * chosen[f"block{b}.mlp"]))
            for b in range(1, int(chosen["depth"]) + 1)
        )
        return ViTPlan(tuple(stem), width, blocks)

    def grid(self, plan: ViTPlan) -> tuple[int, int]:
        """Rows and columns of tokens."""
        x = self._measure_stem(plan, CostMeter(), Activation(*self.input_shape))
        return x.height, x.width

    def measure(self, plan: ViTPlan, meter: CostMeter, images: Activation) -> None:
        """Walk the plan as the forward pass does."""
        x = meter.normalize(images)
        with meter.block("stem"):
            x = self._measure_stem(plan, meter, x)
        tokens = x.height * x.width
        meter.add_parameters(tokens * plan.width)
        if self.pool == "token":
            meter.add_parameters(plan.width)
            tokens += 1
        x = Activation(plan.width, tokens)
        for index, block in enumerate(plan.blocks):
            with meter.block(f"blocks.{index}"), meter.holding(x):
                y = meter.layer_norm(x)
                inner = block.heads * block.head_channels
                with meter.holding(y):
                    query, key = meter.linear(y, inner), meter.linear(y, inner)
                    with meter.holding(query, key):
                        value = meter.linear(y, inner)
                y = meter.attention(query, key, value, block.heads)
                meter.linear(y, plan.width)
                y = meter.linear(meter.layer_norm(x), block.hidden)
                meter.linear(y, plan.width)
        meter.layer_norm(x)
        meter.linear(Activation(plan.width), self.num_classes)

    def network(self, plan: ViTPlan) -> VisionTransformer:
        """The static network of a plan."""
        return VisionTransformer(plan, self)

    def channel_groups(self) -> list[ChannelGroup]:
        """The hidden channels of every MLP."""
        kinds = frozenset({"width", "expand"})
        blocks = [f"blocks.{index}" for index in range(self.depth_choices[-1])]
        return [
            ChannelGroup(kinds, (f"{block}.expand.weight", f"{block}.expand.bias"), (f"{block}.project.weight",))
            for block in blocks
        ]

    def _measure_stem(self, plan: ViTPlan, meter: CostMeter, x: Activation) -> Activation:
        for index, (_, outputs, kernel, stride, padding) in enumerate(plan.stem, start=1):
            last = index == len(plan.stem)
            x = meter.convolution(x, outputs, kernel, stride, bias=last, batch_norm=not last, padding=padding)
        return x
