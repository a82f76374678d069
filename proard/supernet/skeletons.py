"""Filling a skeleton, which has a student's modules and no weights of its own, with tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def fill(skeleton: nn.Module, cut: Callable[[str, torch.Size], torch.Tensor], prefix: str = "") -> nn.Module:
    """A copy of the skeleton with the tensors that ``cut`` makes; far cheaper than building or deep-copying one."""
    filled: nn.Module = object.__new__(type(skeleton))
    filled.__dict__ = {k: v.copy() if isinstance(v, dict | set) else v for k, v in skeleton.__dict__.items()}
    for name, parameter in skeleton._parameters.items():
        if parameter is not None:
            filled._parameters[name] = nn.Parameter(cut(prefix + name, parameter.shape), parameter.requires_grad)
    for name, buffer in skeleton._buffers.items():
        if buffer is not None:
            filled._buffers[name] = cut(prefix + name, buffer.shape)
    for name, child in skeleton._modules.items():
        filled._modules[name] = None if child is None else fill(child, cut, f"{prefix}{name}.")
    return filled


def fill_copy(skeleton: nn.Module, cut: Callable[[str, torch.Size], torch.Tensor]) -> nn.Module:
    """The same for a network that is not plain: a deep copy in which every reference to a tensor finds the cut one."""
    memo: dict[int, Any] = {id(buffer): cut(name, buffer.shape) for name, buffer in skeleton.named_buffers()}
    for name, parameter in skeleton.named_parameters():
        memo[id(parameter)] = nn.Parameter(cut(name, parameter.shape), parameter.requires_grad)
    return copy.deepcopy(skeleton, memo)
