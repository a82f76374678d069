"""The optimizer of a phase."""

from __future__ import annotations

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
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(options.momentum, 0.999))
    return torch.optim.SGD(groups, lr=0.0, momentum=options.momentum, nesterov=options.momentum > 0)
