"""``executorch``: a program for ExecuTorch, PyTorch's runtime for phones and small devices, on its XNNPACK backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from proard.export.formats.base import Format, Runner, Source, require_agreement
from proard.export.formats.errors import ExportError, one_line
from proard.export.formats.pt2 import exported


class ExecuTorch(Format):
    """A float32 ``.pte`` file; what XNNPACK has no kernel for runs on ExecuTorch's portable ones.

    ExecuTorch plans its memory ahead, so the batch size is fixed: 1, unless the source asks for another one.
    """

    name = "executorch"
    file = "student.pte"
    packages = ("executorch",)
    extra = "executorch"

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the program, run it, and compare it with the student on the calibration images."""
        batch = source.static_batch or 1
        program = exported(self.name, source.student, source.example, batch)
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:
            raise ExportError(f"--format {self.name}: cannot lower this network ({one_line(error)})") from error
        path.write_bytes(lowered.buffer)
        with torch.no_grad():
            expected = source.student(source.images)
        difference = require_agreement(self.name, self.load(path)(source.images), expected)
        checked = {"images": len(expected), "max_logit_difference": difference}
        return {"backend": "XNNPACK", "batch": batch, "checked": checked}

    def load(self, path: Path) -> Runner:
        """The written file, run by ExecuTorch."""
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(path)
        method = program.load_method("forward")

        def run(images: torch.Tensor) -> torch.Tensor:
            return method.execute((images,))[0].clone()  # the runtime reuses the memory of its outputs

        return Runner(run, method.metadata.input_tensor_meta(0).sizes()[0])
