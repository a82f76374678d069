"""Where a teacher's network comes from: one function per kind of source.

Files are read without executing anything in them, except a ``.pt2``: a torch.export program is code by nature (it names
the functions it calls, and its guards are compiled as Python), so the configuration must say that it is trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from proard.common.errors import UserError, reason
from proard.common.paths import path_of
from proard.export.student_directory import WEIGHTS, load_student
from proard.supernet import families
from proard.supernet.calibration import add_running_statistics
from proard.supernet.families.timm import TimmFamily, check_name, published_normalisation, published_shape
from proard.training.teachers import robustbench
from proard.training.teachers.request import Request
from proard.training.weights import load_weights, only_weights, read_weights


def file_of(request: Request) -> Path | None:
    """The one file that a teacher's weights are in, there or still to be downloaded; None if there is none.

    Raises:
        UserError: the source is not on this machine and may not be downloaded.
    """
    kind, file = request.config.kind, request.config.file
    if kind == "robustbench":
        return robustbench.file_of(request)
    if kind == "directory":
        if not request.path.is_dir():
            raise UserError(
                "no such directory; a teacher is frozen, joint, a student directory, a file (.pt2, "
                ".pt, .pth, .safetensors), timm:NAME, or robustbench:NAME"
            )
        return request.path / WEIGHTS
    path = request.path if kind in ("program", "weights") else path_of(file) if file is not None else None
    if path is not None and not path.is_file():
        raise UserError(f"no file {path}")
    return path


def _directory(request: Request, _: Path | None) -> nn.Module:
    student = load_student(request.path)
    card = student.card
    assert isinstance(card, dict)
    if len(card["classes"]) != len(request.class_names):
        raise UserError(f"it has {len(card['classes'])} classes, the data has {len(request.class_names)}")
    if tuple(card["classes"]) != request.class_names:
        raise UserError("it was trained for other classes than those of the data")
    if tuple(card["input_shape"]) != request.input_shape:
        shapes = [" x ".join(map(str, shape)) for shape in (card["input_shape"], request.input_shape)]
        raise UserError(f"it takes images of {shapes[0]}, not {shapes[1]}; teacher.image_size resizes them")
    return student


def _program(request: Request, file: Path | None) -> nn.Module:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # PyTorch logs the whole traceback of what is said in one line below
    try:
        with only_weights():
            program = torch.export.load(str(file))
        if request.device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, request.device)
        return program.module()
    except Exception as error:
        raise UserError(f"not a torch.export program that this PyTorch can load ({reason(error)})") from error
    finally:
        logging.disable(before)


def _weights(request: Request, file: Path | None) -> nn.Module:
    assert file is not None
    family = _timm_family(request, str(request.config.architecture))
    return _filled(family, read_weights(file))


def _timm(request: Request, file: Path | None) -> nn.Module:
    name = str(request.config.source).removeprefix("timm:")
    family = _timm_family(request, name)
    if file is not None:
        return _filled(family, read_weights(file))
    classes, shape = published_shape(name)
    if classes != family.num_classes:
        raise UserError(f"its published weights are for {classes} classes, the data has {family.num_classes}")
    if request.config.image_size is None and shape[1:] != request.input_shape[1:]:
        raise UserError(
            f"its published weights are for images of {shape[1]} x {shape[2]}, the data has "
            f"{request.input_shape[1]} x {request.input_shape[2]}; set teacher.image_size to the side that it shall see"
        )
    return _filled(family, family.published_weights())


def _timm_family(request: Request, model: str) -> TimmFamily:
    config = request.config
    check_name(model)
    options = {"model": model, "model_options": config.architecture_options}
    stated = published_normalisation(model, request.input_shape[0])
    given = {name: value for name, value in (("mean", config.mean), ("std", config.std)) if value is not None}
    family = families.build(
        "timm",
        {**options, **stated, **given},
        num_classes=len(request.class_names),
        input_shape=request.input_shape,
    )
    assert isinstance(family, TimmFamily)
    return family


def _filled(family: TimmFamily, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The family's network with these weights, in evaluation mode."""
    network = family.network(family.model)
    add_running_statistics(network)
    load_weights(network, weights)
    return network.eval()


LOADERS: dict[str, Callable[[Request, Path | None], nn.Module]] = {
    "directory": _directory,
    "program": _program,
    "weights": _weights,
    "timm": _timm,
    "robustbench": robustbench.load,
}
"""Per kind, what makes the network, in evaluation mode where it has modes; a UserError says why it cannot."""
