"""Files that run a student on a device: one module per format, and how each is measured."""

from collections.abc import Callable

from proard.export.formats.base import Format, Runner, Source
from proard.export.formats.errors import ExportError
from proard.export.formats.evaluation import FormatChecks, evaluate_formats
from proard.export.formats.executorch import ExecuTorch
from proard.export.formats.onnx import Onnx
from proard.export.formats.onnx_int8 import OnnxInt8
from proard.export.formats.pt2 import Pt2
from proard.export.formats.pt2_int8 import Pt2Int8
from proard.export.formats.safetensors import write_weights

FORMATS: dict[str, Format | Callable[..., None]] = {
    "safetensors": write_weights,
    **{entry.name: entry for entry in (Pt2(), Onnx(), OnnxInt8(), Pt2Int8(), ExecuTorch())},
}
"""By the name that ``--format`` takes. One of your own is added under its name: ``FORMATS["mine"] = Mine()``.

A plain function of (student, example, path) may be added too: the file ``student.NAME`` is written, and never run."""

__all__ = ["FORMATS", "ExportError", "Format", "FormatChecks", "Runner", "Source", "evaluate_formats"]
