"""Batch-norm statistics of one student.

Running statistics belong to one architecture. In training and attack a student normalises by its batch; `calibrate`
gives an extracted student statistics of its own, with which it is evaluated and shipped.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from proard.common.errors import UserError

Batches = Iterable[torch.Tensor | tuple[torch.Tensor, ...]]


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def has_batch_norm(network: nn.Module) -> bool:
    """Whether it normalises by statistics of a batch, which one image alone has none of."""
    return bool(_batch_norms(network))


def add_running_statistics(network: nn.Module) -> None:
    """Give every batch norm fresh running statistics (mean 0, variance 1, no batch seen)."""
    for norm in _batch_norms(network):
        weight = norm.weight if norm.weight is not None else torch.empty(norm.num_features)
        norm.track_running_stats = True
        norm.register_buffer("running_mean", torch.zeros_like(weight, requires_grad=False))
        norm.register_buffer("running_var", torch.ones_like(weight, requires_grad=False))
        norm.register_buffer("num_batches_tracked", torch.tensor(0, device=weight.device))


def remove_running_statistics(network: nn.Module) -> None:
    """Let every batch norm normalise by its batch, in training and evaluation mode alike."""
    for norm in _batch_norms(network):
        norm.track_running_stats = False
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            norm.register_buffer(name, None)


def calibrate(network: nn.Module, batches: Batches) -> None:
    """Replace running statistics by the average over ``batches``; changes the network in place, not its modes.

    Args:
        network: a student, or any module with batch norm.
        batches: images (N, C, H, W) in [0, 1], or tuples that start with them.

    Raises:
        ValueError: there is batch norm, but no batch.
    """
    norms = _batch_norms(network)
    if not norms:
        return
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    add_running_statistics(network)
    network.eval()
    try:
        for norm in norms:
            norm.train()
            norm.momentum = None  # a plain average over all batches
        count = 0
        device = norms[0].weight.device if norms[0].weight is not None else None
        with torch.no_grad():
            for count, batch in enumerate(batches, start=1):  # noqa: B007
                images = batch if isinstance(batch, torch.Tensor) else batch[0]
                network(images.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    if count == 0:
        raise ValueError("calibrate needs at least one batch of images")


def require_calibrated(network: nn.Module) -> None:
    """Refuse a network that would normalise by its batch, or by statistics that nobody measured.

    Raises:
        UserError: a batch norm has no statistics.
    """
    for name, norm in network.named_modules():
        if isinstance(norm, _BatchNorm) and (
            norm.running_mean is None or (norm.num_batches_tracked is not None and norm.num_batches_tracked == 0)
        ):
            raise UserError(
                f"batch norm '{name}' has no statistics of this student; use "
                "supernet.extract(architecture, calibration=...) or calibrate(student, batches) first"
            )
