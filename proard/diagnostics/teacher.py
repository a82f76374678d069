"""The teacher that ``proard evaluate --diagnose --teacher`` names."""

from __future__ import annotations

import torch
import yaml
from pydantic import ValidationError

from proard.config import TeacherConfig
from proard.data import DataSplits
from proard.errors import UserError, nearest
from proard.teachers import ExternalTeacher, load_teacher


def named_teacher(text: str, data: DataSplits, *, data_name: str, norm: str, device: torch.device) -> ExternalTeacher:
    """Load a teacher by its source alone, or by a section ``teacher:`` of a configuration in braces.

    Args:
        text: such as a student directory, ``robustbench:NAME``, or ``{source: weights.pt, architecture: resnet18}``.
        data: the images that student and teacher see.
        data_name: of the data set.
        norm: of the threat model.
        device: where it runs.

    Raises:
        UserError: not a source, or a teacher that cannot be loaded or does not fit the images.
    """
    in_braces = text.lstrip().startswith("{")
    try:
        config = TeacherConfig.model_validate(yaml.safe_load(text) if in_braces else text)
    except yaml.YAMLError:
        raise UserError(f"--teacher {text}: not valid YAML; write it as {{source: ..., architecture: ...}}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        message, key = problem["msg"].removeprefix("Value error, "), ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            message = f"unknown key '{key}'{nearest(key, TeacherConfig.model_fields)}"
        elif key:
            message = f"{key}: {message}"
        if not in_braces:
            message += f"; options go into braces: --teacher '{{source: {text}, ...}}'"
        raise UserError(f"--teacher {text}: {message}") from None
    if config.source is None:
        raise UserError(f"--teacher {text}: name a student directory, a file, timm:NAME or robustbench:NAME")
    return load_teacher(config, data.class_names, data.input_shape, data_name=data_name, norm=norm, device=device)
