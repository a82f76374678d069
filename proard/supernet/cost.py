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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

FLOAT_BYTES = 4
HALF_BYTES = 2
COUNTER_BYTES = 8  # of the batches that a batch norm has seen; int64 in every file
INT8_BYTES_PER_CHANNEL = 8  # an int32 bias and a float32 scale
# What a safetensors file adds: its header's length, and at most this much of header per tensor.
CONTAINER_BYTES = 8
CONTAINER_BYTES_PER_TENSOR = 160

WHOLE = "network"  # the kind of layer that stands for a whole network
ARGUMENTS = {
    "convolution": ("channels", "kernel", "stride", "groups", "bias", "batch_norm", "padding"),
    "max_pool": ("kernel", "stride"),
    "linear": ("features", "bias"),
    "attention": ("heads",),
}


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
    """A tensor that the walk passes along: ``channels x height x width`` values per image, its ``elements``."""

    __slots__ = ("channels", "elements", "height", "width")

    def __init__(self, channels: int, height: int = 1, width: int = 1) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.elements = channels * height * width


class Counts(NamedTuple):
    """What a layer, or a whole network that was measured, adds to the cost of a student.

    Attributes:
        multiply_adds: per image.
        parameters: learnable ones.
        buffers: floating-point values that are stored beside them.
        tensors: parameters, buffers and counters that a file holds.
        counters: integers of `COUNTER_BYTES`.
        int8_bytes: of its weights in int8, at most.
    """

    multiply_adds: int = 0
    parameters: int = 0
    buffers: int = 0
    tensors: int = 0
    counters: int = 0
    int8_bytes: int = 0


NOTHING = Counts()


class Layer(NamedTuple):
    """One layer of a walk.

    Attributes:
        kind: a method of the meter, or `WHOLE`.
        shape: of its input: (channels, height, width).
        arguments: as `ARGUMENTS` names them.
        multiply_adds: of one image.
        bytes: activations read and written, and weights, in float32.
    """

    kind: str
    shape: tuple[int, ...]
    arguments: tuple[int, ...]
    multiply_adds: int
    bytes: int

    def __str__(self) -> str:
        if not self.shape:
            return self.kind
        named = zip(ARGUMENTS.get(self.kind, ()), self.arguments, strict=True)
        return f"{self.kind}({', '.join(['x'.join(map(str, self.shape)), *(f'{n}={v}' for n, v in named)])})"


@dataclass(frozen=True)
class Block:
    """A part of a student whose latency is measured as one.

    Attributes:
        module: name of its module in the network; None for a layer outside of a marked block.
        layers: in the order of the forward pass.
        detail: what tells it from a block of the same layers.
    """

    module: str | None
    layers: tuple[Layer, ...]
    detail: str = ""

    @cached_property
    def key(self) -> str:
        """Its layers as text, ``shortcut: convolution(16x8x8, channels=24, ...) + ...``; one latency for one key."""
        return (f"{self.detail}: " if self.detail else "") + " + ".join(map(str, self.layers))

    @property
    def multiply_adds(self) -> int:
        """Those of one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Activations read and written, and weights, in float32."""
        return sum(layer.bytes for layer in self.layers)


class CostMeter:
    """Adds up costs layer by layer, and remembers the layers.

    Attributes:
        layers: in the order of the walk.
    """

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._marks: dict[int, tuple[int, str, str]] = {}  # first layer of a block to the end, name and detail of it
        self._counts: list[Counts] = []
        self._peak_elements = 0
        self._held: list[Activation] = []

    def cost(self) -> Cost:
        """The sums so far."""
        total = Counts(*map(sum, zip(*self._counts, strict=True)))
        elements = total.parameters + total.buffers
        container = COUNTER_BYTES * total.counters + CONTAINER_BYTES + CONTAINER_BYTES_PER_TENSOR * (total.tensors + 1)
        return Cost(
            total.multiply_adds,
            total.parameters,
            FLOAT_BYTES * self._peak_elements,
            FLOAT_BYTES * elements + container,
            self._peak_elements,
            HALF_BYTES * elements + container,
            total.int8_bytes,
        )

    @property
    def blocks(self) -> list[Block]:
        """The marked blocks, and the layers outside of them as blocks of their own, in the order of the walk."""
        blocks, place = [], 0
        while place < len(self.layers):
            end, module, detail = self._marks.get(place, (place + 1, None, ""))
            blocks.append(Block(module, tuple(self.layers[place:end]), detail))
            place = end
        return blocks

    @contextmanager
    def block(self, name: str, detail: str = "") -> Iterator[None]:
        """Mark the layers of one module of the network, so that their latency is measured together.

        Optional: the costs are the same without. The module must take the block's input and nothing else.

        Args:
            name: the module's, in the network.
            detail: what tells it from a block of the same layers, such as a shortcut or an activation.
        """
        first = len(self.layers)
        yield
        if len(self.layers) > first:
            self._marks[first] = (len(self.layers), name, detail)

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
        counts = Counts(buffers=2 * x.channels, tensors=2, int8_bytes=INT8_BYTES_PER_CHANNEL * x.channels)
        return self._layer("normalize", x, Activation(x.channels, x.height, x.width), (), counts)

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
        y = _slid(x, channels, kernel, stride, pad)
        weights = channels * (x.channels // groups) * kernel**2
        counts = Counts(
            multiply_adds=weights * y.height * y.width,
            parameters=weights + channels * (bias + 2 * batch_norm),
            buffers=2 * channels * batch_norm,
            tensors=1 + bias + 5 * batch_norm,  # weight, bias, running mean and variance, and the count of batches
            counters=int(batch_norm),
            int8_bytes=weights + INT8_BYTES_PER_CHANNEL * channels,
        )
        arguments = (channels, kernel, stride, groups, int(bias), int(batch_norm), pad)
        return self._layer("convolution", x, y, arguments, counts)

    def max_pool(self, x: Activation, kernel: int, stride: int) -> Activation:
        """A max-pooling layer padded by ``kernel // 2``."""
        return self._layer("max_pool", x, _slid(x, x.channels, kernel, stride, kernel // 2), (kernel, stride))

    def global_pool(self, x: Activation) -> Activation:
        """Mean over all positions."""
        return self._layer("global_pool", x, Activation(x.channels))

    def linear(self, x: Activation, features: int, bias: bool = True) -> Activation:
        """A fully connected layer at every position."""
        weights = x.channels * features
        counts = Counts(
            multiply_adds=weights * x.height * x.width,
            parameters=weights + features * bias,
            tensors=1 + bias,
            int8_bytes=weights + INT8_BYTES_PER_CHANNEL * features,
        )
        return self._layer("linear", x, Activation(features, x.height, x.width), (features, int(bias)), counts)

    def layer_norm(self, x: Activation) -> Activation:
        """Layer norm into a new tensor."""
        y = Activation(x.channels, x.height, x.width)
        return self._layer("layer_norm", x, y, (), _kept_in_float(2 * x.channels, tensors=2))

    def attention(self, query: Activation, key: Activation, value: Activation, heads: int) -> Activation:
        """Scores of every query with every key, their softmax in place, and the weighted values."""
        tokens = key.height * key.width
        scores = Activation(heads, query.height * query.width, tokens)
        y = Activation(value.channels, query.height, query.width)
        self._alive(query, scores, key, value)
        self._alive(scores, y, value)
        moved = query.elements + 2 * scores.elements + value.elements + y.elements
        counts = Counts(multiply_adds=2 * query.elements * tokens)
        self._note("attention", (query.channels, query.height, query.width), (heads,), counts, moved)
        return y

    def add_parameters(self, count: int) -> None:
        """A tensor of parameters that is added in place, such as an embedding of positions."""
        self._counts.append(_kept_in_float(count, tensors=1))

    def add_measured(self, counts: Counts, peak_elements: int, detail: str = "") -> None:
        """A whole network that was measured rather than walked through; it is one block.

        Args:
            counts: of all of it.
            peak_elements: values alive at the same time, at most.
            detail: what tells it from other networks of its family.
        """
        self._peak_elements = max(self._peak_elements, peak_elements)
        with self.block("", detail):
            self._note(WHOLE, (), (), counts, counts.parameters + counts.buffers)

    def _layer(
        self, kind: str, x: Activation, y: Activation, arguments: tuple[int, ...] = (), counts: Counts = NOTHING
    ) -> Activation:
        """Count a layer that makes y of x."""
        self._alive(x, y)
        moved = x.elements + y.elements + counts.parameters + counts.buffers
        self._note(kind, (x.channels, x.height, x.width), arguments, counts, moved)
        return y

    def _note(self, kind: str, shape: tuple[int, ...], arguments: tuple[int, ...], counts: Counts, moved: int) -> None:
        self._counts.append(counts)
        self.layers.append(Layer(kind, shape, arguments, counts.multiply_adds, FLOAT_BYTES * moved))

    def _alive(self, *tensors: Activation) -> None:
        """While a layer runs, its inputs, its output and everything held are alive."""
        elements = sum([tensor.elements for tensor in {*tensors, *self._held}])
        self._peak_elements = max(self._peak_elements, elements)


def _kept_in_float(parameters: int, tensors: int) -> Counts:
    """Parameters that stay in float32 when the weights of other layers are in int8."""
    return Counts(parameters=parameters, tensors=tensors, int8_bytes=FLOAT_BYTES * parameters)


def _slid(x: Activation, channels: int, kernel: int, stride: int, padding: int) -> Activation:
    """What a window that slides over x makes of it."""
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (x.height, x.width))
    return Activation(channels, height, width)
