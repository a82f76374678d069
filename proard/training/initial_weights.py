"""Beginning with the weights of another run's supernet (``supernet.weights``), or of one network (``student``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from proard.common.errors import UserError, located
from proard.config import Config
from proard.data import DataSplits
from proard.export.named import student_folder
from proard.export.student_directory import WEIGHTS, read_card
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.supernet import Supernet, families
from proard.supernet.families.timm import TimmFamily
from proard.training.weights import load_weights, read_weights

STATED = ("normalize.mean", "normalize.std")  # of the training images; the tensors that two runs may round differently
TOLERANCE = 1e-3


def load_run_weights(config: Config, supernet: Supernet, data: DataSplits) -> None:
    """Give the supernet the best weights of the run that the resolved configuration names, if it names one.

    Raises:
        UserError: no run there, no checkpoint, or one of another network; the message says what differs.
    """
    path = config.supernet.weights
    if path is None:
        return
    with located(f"supernet.weights {path}"):
        run = Run.find(path)
        other = run.config()
        state = load_checkpoint(run.checkpoint)
        _check_same(other, config, supernet, data)
        weights = state["best"]["weights"] if state["best"] else state["supernet"]
        _check_fit(weights, supernet)
    supernet.load_state_dict({name: t for name, t in weights.items() if name not in STATED}, strict=False)


def _check_same(other: Config, config: Config, supernet: Supernet, data: DataSplits) -> None:
    """Refuse a run whose network is described otherwise."""
    theirs, own = other.supernet, config.supernet
    pairs: dict[str, tuple[object, object]] = {
        "mode": (other.mode, config.mode),
        "data.name": (other.data.name, config.data.name),
        "data.image_size": (other.data.image_size, config.data.image_size),
        "supernet.family": (theirs.family, own.family),
    }
    _refuse_differences(pairs)
    normalisation = {"mean": supernet.family.mean, "std": supernet.family.std}  # compared in the weights
    options = {name: value for name, value in theirs.options.items() if name not in normalisation}
    images = {"input_shape": data.input_shape, "num_classes": data.num_classes}
    family = families.build(theirs.family, {**options, **normalisation, **images}, where="its supernet")
    names = [field.name for field in fields(family)]
    _refuse_differences({f"supernet.{n}": (getattr(family, n), getattr(supernet.family, n)) for n in names})


def _refuse_differences(pairs: Mapping[str, tuple[object, object]]) -> None:
    for name, (there, here) in pairs.items():
        if there != here:
            raise UserError(f"{name} is {there} there and {here} here; a supernet begins with weights of its own kind")


def _check_fit(weights: dict[str, torch.Tensor], supernet: Supernet) -> None:
    """Refuse weights whose tensors are others, such as a classifier for another number of classes."""
    own = supernet.state_dict()
    for name in dict.fromkeys([*own, *weights]):
        shapes = [list(tensors[name].shape) if name in tensors else "missing" for tensors in (weights, own)]
        if shapes[0] != shapes[1]:
            raise UserError(f"its tensor {name} is {shapes[0]}, and {shapes[1]} here")
    for name in STATED:
        if name in own and not torch.allclose(weights[name], own[name].cpu(), atol=TOLERANCE):
            values = weights[name].flatten().tolist()
            key = "supernet." + name.rpartition(".")[2]
            raise UserError(f"its images were normalised otherwise; set {key}: {[round(v, 4) for v in values]}")


def load_initial_weights(config: Config, supernet: Supernet, data: DataSplits) -> None:
    """Give the one network the weights that the resolved configuration begins with, if it names some.

    Batch-norm statistics among them are dropped: in training there are none. A student directory's network must fit the
    images that will be trained on.

    Raises:
        UserError: the weights are not there, damaged, or of another network.
    """
    path, family = config.student.weights, supernet.family
    if config.student.pretrained:
        assert isinstance(family, TimmFamily)
        with located("student.pretrained"):
            load_weights(supernet, family.published_weights())
    elif path is not None:
        with located(f"student.weights {path}"):
            path = student_folder(path)
            if path.is_dir():
                _check_images(read_card(path), data)
            load_weights(supernet, read_weights(path / WEIGHTS if path.is_dir() else path))


def _check_images(card: dict[str, Any], data: DataSplits) -> None:
    """Refuse a student made for images of another shape, or for another number of classes."""
    has, wants = (tuple(card["input_shape"]), len(card["classes"])), (data.input_shape, data.num_classes)
    if has != wants:
        texts = [f"images of {' x '.join(map(str, shape))} and {classes} classes" for shape, classes in (has, wants)]
        raise UserError(f"the student is for {texts[0]}, the data has {texts[1]}")
