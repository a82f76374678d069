"""The same function, faster: what an evaluation runs instead of the network itself."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # of logits, relative to the largest; folding and another memory layout round at 1e-6


def fast_copy(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """A copy with batch norm folded into the convolutions before it, in channels-last layout and without gradients of
    parameters.

    Only what is certain is folded: a calibrated batch norm that follows a convolution in a `torch.nn.Sequential`, as in
    the families of proard. Where there is none, or where the copy turns out to compute something else (a network that
    cannot take the layout, or is random), it is the network itself.

    Args:
        network: in evaluation mode; not changed.
        images: (N, C, H, W), a few on which both are compared.

    Returns:
        Images (N, C, H, W) to the same logits, to rounding.
    """
    if not any(map(_pairs, network.modules())) or images.dim() != 4 or len(images) == 0:
        return network
    fast = copy.deepcopy(network)
    for module in fast.modules():
        for first, convolution, second, norm in _pairs(module):
            setattr(module, first, fuse_conv_bn_eval(convolution, norm))
            setattr(module, second, nn.Identity())
    # New modules begin in training mode, in which an attack may not leave out images.
    fast.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    few = images[:2]
    with torch.no_grad():
        expected = network(few)
        try:
            found = fast(few.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # such as a view of channels that lie last
            return network
        scale = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
        return fast if bool((found - expected).abs().amax() <= TOLERANCE * scale) else network


def _pairs(module: nn.Module) -> list[tuple[str, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions of a sequence and the batch norm that follows each, with their names; nothing listens to them."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return []
    return [
        (first, convolution, second, norm)
        for (first, convolution), (second, norm) in pairwise(module.named_children())
        if type(convolution) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
        and not (convolution.training or norm.training)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (convolution, norm))
    ]
