"""``pt2``: a program of torch.export, which runs with PyTorch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from proard.export.formats.base import Format, Runner, Source
from proard.export.formats.errors import ExportError, one_line

PRIVATE = ("stack_trace", "from_node")  # paths and source lines of the machine that exported, and most of the bytes


class Pt2(Format):
    """A torch.export program with a free batch size."""

    name = "pt2"
    file = "student.pt2"

    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the student as a torch.export program."""
        torch.export.save(exported(self.name, source.student, source.example), path)
        return {"batch": "any", "torch": torch.__version__}

    def load(self, path: Path) -> Runner:
        """The written program, run by PyTorch without gradients."""
        program = torch.export.load(path).module()

        @torch.no_grad()
        def run(images: torch.Tensor) -> torch.Tensor:
            return program(images)

        return Runner(run)


def exported(name: str, network: nn.Module, example: torch.Tensor, batch: int | None = None) -> Any:
    """A torch.export program of a network, for one batch size or (None) for any.

    Raises:
        ExportError: torch.export does not take the network.
    """
    try:
        if batch is None:
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        else:
            program = torch.export.export(network, (example[:1].repeat(batch, 1, 1, 1),))
    except Exception as error:
        raise ExportError(f"--format {name}: torch.export refuses this network ({one_line(error)})") from error
    for node in program.graph.nodes:
        for key in PRIVATE:
            node.meta.pop(key, None)
    return program
