"""``safetensors``: the weights alone, which `write_student` always writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proard.export.formats.base import Format, Runner, Source


class Safetensors(Format):
    """Weights, to be loaded by `proard.load_student`; nothing that runs by itself."""

    name = "safetensors"
    file = "student.safetensors"

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write nothing: the student directory has the file already."""
        return {}

    def load(self, path: Path) -> Runner:
        """Refused: weights alone cannot be run."""
        raise NotImplementedError("proard.load_student loads safetensors")
