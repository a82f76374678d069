"""Where and how networks run: device, precision and memory layout."""

from __future__ import annotations

import copy
import ctypes
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from proard.common.errors import UserError

LEAST_PIXELS_FOR_BFLOAT16 = 16 * 16  # on a CPU, casting costs more than it saves on smaller images


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; under torchrun every process takes a GPU of its own.

    Raises:
        UserError: a CUDA device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name}: unknown; valid: auto, cpu, cuda, cuda:0 ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu or auto"
        )
    return device


def resolve_precision(name: str, device: torch.device, input_shape: tuple[int, int, int]) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware computes in it, and float32 elsewhere and for tiny images on a CPU."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    large = input_shape[1] * input_shape[2] >= LEAST_PIXELS_FOR_BFLOAT16
    return torch.bfloat16 if large and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); PyTorch's names for it vary by version."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for check in (getattr(torch.cpu, name, None) for name in checks) if check is not None)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Convolutions and linear layers in ``precision``, where it is not float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def weights_to_cast(network: nn.Module) -> set[str]:
    """Names of the parameters that `autocast` casts, in every pass: those of convolutions and linear layers."""
    return {
        f"{layer}.{name}" if layer else name
        for layer, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear)
        for name in ("weight", "bias")
        if module._parameters.get(name) is not None
    }


def with_cast_weights(network: nn.Module, precision: torch.dtype) -> nn.Module:
    """The network, or a copy with `weights_to_cast` in that precision, which `autocast` then does not cast any more."""
    if precision == torch.float32:
        return network
    network = copy.deepcopy(network)
    for name in weights_to_cast(network):
        weight = network.get_parameter(name)
        weight.data = weight.data.to(precision)
    return network


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that PyTorch has held on a GPU, or that this process has had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # what getrusage says may be the peak of the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory(keep: bool = True) -> None:
    """Let the C library of Linux keep large blocks that were freed, to hand them out again.

    By default it returns them, and the system then clears every page of the next tensor of more than 32 MiB: with batch
    128 that was a sixth of a training step on a CPU. Where there is no such setting, nothing happens.

    Args:
        keep: False brings back what the library does by itself, once it has seen large blocks.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if allocator is not None:
        trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # of malloc.h
        allocator(mmap_max, 0 if keep else 65536)
        allocator(mmap_threshold, 32 * 2**20)
        allocator(trim_threshold, 2**31 - 1 if keep else 64 * 2**20)
