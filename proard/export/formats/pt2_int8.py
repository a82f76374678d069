"""``pt2-int8``: the quantised student as a program of torch.export, in the form that PT2E backends lower."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from proard.export.formats.base import Runner, Source
from proard.export.formats.pt2 import Pt2, exported

OPERATORS = "torch.ao.quantization.fx._decomposed"
"""The module of PyTorch that registers the operators of quantised programs; to be imported before one is loaded."""


class Pt2Int8(Pt2):
    """A torch.export program with int8 weights and explicit quantisation of activations; free batch size.

    Run as it is, it computes in float32 what int8 arithmetic computes; ``torch.compile`` and other backends of PT2E
    lower it to int8 kernels.
    """

    name = "pt2-int8"
    file = "student.int8.pt2"
    packages = ("torchao",)
    extra = "int8"
    int8 = True

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the int8 student as a torch.export program."""
        torch.export.save(exported(self.name, source.quantised.network, source.example), path)
        return {"batch": "any", "torch": torch.__version__, "needs_import": OPERATORS, **source.quantised.settings}

    def load(self, path: Path) -> Runner:
        """The written program, run by PyTorch."""
        import_module(OPERATORS)
        return super().load(path)
