"""What a family of networks must say about itself; everything elastic follows from it.

A new family is one file: a static network, a plan that gives every channel count of it for an architecture, and the
list of decisions. Register the class with ``@families.register("name")``; its fields are the options that a user may
set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from proard.common.errors import UserError
from proard.common.options import Options
from proard.common.registry import Registry
from proard.supernet.architecture import Architecture, Decision
from proard.supernet.cost import Activation, Cost, CostMeter, Counts
from proard.supernet.measured_network import measure_network
from proard.supernet.space import SearchSpace

MEASUREMENTS_KEPT = 10_000


class ReLU6(nn.ReLU6):
    """In place only where there is no gradient: autograd, which needs the input, would copy it first."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return functional.relu6(input, self.inplace and not input.requires_grad)


class Hardswish(nn.Hardswish):
    """In place only where there is no gradient, likewise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return functional.hardswish(input, self.inplace and not input.requires_grad)


class SiLU(nn.SiLU):
    """In place only where there is no gradient, likewise."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return functional.silu(input, self.inplace and not input.requires_grad)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": ReLU6, "hswish": Hardswish, "silu": SiLU}


class Normalize(nn.Module):
    """The first layer of every network: images in [0, 1] to zero mean and unit deviation per channel.

    Args:
        mean: per channel.
        std: per channel, positive.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float images (N, C, H, W) in [0, 1] to the same shape."""
        mean, std = self.mean, self.std
        if images.device.type == "cpu" and channels_lie_last(images):
            # There, one number per channel takes five times as long as a whole image of them.
            mean, std = (
                t.expand(1, *images.shape[1:]).contiguous(memory_format=torch.channels_last) for t in (mean, std)
            )
        return (images - mean) / std


def channels_lie_last(images: torch.Tensor) -> bool:
    """Whether these are images (N, C, H, W) in the memory layout (N, H, W, C), and not in both."""
    channels_last = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    return channels_last and not images.is_contiguous()


@dataclass(frozen=True)
class ChannelGroup:
    """Tensors that share one channel axis of the largest network, so that its channels can be reordered.

    Attributes:
        kinds: the kinds of decision that cut this axis.
        writers: parameters whose dimension 0 is the axis (convolutions into it, and their batch norms).
        readers: parameters whose dimension 1 is the axis.
    """

    kinds: frozenset[str]
    writers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Family(Options, ABC):
    """A kind of network and its options.

    Attributes:
        num_classes: at least 2.
        input_shape: (channels, height, width) of an image.
        mean: normalisation per channel of images in [0, 1]; one value stands for all channels.
        std: likewise, positive.
    """

    # Whether the networks are plain: built on the meta device, and everything in them reached through the module tree.
    plain: ClassVar[bool] = True

    num_classes: int
    input_shape: tuple[int, int, int]
    _: KW_ONLY
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        self.require(lambda count: count >= 2, "at least 2", "num_classes")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(f"input_shape must be (channels, height, width), got {self.input_shape}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.input_shape[0]):
                raise ValueError(f"{name} needs 1 or {self.input_shape[0]} values, got {len(values)}")
        self.require_positive("std")

    def require_fraction(self, *names: str) -> None:
        """Check that options are in [0, 1); ValueError where one is not."""
        self.require(lambda value: 0 <= value < 1, "in [0, 1)", *names)

    @abstractmethod
    def decisions(self) -> list[Decision]:
        """Everything that may vary, in the order of the network."""

    @abstractmethod
    def plan(self, architecture: Architecture) -> Any:
        """Layer specifications with every channel count resolved to an integer."""

    def measure(self, plan: Any, meter: CostMeter, images: Activation) -> None:
        """Tell the meter what the network of a plan costs.

        By default that network is run on the meta device, which takes tens of milliseconds. A family that walks its
        planned layers through the meter instead, as its forward pass does, has its costs hundreds of times faster,
        exact peaks of memory, and latencies block by block. A plan's text (``repr``) must tell its network.

        Raises:
            UserError: the network returns something else than logits.
        """
        name = repr(plan)
        if name not in self._measured:
            counts, peak_elements, shape = measure_network(self.skeleton(plan), self.input_shape)
            if shape != (1, self.num_classes):
                raise UserError(f"network {name} gives {tuple(shape[1:])}, not {self.num_classes} logits")
            if len(self._measured) == MEASUREMENTS_KEPT:
                del self._measured[next(iter(self._measured))]
            self._measured[name] = counts, peak_elements
        meter.add_measured(*self._measured[name], name if self.decisions() else "")

    @cached_property
    def _measured(self) -> dict[str, tuple[Counts, int]]:
        """The latest measurements, by the plan's text."""
        return {}

    @abstractmethod
    def network(self, plan: Any) -> nn.Module:
        """The static network of a plan: images (N, C, H, W) in [0, 1] to logits (N, num_classes).

        Its parameter names must be a subset of the largest network's, and its sub-modules must be reachable only
        through the module tree (no plain lists of modules), so that it can be copied cheaply; a family whose networks
        are otherwise sets ``plain = False``. Batch norm comes from `batch_norm`.
        """

    def skeleton(self, plan: Any) -> nn.Module:
        """The network of a plan for its structure: without weights if it is plain; draws no global random numbers."""
        if self.plain:
            with torch.device("meta"), _NothingDrawn():
                return self.network(plan)
        with torch.random.fork_rng(devices=[]):
            return self.network(plan)

    def channel_groups(self) -> list[ChannelGroup]:
        """Which channels may be reordered before narrower choices are unlocked; none by default."""
        return []

    def elastic_kernels(self) -> dict[str, tuple[int, ...]]:
        """Names of convolution weights whose smaller kernels are learned transforms of the largest, and their sides.

        A kernel that is not named here is cut to its centre.
        """
        return {}

    def normalize(self) -> Normalize:
        """The normalisation layer, with one value per channel."""
        channels = self.input_shape[0]
        return Normalize(
            self.mean * channels if len(self.mean) == 1 else self.mean,
            self.std * channels if len(self.std) == 1 else self.std,
        )

    def cost(self, architecture: Architecture) -> Cost:
        """Computed from the plan; nothing is run."""
        return self.walked(architecture).cost()

    def walked(self, architecture: Architecture) -> CostMeter:
        """A meter that went through the planned network: its costs, and its blocks."""
        meter = CostMeter()
        self.measure(self.plan(architecture), meter, Activation(*self.input_shape))
        return meter

    def space(self) -> SearchSpace:
        """The search space of these options."""
        return SearchSpace(self.decisions(), self.cost)


class _NothingDrawn(TorchFunctionMode):
    """Random initial values are left out: on the meta device there are none, and yet each takes a millisecond."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


families: Registry[Family] = Registry("family")


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm without running statistics: those belong to one architecture, and come with `calibrate`."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


def round_channels(value: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, the next one up where rounding down would lose more than a tenth."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor
