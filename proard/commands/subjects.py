"""What `evaluate` can measure: student directories, and networks from elsewhere on the data of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from proard.attacks import Attack
from proard.attacks.presets import attack_from_dict
from proard.common.errors import UserError, nearest, reason
from proard.common.paths import path_of
from proard.config import DataConfig, TeacherConfig, load_config
from proard.data import TestSplit, data_sets, given_arrays, given_test_images, load_test_split, tested_on
from proard.data.arrays import digest
from proard.export.named import is_named, student_folder
from proard.export.student_directory import CARD, load_student
from proard.runs import components
from proard.runs.run import Run
from proard.supernet.measured_network import multiply_adds
from proard.training.teachers import load_teacher


@dataclass(frozen=True)
class Subject:
    """A network, and what its numbers are measured on.

    Attributes:
        path: of its directory, or what it was named by.
        card: its student.json; of a network from elsewhere, what a table shows.
        network: images in [0, 1] to logits, on the device.
        settings: of the data.
        data: the test images.
        attacks: those of the numbers on record, or of the configuration; at least one.
        seed: of the attacks and of subsets.
        limit: the number of test images, if not all.
        own: whether it is a student directory, and the images are those of its card.
    """

    path: Path
    card: dict[str, Any]
    network: nn.Module
    settings: DataConfig
    data: TestSplit
    attacks: list[Attack]
    seed: int
    limit: int | None
    own: bool = True


@dataclass
class Subjects:
    """Loads them one after the other.

    Attributes:
        data_root: where the images are; None for where they were.
        given: test images as arrays, in the place of those.
        device: of the networks.
        loaded: images, which the students of one run share.
    """

    data_root: str | Path | None
    given: Sequence[Any] | None
    device: torch.device
    loaded: dict[tuple[DataConfig, tuple[str, ...]], TestSplit] = field(default_factory=dict)

    def student(self, folder: Path) -> Subject:
        """A student directory, with what its card says.

        Raises:
            UserError: it is missing or damaged, or its images are not there or not those of its card.
        """
        network = load_student(folder).to(self.device)
        card: dict[str, Any] = network.card  # type: ignore[assignment]
        settings, attacks, seed, limit = _recorded(card, folder)
        if settings.name not in data_sets.names():
            raise UserError(
                f"student {folder}: its card names an unknown data set '{settings.name}'"
                f"{nearest(settings.name, data_sets.names())} (--import MODULE registers one of your own)"
            )
        classes = tuple(card["classes"])
        if (settings, classes) not in self.loaded:
            self.loaded[settings, classes] = self._test_data(settings, classes, folder)
        data = self.loaded[settings, classes]
        if data.class_names != classes:
            raise UserError(
                f"student {folder}: the data {settings.name} at {settings.root} have other classes than its card"
            )
        takes, given = ("x".join(map(str, shape)) for shape in (card["input_shape"], data.input_shape))
        if takes != given:
            raise UserError(f"student {folder}: takes images of {takes}, and those to evaluate it on are {given}")
        return Subject(folder, card, network, settings, data, attacks, seed, limit, self._has_images_of(settings))

    def elsewhere(self, source: str, config_name: str) -> Subject:
        """A network that `teacher_config` names, on the test images, and by the evaluation, of a configuration.

        Raises:
            UserError: no such configuration, its images are not there, or the network cannot be loaded or does not fit.
        """
        config = load_config(config_name)
        threat = components.threat_model(config)
        attack = components.attack(config.evaluation.attack, threat, "evaluation.attack")
        data = self._test_data(config.data, (), Path())
        network = load_teacher(
            teacher_config(source, "network"),
            data.class_names,
            data.input_shape,
            data_name=config.data.name,
            norm=threat.norm,
            device=self.device,
        )
        for norm in network.modules():
            if isinstance(norm, _BatchNorm):
                norm.num_batches_tracked = None  # 0 in weights from another library: whoever made them vouches for them
        counts = outside_costs(network, data.input_shape)
        card = {"family": "from elsewhere", "family_options": {}, "architecture": {}, **counts}
        card |= {"num_classes": len(data.class_names), "input_shape": list(data.input_shape)}
        seed, limit = config.seed, config.evaluation.limit
        return Subject(Path(source), card, network, config.data, data, [attack], seed, limit, own=False)

    def _has_images_of(self, settings: DataConfig) -> bool:
        """Whether no other images are given: none at all, or the arrays that the student was trained on."""
        recorded = settings.options.get("sha256")
        if self.given is None or recorded is None or len(self.given) == 2:
            return self.given is None
        return self._digest == recorded

    @cached_property
    def _digest(self) -> str | None:
        """Of the given arrays, once for all students."""
        loaded = given_arrays(self.given)
        return None if loaded is None else digest(loaded)

    def _test_data(self, settings: DataConfig, classes: tuple[str, ...], student: Path) -> TestSplit:
        """The test images, where they are on this machine; never fetched: that asks who trains, not who evaluates.

        A card may name a folder relative to its own.
        """
        if self.given is not None:
            return tested_on(*given_test_images(self.given, classes))
        root = settings.root if self.data_root is None else path_of(self.data_root)
        if self.data_root is None and root is not None and not is_named(root) and not path_of(root).is_absolute():
            root = student_folder(student) / root
        try:
            return load_test_split(settings.model_copy(update={"root": root, "download": False}), classes)
        except UserError as error:
            if settings.name == "arrays":
                raise
            raise UserError(f"{error} (--data-root DIR says where the images are on this machine)") from error


def outside_costs(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds for an image, and parameters."""
    device = next(network.parameters(), torch.empty(0)).device
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"multiply_adds": multiply_adds(network, input_shape, device), "parameters": parameters}


def _recorded(card: dict[str, Any], folder: Path) -> tuple[DataConfig, list[Attack], int, int | None]:
    """How a card's numbers were made: the data, the attacks, their seed, and the number of test images if not all."""
    try:
        evaluation = card["evaluation"]
        attacks = [attack_from_dict(robust["attack"]) for robust in evaluation["robust"]]
        if not attacks:
            raise ValueError("no attack is recorded")
        return DataConfig.model_validate(card["data"]), attacks, int(evaluation["seed"]), evaluation["limit"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"student {folder / CARD}: its data or evaluation are damaged ({reason(error)})") from error


def student_directories(path: Path) -> list[Path]:
    """The student that a path is, or those of the run that it is.

    Raises:
        UserError: it is neither, or the run has no student.
    """
    if is_named(path) or (path / CARD).is_file():
        return [path]
    if Run(path).config_file.is_file():
        found = sorted(file.parent for file in Run(path).students.glob(f"*/{CARD}"))
        if not found:
            raise UserError(
                f"run {path}: no students in it yet; 'proard extract --run {path} --flops 100M' cuts one out "
                "(without a budget in mode student)"
            )
        return found
    raise UserError(f"{path}: neither a student directory (with {CARD}) nor a run directory (with config.yaml)")


def teacher_config(text: str, option: str = "--teacher") -> TeacherConfig:
    """A network by its source alone, or as ``{source: weights.pt, architecture: resnet18}`` in braces.

    Raises:
        UserError: it is no such thing; begins with ``option``.
    """
    in_braces = text.lstrip().startswith("{")
    try:
        config = TeacherConfig.model_validate(yaml.safe_load(text) if in_braces else text)
    except yaml.YAMLError:
        raise UserError(f"{option} {text}: not valid YAML; write it as {{source: ..., architecture: ...}}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        message, key = problem["msg"].removeprefix("Value error, "), ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            message = f"unknown key '{key}'{nearest(key, TeacherConfig.model_fields)}"
        elif key:
            message = f"{key}: {message}"
        if not in_braces:
            message += f"; options go into braces: '{{source: {text}, ...}}'"
        raise UserError(f"{option} {text}: {message}") from None
    if config.source is None:
        raise UserError(f"{option} {text}: name a student directory, a file, timm:NAME or robustbench:NAME")
    return config
