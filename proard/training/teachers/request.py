"""What is asked of a teacher from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from proard.common.paths import path_of
from proard.config import TeacherConfig
from proard.export.named import student_folder


@dataclass(frozen=True)
class Request:
    """A teacher that is asked for, and what it must fit.

    Attributes:
        config: the section `teacher:`.
        class_names: of the data.
        input_shape: (C, H, W) of the images that the network sees: resized already.
        data_name: of the data set.
        norm: of the threat model.
        device: where it will run.
    """

    config: TeacherConfig
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    data_name: str
    norm: str
    device: torch.device

    @property
    def path(self) -> Path:
        """The source as a path; that of a student on a hub, where its files are."""
        return student_folder(path_of(str(self.config.source)))
