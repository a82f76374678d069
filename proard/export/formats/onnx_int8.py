"""``onnx-int8``: the quantised student as an ONNX model with QuantizeLinear and DequantizeLinear (QDQ).

Runtimes that know QDQ, such as onnxruntime, fuse it into int8 kernels; those that do not compute the same in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proard.export.formats.base import Source
from proard.export.formats.errors import ExportError
from proard.export.formats.onnx import Onnx, onnx_model, save


class OnnxInt8(Onnx):
    """An ONNX model with int8 weights per channel; input ``images`` (float, in [0, 1]), output ``logits`` (float)."""

    name = "onnx-int8"
    file = "student.int8.onnx"
    packages = ("torchao", "onnx", "onnxscript", "onnxruntime")
    extra = "int8"
    int8 = True

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the model, and check that onnxruntime runs it to finite logits."""
        # Not optimised: folding constants would turn the int8 weights back into float32.
        model = onnx_model(self.name, source.quantised.network, source, optimise=False)
        _tidy(model)
        described = save(self.name, model, source, path)
        if not self.load(path)(source.images[:2]).isfinite().all():
            raise ExportError(f"--format {self.name}: the file gives logits that are not finite")
        return {**described, "representation": "QDQ", **source.quantised.settings}


def _tidy(model: Any) -> None:
    """Fold casts of scales and zero points into constants, as runtimes expect them, and drop what is not used."""
    from onnx import helper, numpy_helper

    constants = {entry.name: entry for entry in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in constants]:
        kind = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
        value = numpy_helper.to_array(constants[node.input[0]]).astype(kind)
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for entry in [entry for entry in model.graph.initializer if entry.name not in used]:
        model.graph.initializer.remove(entry)
