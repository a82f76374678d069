"""What any network costs, found by running it on the meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from proard.supernet.activation_memory import peak_elements
from proard.supernet.calibration import add_running_statistics
from proard.supernet.cost import FLOAT_BYTES, INT8_BYTES_PER_CHANNEL, Counts


def measure_network(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Counts, int, torch.Size]:
    """The counts of a network, its peak of values alive, and the shape of what it returns.

    The network is changed, and moved to the meta device.

    Multiply-adds are half of what PyTorch's FLOP counter counts, and parameters are counted. Peak activation memory is
    that of the operators that the network runs one by one (`activation_memory.py`), an upper bound: batch norm and
    additions are not taken to be in place. So is the size in int8, where batch norm counts, as it may not be foldable.

    Args:
        network: images (N, C, H, W) in [0, 1] to logits; normalisation is its first layer.
        input_shape: of an image: (channels, height, width).
    """
    add_running_statistics(network.eval())
    network.to("meta")
    images = torch.zeros(1, *input_shape, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    state = network.state_dict().values()
    counts = Counts(
        multiply_adds=counter.get_total_flops() // 2,
        parameters=parameters,
        buffers=sum(tensor.numel() for tensor in state if tensor.is_floating_point()) - parameters,
        tensors=len(state),
        counters=sum(tensor.numel() for tensor in state if not tensor.is_floating_point()),
        int8_bytes=INT8_BYTES_PER_CHANNEL * input_shape[0] + _int8_bytes(network),
    )
    return counts, peak_elements(network, images), logits.shape


def multiply_adds(network: nn.Module, input_shape: Sequence[int], device: torch.device) -> int:
    """Of a forward pass of a network without a plan, per image, counted by PyTorch where the network is.

    Args:
        network: images (N, C, H, W) to logits.
        input_shape: (C, H, W).
        device: of the network.
    """
    images = torch.zeros(2, *input_shape, device=device)
    # PyTorch does not count the attention kernel of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops()) // 4  # of two images, and a multiply-add is two operations there


def _int8_bytes(network: nn.Module) -> int:
    """Those of the weights, as `proard.supernet.cost` counts them, but with the batch norms."""
    total = 0
    for path, parameter in network.named_parameters():  # one that stands in two places comes once
        place, _, name = path.rpartition(".")
        small = isinstance(network.get_submodule(place), nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        if small and name == "weight":
            total += parameter.numel() + INT8_BYTES_PER_CHANNEL * parameter.shape[0]
        elif not (small and name == "bias"):
            total += FLOAT_BYTES * parameter.numel()
    return total
