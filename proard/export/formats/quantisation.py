"""Post-training static quantisation to int8: one network for every int8 format, and a copy of it with gradients.

Batch norm is folded into the convolutions. Weights of convolutions and linear layers are int8, symmetric, with a scale
per output channel; a scale per tensor ruins depthwise convolutions. They go from -64 to 64, so that a file computes the
same function on every processor. What goes into those layers, comes out of
convolutions and is added on feature maps is uint8, affine, with a scale per tensor from the range seen on validation
images. Everything else stays in float32: normalisation of the image, softmax and layer norm of transformers and their
residual stream, products of attention, squeeze-and-excitation gates, smooth activations, and the logits.

It is built on PT2E of torchao, whose quantisers for certain backends do not take all families; `_quantizer` is ours.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from proard.export.formats.errors import ExportError, one_line

LOW, HIGH = 0, 255  # uint8 activations: the int8 kernels of x86 processors take them as they are
# The dot products of x86 processors without VNNI add pairs of products in 16 bits, and saturate: 2 * 255 * 64 fits.
WEIGHT_HIGH = 64
CALIBRATION_BATCH = 64
aten = torch.ops.aten
WEIGHTED = {aten.conv2d.default, aten.linear.default}
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
CLAMPS = {  # activations that the clamp of a quantisation can replace, and the value above which they are flat
    aten.relu.default: float("inf"),
    aten.relu_.default: float("inf"),
    aten.relu6.default: 6.0,
    aten.hardtanh.default: 6.0,
    aten.hardtanh_.default: 6.0,
}
ABSORBED = "proard_absorbed"  # on a quantisation: the value above which the activation that it replaced is flat
MOVES = ("view", "reshape", "flatten", "unflatten", "transpose", "permute", "expand", "cat", "select", "slice", "sym")
PLAIN = (*MOVES, "getitem", "dropout", "contiguous", "quantize", "dequantize", "_guards", "detach", "alias", "clone")


@dataclass(frozen=True)
class Quantised:
    """A student in int8, as a graph that quantises and dequantises explicitly.

    Attributes:
        network: a graph of float operators between explicit quantisations and dequantisations, with int8 weights.
        settings: how it was quantised, and what stays in float32, for the card.
    """

    network: fx.GraphModule
    settings: dict[str, Any]

    def straight_through(self) -> nn.Module:
        """The same function, in which rounding and clamping have the gradient of the identity.

        Straight-through estimation: Bengio et al., arXiv 1308.3432. The usual form has the gradient of the clamp, which
        is zero outside of the range seen in calibration, and for pixels at its ends, such as black ones: it hides from
        an attack just what the attack needs. Only where the clamp stands for a ReLU or ReLU6 has it that gradient.
        """
        graph_module = copy.deepcopy(self.network)
        for node in graph_module.graph.nodes:
            if _is(node, "quantize_per_tensor"):
                node.target = _round_straight_through
                node.args = (*node.args[:5], node.meta.get(ABSORBED))
            elif _is(node, "dequantize_per_tensor"):
                node.target = _scaled
        graph_module.recompile()
        return _Straight(graph_module.forward)


class _Straight(nn.Module):
    """Hides a graph's submodules: they claim to be in training mode, and refuse to leave it."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.run = run
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, K), on the CPU."""
        return self.run(images.cpu()).to(images.device)


def quantise(student: nn.Module, images: torch.Tensor) -> Quantised:
    """The int8 network of a calibrated student.

    Args:
        student: on the CPU, in evaluation mode; not changed.
        images: (N, C, H, W) in [0, 1], on which the ranges of activations are measured.

    Raises:
        ExportError: the network cannot be quantised.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers an enum in an older way
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        try:
            batch = torch.export.Dim("batch")
            program = torch.export.export(
                copy.deepcopy(student), (images[:1].repeat(2, 1, 1, 1),), dynamic_shapes=({0: batch},)
            )
            prepared = prepare_pt2e(program.module(), _quantizer())
            for part in images.split(CALIBRATION_BATCH):
                prepared(part)
            network = convert_pt2e(prepared)
        except Exception as error:
            raise ExportError(f"int8: this network cannot be quantised ({one_line(error)})") from error
    _drop_clamps(network)
    _drop_unused(network)
    weights = [tensor for tensor in network.state_dict().values() if tensor.dtype == torch.int8]
    if not weights:
        raise ExportError("int8: nothing of this network can be quantised; it has no convolution or linear layer")
    settings = {
        "weights": f"int8 from {-WEIGHT_HIGH} to {WEIGHT_HIGH}, symmetric, a scale per output channel",
        "activations": "uint8, affine, a scale per tensor, from the range on the calibration images",
        "calibration_images": len(images),
        "batch_norm": "folded",
        "int8_weights": sum(tensor.numel() for tensor in weights),
        "float_operations": _float_operations(network),
    }
    return Quantised(network, settings)


def _quantizer() -> Any:
    """The rule of the module's docstring, for PT2E."""
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    activation = QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-16),
        quant_min=LOW,
        quant_max=HIGH,
        qscheme=torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-24),
        quant_min=-WEIGHT_HIGH,
        quant_max=WEIGHT_HIGH,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )

    class PerChannel(Quantizer):
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in WEIGHTED and node.args[1].op == "get_attr":
                    maps = node.target is aten.conv2d.default
                    mark(node, {node.args[0]: activation, node.args[1]: weight}, maps)
                elif node.target in ADDITIONS and all(_is_feature_map(argument) for argument in node.args):
                    mark(node, dict.fromkeys(node.args, activation), True)
            return model

        def validate(self, model: fx.GraphModule) -> None:
            pass

    def mark(node: fx.Node, inputs: dict[Any, Any], output: bool) -> None:
        (last, *others) = node.users
        clamped = not others and last.target in CLAMPS  # one rounding, after the activation
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=activation if output and not clamped else None, _annotated=True
        )
        if output and clamped:
            last.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=activation, _annotated=True)

    return PerChannel()


def _is_feature_map(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dim() == 4


def _is(node: fx.Node, name: str) -> bool:
    return node.op == "call_function" and str(node.target).startswith(f"quantized_decomposed.{name}.")


def _drop_clamps(network: fx.GraphModule) -> None:
    """Remove ReLU and ReLU6 where the quantisation behind clamps to the same range: runtimes then fuse both."""
    for node in list(network.graph.nodes):
        if node.target not in CLAMPS or not all(_is(user, "quantize_per_tensor") for user in node.users):
            continue
        if len(node.args) > 1 and tuple(node.args[1:]) != (0.0, 6.0):
            continue
        if all(
            zero == LOW and scale * (HIGH - LOW) <= CLAMPS[node.target] * (1 + 1e-6)
            for _, scale, zero, *_ in (user.args for user in node.users)
        ):
            for user in node.users:
                user.meta[ABSORBED] = CLAMPS[node.target]
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
    network.recompile()


def _drop_unused(network: fx.GraphModule) -> None:
    """Remove the float weights that the int8 ones replaced; a program would carry them along."""
    network.graph.eliminate_dead_code()
    used = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    for name in [name for name in network.state_dict(keep_vars=True) if name not in used]:
        module, _, attribute = name.rpartition(".")
        delattr(network.get_submodule(module), attribute)
    network.recompile()


def _float_operations(network: fx.GraphModule) -> list[str]:
    """The operators that compute in float32, sorted, without those that only move values."""
    found = set()
    for node in network.graph.nodes:
        name = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_") if node.op == "call_function" else ""
        inputs = node.args[:2] if node.target in WEIGHTED or node.target in ADDITIONS else ()
        if name and not name.startswith(PLAIN) and "quantize" not in name:
            dequantised = [isinstance(n, fx.Node) and "dequantize_per" in str(n.target) for n in inputs]
            if not dequantised or not all(dequantised):
                found.add(name)
    return sorted(found)


def _round_straight_through(
    x: torch.Tensor, scale: float, zero: int, low: int, high: int, flat: float | None
) -> torch.Tensor:
    """The integers of ``quantize_per_tensor`` as float numbers, with the gradient of what they were rounded from.

    Where the clamp replaced an activation that is flat outside of 0 to ``flat``, it is the gradient of that activation.
    """
    integers = torch.clamp(torch.round(x * (1.0 / scale)) + zero, low, high).detach()
    unrounded = x / scale if flat is None else x / scale * ((x > 0) & (x < flat))
    return integers + (unrounded - unrounded.detach())  # the latter is zero, and has the gradient


def _scaled(x: torch.Tensor, scale: float, zero: int, *_: Any, **__: Any) -> torch.Tensor:
    """What ``dequantize_per_tensor`` computes: float numbers for integers."""
    return (x - zero) * scale
