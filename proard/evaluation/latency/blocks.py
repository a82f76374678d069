"""The blocks that students are made of, as a family's plan walks them, and the modules to measure in their place.

A family marks the blocks of its network with `CostMeter.block`; a layer outside of one is a block of its own. So a
prediction needs the plan alone, and a family without marks works too, layer by layer. What no layer of the walk stands
for (flattening, adding positions) goes into the overhead of a whole student.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from proard.supernet import Architecture, Family, SearchSpace
from proard.supernet.cost import Block, Layer
from proard.supernet.family import Normalize

BASES = 8  # architectures from which every decision is varied, to see which blocks it changes
MOST_COMBINATIONS = 4096  # of the decisions that change one block
CHECKS = 200  # random architectures, at last


def blocks_of(family: Family, architecture: Architecture) -> list[Block]:
    """The blocks of a student in the order of its forward pass; nothing is run."""
    return family.walked(architecture).blocks


def distinct_blocks(family: Family, space: SearchSpace | None = None) -> dict[str, tuple[Block, Architecture]]:
    """Every different block of a space by its key, and an architecture that has it.

    Which decisions change the block at a place is seen by varying them one at a time; then all combinations of those
    are walked through (a random part of them where there are more than 4096).

    Args:
        family: whose plans are walked.
        space: default all of the family's.
    """
    space = family.space() if space is None else space
    rng = random.Random(0)
    found: dict[str, tuple[Block, Architecture]] = {}

    def look(architecture: Architecture) -> dict[Any, str]:
        places = {}
        for index, block in enumerate(blocks_of(family, architecture)):
            found.setdefault(block.key, (block, architecture))
            places[index if block.module is None else block.module] = block.key
        return places

    largest = space.largest()
    choices = {decision.name: decision.distinct for decision in space.decisions}
    changing: dict[Any, set[str]] = {}
    for base in [largest, space.smallest(), *(space.sample(rng) for _ in range(BASES - 2))]:
        here = look(base)
        for name, value in base.items():
            for choice in choices[name]:
                if choice == value:
                    continue
                there = look(space.canonical({**largest, **base, name: choice}))
                for place in here.keys() | there.keys():
                    if here.get(place) != there.get(place):
                        changing.setdefault(place, set()).add(name)
    for names in {tuple(sorted(names)) for names in changing.values()}:
        if math.prod(len(choices[name]) for name in names) <= MOST_COMBINATIONS:
            combinations: Iterator[tuple[float, ...]] = itertools.product(*(choices[name] for name in names))
        else:
            combinations = (tuple(rng.choice(choices[name]) for name in names) for _ in range(MOST_COMBINATIONS))
        for values in combinations:
            look(space.canonical({**largest, **dict(zip(names, values, strict=True))}))
    for _ in range(CHECKS):
        look(space.sample(rng))
    return found


def layer_module(layer: Layer, batch_size: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A module for a layer outside of a marked block, and the shape of its input."""
    (channels, height, width), arguments = layer.shape, layer.arguments
    maps, tokens = (batch_size, channels, height, width), (batch_size, height * width, channels)
    if layer.kind == "convolution":
        outputs, kernel, stride, groups, bias, norm, padding = arguments
        convolution = nn.Conv2d(channels, outputs, kernel, stride, padding, groups=groups, bias=bool(bias))
        rest = [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)] if norm else []
        return nn.Sequential(convolution, *rest), maps
    if layer.kind == "linear":
        features, bias = arguments
        shape = (batch_size, channels) if height * width == 1 else tokens
        return nn.Linear(channels, features, bias=bool(bias)), shape
    if layer.kind == "attention":
        heads = arguments[0]
        return _Attention(), (batch_size, heads, height * width, max(1, channels // heads))
    if layer.kind == "max_pool":
        kernel, stride = arguments
        return nn.MaxPool2d(kernel, stride, kernel // 2), maps
    if layer.kind == "layer_norm":
        return nn.LayerNorm(channels), tokens
    return (_GlobalPool() if layer.kind == "global_pool" else Normalize([0.5] * channels, [0.25] * channels)), maps


class _GlobalPool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ x.transpose(2, 3)).softmax(-1) @ x
