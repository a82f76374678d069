"""Adversarial weight perturbation: gradients are taken where a network's weights are worse for the images at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def perturbed(network: nn.Module, loss: torch.Tensor, size: float) -> Iterator[None]:
    """Within the block every layer's weights w are moved by ``size |w| g / |g|`` along their gradient g of the loss.

    That is the one step of the authors' code (Wu et al., AWP, arXiv 2004.05884); as there, biases and batch norms stay.

    Args:
        network: its weights are put back afterwards, also after an exception; no parameter's ``grad`` changes.
        loss: scalar, computed by the network; its graph is used up.
        size: gamma in the paper, positive.
    """
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(size * weight.norm() / (gradient.norm() + 1e-20) * gradient)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
