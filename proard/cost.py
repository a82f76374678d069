"""What a network costs, computed from its layer shapes without running it.

A family's plan walks its layers through a `CostMeter`, exactly as the network's forward pass would. Multiply-adds count
convolutions and linear layers (1 multiply-add = 1 FLOP, as in the ProARD and OFA papers); parameters are the learnable
ones; peak activation memory assumes batch size 1, float32, element-wise operations in place, and that a tensor is freed
after its last use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

FLOAT_BYTES = 4
# What a safetensors file adds: its header's length, and at most this much of header per tensor.
CONTAINER_BYTES = 8
CONTAINER_BYTES_PER_TENSOR = 160


@dataclass(frozen=True)
class Cost:
    """The cost of one student.

    Attributes:
        multiply_adds: per image.
        parameters: learnable ones.
        peak_activation_bytes: float32, batch size 1.
        file_bytes: upper bound on the size of its safetensors file in float32.
    """

    multiply_adds: int
    parameters: int
    peak_activation_bytes: int
    file_bytes: int = 0


class Activation:
    """A tensor that the walk passes along: ``channels x height x width`` elements."""

    def __init__(self, channels: int, height: int = 1, width: int = 1) -> None:
        self.channels, self.height, self.width = channels, height, width

    @property
    def elements(self) -> int:
        """Number of values per image."""
        return self.channels * self.height * self.width


class CostMeter:
    """Adds up costs layer by layer."""

    def __init__(self) -> None:
        self.multiply_adds = 0
        self.parameters = 0
        self._state_elements = 0  # parameters and buffers
        self._tensors = 0
        self._peak_elements = 0
        self._held: list[Activation] = []

    def cost(self) -> Cost:
        """The sums so far."""
        file_bytes = (
            FLOAT_BYTES * self._state_elements + CONTAINER_BYTES + CONTAINER_BYTES_PER_TENSOR * (self._tensors + 1)
        )
        return Cost(self.multiply_adds, self.parameters, FLOAT_BYTES * self._peak_elements, file_bytes)

    @contextmanager
    def holding(self, *activations: Activation) -> Iterator[None]:
        """Keep activations alive, such as a residual, while other layers run."""
        self._held.extend(activations)
        try:
            yield
        finally:
            del self._held[-len(activations) :]

    def normalize(self, x: Activation) -> Activation:
        """The first layer of every network: a mean and a standard deviation per channel, into a new tensor."""
        self._add_state(0, buffers=2 * x.channels, tensors=2)
        return self._produce(x, Activation(x.channels, x.height, x.width))

    def convolution(
        self,
        x: Activation,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        batch_norm: bool = True,
        padding: int | None = None,
    ) -> Activation:
        """A convolution, padded by ``kernel // 2`` unless told, with its batch norm and activation in place."""
        pad = kernel // 2 if padding is None else padding
        y = Activation(
            channels, (x.height + 2 * pad - kernel) // stride + 1, (x.width + 2 * pad - kernel) // stride + 1
        )
        weights = channels * (x.channels // groups) * kernel**2
        self.multiply_adds += weights * y.height * y.width
        self._add_state(weights + (channels if bias else 0), tensors=1 + bias)
        if batch_norm:  # weight, bias, running mean, running variance, and the 8-byte count of batches
            self._add_state(2 * channels, buffers=2 * channels + 2, tensors=5)
        return self._produce(x, y)

    def max_pool(self, x: Activation, kernel: int, stride: int) -> Activation:
        """A max-pooling layer padded by ``kernel // 2``."""
        pad = kernel // 2
        return self._produce(
            x,
            Activation(
                x.channels, (x.height + 2 * pad - kernel) // stride + 1, (x.width + 2 * pad - kernel) // stride + 1
            ),
        )

    def global_pool(self, x: Activation) -> Activation:
        """Mean over all positions."""
        return self._produce(x, Activation(x.channels))

    def linear(self, x: Activation, features: int, bias: bool = True) -> Activation:
        """A fully connected layer at every position."""
        y = Activation(features, x.height, x.width)
        self.multiply_adds += x.channels * features * x.height * x.width
        self._add_state(x.channels * features + (features if bias else 0), tensors=1 + bias)
        return self._produce(x, y)

    def layer_norm(self, x: Activation) -> Activation:
        """Layer norm into a new tensor."""
        self._add_state(2 * x.channels, tensors=2)
        return self._produce(x, Activation(x.channels, x.height, x.width))

    def attention(self, query: Activation, key: Activation, value: Activation, heads: int) -> Activation:
        """Scores of every query with every key, their softmax in place, and the weighted values."""
        tokens = key.height * key.width
        scores = Activation(heads, query.height * query.width, tokens)
        self.multiply_adds += query.elements * tokens + tokens * query.elements
        with self.holding(key, value):
            self._produce(query, scores)
        return self._produce(scores, Activation(value.channels, query.height, query.width), also=(value,))

    def add_parameters(self, count: int) -> None:
        """A tensor of parameters that is added in place, such as an embedding of positions."""
        self._add_state(count)

    def add_measured(self, multiply_adds: int, parameters: int, buffers: int, tensors: int, peak_elements: int) -> None:
        """A whole network that was measured rather than walked through; buffers in units of 4 bytes."""
        self.multiply_adds += multiply_adds
        self._add_state(parameters, buffers, tensors)
        self._peak_elements = max(self._peak_elements, peak_elements)

    def _add_state(self, parameters: int, buffers: int = 0, tensors: int = 1) -> None:
        self.parameters += parameters
        self._state_elements += parameters + buffers
        self._tensors += tensors

    def _produce(self, x: Activation, y: Activation, also: tuple[Activation, ...] = ()) -> Activation:
        """While a layer runs, its inputs, its output and everything held are alive."""
        alive = {id(tensor): tensor.elements for tensor in (x, y, *also, *self._held)}
        self._peak_elements = max(self._peak_elements, sum(alive.values()))
        return y
