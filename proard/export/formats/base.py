"""What every format is: how a student is written, and how the written file is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from proard.export.formats.errors import ExportError

if TYPE_CHECKING:
    from proard.export.formats.quantisation import Quantised

TOLERANCE = 1e-4  # how far logits of a file in float32 may be from the student's
RANDOM_IMAGES = 32  # stand in for calibration images where a caller has none


@dataclass(frozen=True)
class Source:
    """A student as the formats take it.

    Attributes:
        student: on the CPU, float32, in evaluation mode.
        example: two images (2, C, H, W), for the shapes.
        calibration: validation images (N, C, H, W) in [0, 1]: ranges of activations are measured on them, and files
            are compared with the student. None for random ones, which is enough to compare.
        static_batch: the one batch size that ONNX and ExecuTorch files take; None for any (ExecuTorch: 1).
    """

    student: nn.Module
    example: torch.Tensor
    calibration: torch.Tensor | None = None
    static_batch: int | None = None

    @cached_property
    def images(self) -> torch.Tensor:
        """The calibration images, or random ones."""
        if self.calibration is not None:
            return self.calibration.detach().cpu().float()
        generator = torch.Generator().manual_seed(0)
        return torch.rand((RANDOM_IMAGES, *self.example.shape[1:]), generator=generator)

    @cached_property
    def quantised(self) -> Quantised:
        """The student in int8, made once for all int8 formats, so that they hold the same network."""
        from proard.export.formats.quantisation import quantise

        return quantise(self.student, self.images)


class Runner(nn.Module):
    """A written file as a network: images (N, C, H, W) in [0, 1] to logits (N, K), both on the images' device.

    Args:
        run: the same for float32 images on the CPU.
        batch: the only batch size that it takes, if there is one; shorter batches are filled up.
    """

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], batch: int | None = None) -> None:
        super().__init__()
        self.run, self.batch = run, batch
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images, however many: where the file takes one batch size alone, in batches of that size."""
        x = images.detach().float().cpu().contiguous()
        if self.batch is None:
            return self.run(x).to(images.device)
        logits = []
        for part in x.split(self.batch):
            filled = torch.cat([part, part.new_zeros(self.batch - len(part), *part.shape[1:])])
            logits.append(self.run(filled)[: len(part)])
        return torch.cat(logits).to(images.device)


class Format(ABC):
    """A kind of file that a student can be written to: how it is written, and how the written file is run.

    Attributes:
        name: what ``--format`` takes.
        file: the file's name in a student directory.
        packages: optional packages that it needs.
        extra: of proard, which brings them.
        int8: whether it computes in int8, and so is another function than the student.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    int8: ClassVar[bool] = False

    @abstractmethod
    def write(self, source: Source, path: Path) -> dict[str, Any]:
        """Write the student to a file.

        Returns:
            What a person who runs it should know, for the card: opset, batch size, how it was quantised.

        Raises:
            ExportError: it cannot be written, or does not compute what it should.
        """

    @abstractmethod
    def load(self, path: Path) -> Runner:
        """The written file as a network, to be measured."""

    def surrogate(self, source: Source) -> nn.Module | None:
        """What computes as the file does and has gradients with respect to images; None for the student itself."""
        return source.quantised.straight_through() if self.int8 else None


def require_agreement(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> float:
    """The largest difference of logits (N, K); refused above the tolerance or where predictions differ.

    Raises:
        ExportError: says how much they differ.
    """
    if found.shape != expected.shape or not torch.isfinite(found).all():
        raise ExportError(f"--format {name}: the file gives logits that are not finite or of another shape")
    difference = float((found - expected).abs().max())
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    if difference > tolerance or other:
        raise ExportError(
            f"--format {name}: the file does not compute what the student computes (logits differ by {difference:.3g}, "
            f"at most {tolerance:g} is allowed; {other} of {len(found)} predictions differ)"
        )
    return difference
