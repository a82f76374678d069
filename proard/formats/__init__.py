"""Files that run a student on a device: one module per format, and how each is measured."""

from proard.formats.base import ExportError, Format, Runner, Source
from proard.formats.evaluation import FormatChecks, evaluate_formats
from proard.formats.executorch import ExecuTorch
from proard.formats.onnx import Onnx
from proard.formats.onnx_int8 import OnnxInt8
from proard.formats.pt2 import Pt2
from proard.formats.pt2_int8 import Pt2Int8
from proard.formats.safetensors import Safetensors

FORMATS: dict[str, Format] = {
    entry.name: entry for entry in (Safetensors(), Pt2(), Onnx(), OnnxInt8(), Pt2Int8(), ExecuTorch())
}
"""By the name that ``--format`` takes. Any callable (student, example, path) may be added: it is written, not run."""

__all__ = ["FORMATS", "ExportError", "Format", "FormatChecks", "Runner", "Source", "evaluate_formats"]
