"""The optimizer of a phase."""

from __future__ import annotations

import math

import torch
from torch import nn

from proard.config.schema import OptimizerConfig


def new_optimizer(options: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW with learning rate 0, to be set before each step; weight decay acts on matrices and kernels only.

    Args:
        options: of the configuration.
        network: whose parameters it changes; each gets a gradient of zeros, to which students' gradients are added.
    """
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = True if parameters[0].is_cuda else None  # on a GPU in one launch; None is PyTorch's own choice
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(options.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=0.0, momentum=options.momentum, nesterov=options.momentum > 0, fused=fused)


def learning_rate(step: int, steps: int, peak: float, warmup_steps: float = 0.0) -> float:
    """Linear warm-up to ``peak``, then half a cosine towards 0 (arXiv 1608.03983).

    Args:
        step: 0 to ``steps - 1``.
        steps: of the whole phase.
        peak: the largest rate.
        warmup_steps: how many of them are warm-up; less than ``steps``.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
