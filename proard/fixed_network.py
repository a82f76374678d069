"""`mode: student`: training one fixed network, which is a supernet over a search space of one architecture.

`resolve` turns every way to name that network into a family, its options and an architecture, so that all that comes
after knows one form, and a run does not depend on the directory its network was described in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proard.config import Config, StudentConfig, SupernetConfig
from proard.data import DataSplits
from proard.errors import UserError
from proard.export import WEIGHTS, read_card
from proard.supernet import Supernet
from proard.supernet.families.timm import TimmFamily, check_name, published_normalisation
from proard.weights import load_weights, read_weights


def resolve(config: Config) -> Config:
    """The same run in a form that means the same from any folder.

    Paths become absolute. In `mode: student`, a student directory becomes the family, options and architecture on its
    card, with its weights to begin with; a timm model becomes the family ``timm``.

    Raises:
        UserError: a student directory that is not one, or a timm model that does not exist.
    """
    teacher, student, supernet = config.teacher, config.student, config.supernet
    if teacher.kind in ("directory", "program", "weights"):
        teacher = teacher.model_copy(update={"source": str(_absolute(Path(str(teacher.source))))})
    if teacher.file is not None:
        teacher = teacher.model_copy(update={"file": _absolute(teacher.file)})
    if supernet.weights is not None:
        supernet = supernet.model_copy(update={"weights": _absolute(supernet.weights)})
    if student.directory is not None:
        directory = _absolute(student.directory)
        try:
            card = read_card(directory)
        except UserError as error:
            raise UserError(f"student.directory: {error}") from error
        supernet = SupernetConfig(family=card["family"], **card["family_options"])
        student = StudentConfig(architecture=card["architecture"], weights=directory)
    elif student.timm is not None:
        try:
            check_name(student.timm)
        except UserError as error:
            raise UserError(f"student.timm: {error}") from error
        options: dict[str, Any] = {"model": student.timm, "model_options": student.options}
        options |= {name: value for name in ("mean", "std") if (value := getattr(student, name)) is not None}
        supernet = SupernetConfig(family="timm", **options)
        student = StudentConfig(pretrained=student.pretrained, weights=student.weights)
    if student.weights is not None:
        student = student.model_copy(update={"weights": _absolute(student.weights)})
    if config.mode == "student" and student.architecture is None:
        student = student.model_copy(update={"architecture": "largest"})
    return config.model_copy(update={"teacher": teacher, "student": student, "supernet": supernet})


def published_options(config: Config, channels: int) -> dict[str, Any]:
    """Normalisation that goes with a timm model's weights, where the network begins with weights."""
    if config.supernet.family != "timm" or not (config.student.pretrained or config.student.weights):
        return {}
    model = str(config.supernet.options.get("model", TimmFamily.model))
    check_name(model)
    return dict(published_normalisation(model, channels))


def load_initial_weights(config: Config, supernet: Supernet, data: DataSplits) -> None:
    """Give the one network the weights that the configuration begins with, if it names some.

    Batch-norm statistics among them are dropped: in training there are none.

    Args:
        config: resolved.
        supernet: of one architecture.
        data: what it will be trained on, which a student directory's network must fit.

    Raises:
        UserError: the weights are not there, damaged, or of another network.
    """
    student, family = config.student, supernet.family
    try:
        if student.pretrained:
            assert isinstance(family, TimmFamily)
            load_weights(supernet, family.published_weights())
        elif student.weights is not None:
            path = student.weights
            if path.is_dir():
                _check_fit(read_card(path), data)
                path = path / WEIGHTS
            load_weights(supernet, read_weights(path))
    except UserError as error:
        key = "pretrained" if student.pretrained else f"weights {student.weights}"
        raise UserError(f"student.{key}: {error}") from error


def _check_fit(card: dict[str, Any], data: DataSplits) -> None:
    has, wants = (tuple(card["input_shape"]), len(card["classes"])), (data.input_shape, data.num_classes)
    if has != wants:
        texts = [f"images of {' x '.join(map(str, shape))} and {classes} classes" for shape, classes in (has, wants)]
        raise UserError(f"the student is for {texts[0]}, the data has {texts[1]}")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()
