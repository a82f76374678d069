"""What a network costs, computed from its layer shapes without running it.

A family's plan walks its layers through a `CostMeter`, exactly as the network's forward pass would.

- Multiply-adds count convolutions and linear layers (1 multiply-add = 1 FLOP, as in the ProARD and OFA papers);
  parameters are the learnable ones.
- Peak activation memory assumes batch size 1, the layers in the order of the forward pass, batch norm, activations and
  other element-wise operations in place, and that a tensor is freed after its last use. In float32 a value takes 4
  bytes, in int8 one: every tensor between layers is int8, as in integer runtimes for microcontrollers. A runtime's own
  buffers (im2col, padding) come on top.
- Files in float32 and float16 are those of safetensors, batch-norm statistics included.
- Weights in int8 are, after batch norm has been folded: 1 byte per weight of a convolution or linear layer, and for
  each of its output channels 4 bytes of int32 bias and 4 bytes of float32 scale; 4 bytes for every other parameter
  (layer norm, positions), and 8 bytes per channel of the image for its normalisation. The runtime's code and its
  description of the graph come on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

FLOAT_BYTES = 4
HALF_BYTES = 2
COUNTER_BYTES = 8  # of the batches that a batch norm has seen; int64 in every file
INT8_BYTES_PER_CHANNEL = 8  # an int32 bias and a float32 scale
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
        peak_activation_bytes_int8: int8, batch size 1.
        file_bytes_float16: upper bound on the size of its safetensors file in float16.
        weight_bytes_int8: what its int8 weights, biases and scales take in flash.
        latency: seconds on some device, from a `proard.evaluation.latency.LatencyTable`; None without one.
    """

    multiply_adds: int
    parameters: int
    peak_activation_bytes: int
    file_bytes: int = 0
    peak_activation_bytes_int8: int = 0
    file_bytes_float16: int = 0
    weight_bytes_int8: int = 0
    latency: float | None = None


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
        self.elements_moved = 0  # activations that layers read and write
        self._state_elements = 0  # parameters and floating-point buffers
        self._counters = 0
        self._int8_bytes = 0
        self._tensors = 0
        self._peak_elements = 0
        self._held: list[Activation] = []

    def cost(self) -> Cost:
        """The sums so far."""
        container = COUNTER_BYTES * self._counters + CONTAINER_BYTES + CONTAINER_BYTES_PER_TENSOR * (self._tensors + 1)
        return Cost(
            self.multiply_adds,
            self.parameters,
            FLOAT_BYTES * self._peak_elements,
            FLOAT_BYTES * self._state_elements + container,
            self._peak_elements,
            HALF_BYTES * self._state_elements + container,
            self._int8_bytes,
        )

    @property
    def bytes_moved(self) -> int:
        """Activations read and written so far, and weights, in float32."""
        return FLOAT_BYTES * (self.elements_moved + self._state_elements)

    def block(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        """Mark the layers of one module of the network, so that their latency is measured together.

        Optional: the costs are the same without. The module must take the block's input and nothing else.

        Args:
            name: the module's, in the network.
            detail: what tells it from a block of the same layers, such as a shortcut or an activation.
        """
        return nullcontext()

    @contextmanager
    def holding(self, *activations: Activation) -> Iterator[None]:
        """Keep activations alive, such as a residual, while other layers run."""
        self._held.extend(activations)
        try:
            yield
        finally:
            del self._held[len(self._held) - len(activations) :]

    def normalize(self, x: Activation) -> Activation:
        """The first layer of every network: a mean and a standard deviation per channel, into a new tensor."""
        self._add_state(0, buffers=2 * x.channels, tensors=2, int8_bytes=INT8_BYTES_PER_CHANNEL * x.channels)
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
        """A convolution with its batch norm and activation in place.

        Args:
            x: its input.
            channels: of its output.
            kernel: side in pixels.
            stride: in both directions.
            groups: 1, or the number of input channels for a depthwise one.
            bias: whether it has one.
            batch_norm: whether one follows.
            padding: in pixels on every side; default ``kernel // 2``.
        """
        pad = kernel // 2 if padding is None else padding
        y = Activation(
            channels, (x.height + 2 * pad - kernel) // stride + 1, (x.width + 2 * pad - kernel) // stride + 1
        )
        weights = channels * (x.channels // groups) * kernel**2
        self.multiply_adds += weights * y.height * y.width
        self._add_layer(weights, channels, bias)
        if batch_norm:  # weight, bias, running mean, running variance, and the count of batches
            self._add_state(2 * channels, buffers=2 * channels, tensors=5, int8_bytes=0)
            self._counters += 1
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
        self._add_layer(x.channels * features, features, bias)
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

    def add_measured(
        self,
        multiply_adds: int,
        parameters: int,
        buffers: int,
        tensors: int,
        peak_elements: int,
        *,
        counters: int = 0,
        int8_bytes: int | None = None,
    ) -> None:
        """A whole network that was measured rather than walked through.

        Args:
            multiply_adds: per image.
            parameters: learnable ones.
            buffers: floating-point values that are stored beside them.
            tensors: parameters, buffers and counters that a file holds.
            peak_elements: values alive at the same time, at most.
            counters: integers of 8 bytes.
            int8_bytes: of its weights in int8, at most; default 4 bytes for every parameter.
        """
        self.multiply_adds += multiply_adds
        self._add_state(parameters, buffers, tensors, int8_bytes)
        self._counters += counters
        self._peak_elements = max(self._peak_elements, peak_elements)

    def _add_layer(self, weights: int, channels: int, bias: bool) -> None:
        int8_bytes = weights + INT8_BYTES_PER_CHANNEL * channels
        self._add_state(weights + (channels if bias else 0), tensors=1 + bias, int8_bytes=int8_bytes)

    def _add_state(self, parameters: int, buffers: int = 0, tensors: int = 1, int8_bytes: int | None = None) -> None:
        self.parameters += parameters
        self._state_elements += parameters + buffers
        self._tensors += tensors
        self._int8_bytes += FLOAT_BYTES * parameters if int8_bytes is None else int8_bytes

    def _produce(self, x: Activation, y: Activation, also: tuple[Activation, ...] = ()) -> Activation:
        """While a layer runs, its inputs, its output and everything held are alive."""
        alive = {id(tensor): tensor.elements for tensor in (x, y, *also, *self._held)}
        self._peak_elements = max(self._peak_elements, sum(alive.values()))
        self.elements_moved += x.elements + y.elements + sum(tensor.elements for tensor in also)
        return y
