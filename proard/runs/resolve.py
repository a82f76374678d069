"""`mode: student`: training one fixed network, which is a supernet over a search space of one architecture.

`resolve` turns every way to name that network into a family, its options and an architecture, so that all that comes
after knows one form, and a run does not depend on the directory its network was described in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proard.common.errors import located
from proard.common.paths import path_of
from proard.config import Config, StudentConfig, SupernetConfig
from proard.export.named import is_named
from proard.export.student_directory import read_card
from proard.supernet.families.timm import TimmFamily, check_name, published_normalisation


def resolve(config: Config) -> Config:
    """The same run in a form that means the same from any folder.

    Paths become absolute. In `mode: student`, a student directory becomes the family, options and architecture on its
    card, with its weights to begin with; a timm model becomes the family ``timm``.

    Raises:
        UserError: a student directory that is not one, or a timm model that does not exist.
    """
    teacher, student, supernet, data = config.teacher, config.student, config.supernet, config.data
    if data.root is not None:
        data = data.model_copy(update={"root": absolute(data.root)})
    if data.extra is not None:
        data = data.model_copy(update={"extra": data.extra.model_copy(update={"file": absolute(data.extra.file)})})
    if teacher.kind in ("directory", "program", "weights"):
        teacher = teacher.model_copy(update={"source": str(absolute(Path(str(teacher.source))))})
    if teacher.file is not None:
        teacher = teacher.model_copy(update={"file": absolute(teacher.file)})
    if supernet.weights is not None:
        supernet = supernet.model_copy(update={"weights": absolute(supernet.weights)})
    if student.directory is not None:
        directory = absolute(student.directory)
        with located("student.directory"):
            card = read_card(directory)
        supernet = SupernetConfig(family=card["family"], **card["family_options"])
        student = StudentConfig(architecture=card["architecture"], weights=directory)
    elif student.timm is not None:
        with located("student.timm"):
            check_name(student.timm)
        options: dict[str, Any] = {"model": student.timm, "model_options": student.options}
        options |= {name: value for name in ("mean", "std") if (value := getattr(student, name)) is not None}
        supernet = SupernetConfig(family="timm", **options)
        student = StudentConfig(pretrained=student.pretrained, weights=student.weights)
    if student.weights is not None:
        student = student.model_copy(update={"weights": absolute(student.weights)})
    if config.mode == "student" and student.architecture is None:
        student = student.model_copy(update={"architecture": "largest"})
    return config.model_copy(update={"data": data, "teacher": teacher, "student": student, "supernet": supernet})


def published_options(config: Config, channels: int) -> dict[str, Any]:
    """Normalisation that goes with a timm model's weights, where the network begins with weights."""
    if config.supernet.family != "timm" or not (config.student.pretrained or config.student.weights):
        return {}
    model = str(config.supernet.options.get("model", TimmFamily.model))
    check_name(model)
    return dict(published_normalisation(model, channels))


def absolute(path: Path) -> Path:
    """A path that means the same from any folder; what has a name (`is_named`) does so already."""
    return path if is_named(path) else path_of(path).absolute()
