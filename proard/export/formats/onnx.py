"""``onnx``: an ONNX model for the many runtimes that take one, compared with the student in onnxruntime."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import torch

from proard.export.formats.base import Format, Runner, Source, require_agreement
from proard.export.formats.errors import ExportError, one_line
from proard.export.formats.pt2 import exported


class Onnx(Format):
    """A float32 ONNX model; input ``images``, output ``logits``."""

    name = "onnx"
    file = "student.onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the model, load it into onnxruntime, and compare it with the student on the calibration images."""
        model = onnx_model(self.name, source.student, source)
        described = save(self.name, model, source, path)
        with torch.no_grad():
            expected = source.student(source.images)
        difference = require_agreement(self.name, self.load(path)(source.images), expected)
        return {**described, "checked": {"images": len(expected), "max_logit_difference": difference}}

    def load(self, path: Path) -> Runner:
        """The written model, run by onnxruntime on the CPU with as many threads as PyTorch uses."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"{path.name}: onnxruntime does not take it ({one_line(error)})") from error
        batch = session.get_inputs()[0].shape[0]

        def run(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        return Runner(run, batch if isinstance(batch, int) else None)


def onnx_model(name: str, network: Any, source: Source, optimise: bool = True) -> Any:
    """The network as an ONNX ModelProto, without the source lines that the exporter adds.

    Raises:
        ExportError: the exporter does not take the network.
    """
    program = exported(name, network, source.example, source.static_batch)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            result = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
                optimize=optimise,
            )
        assert result is not None
        model = result.model_proto
    except Exception as error:
        raise ExportError(f"--format {name}: torch.onnx cannot export this network ({one_line(error)})") from error
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for entry in (model, model.graph, *model.graph.value_info, *model.graph.initializer):
        entry.ClearField("metadata_props")
    return model


def save(name: str, model: Any, source: Source, path: Path) -> dict[str, Any]:
    """Check an ONNX model, and write it in one file; its opset and batch size, for the card.

    Raises:
        ExportError: it is not valid.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
        onnx.save_model(model, str(path))
    except Exception as error:
        raise ExportError(f"--format {name}: the model is not valid ONNX ({one_line(error)})") from error
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": model.ir_version, "batch": source.static_batch or "any"}
