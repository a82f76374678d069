"""``safetensors``: the weights alone, which `proard.load_student` loads; nothing that runs by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def write_weights(student: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write a student's weights and statistics."""
    save_file({name: tensor.contiguous() for name, tensor in student.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors makes it readable for its owner alone
