"""What an attack is given: made usable where that is safe, refused in one line where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from proard.common.errors import first_line

Model = Callable[[torch.Tensor], torch.Tensor]


def usable_images(images: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    """Images (N, ...) that gradients can be taken of, also if they were made in inference mode.

    Raises:
        ValueError: no tensor of numbers, not floating point, not finite, or outside the bounds.
    """
    _check_tensor(images, "images")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in {bounds}, got {images.dtype}")
    if images.numel():
        low, high = torch.aminmax(images)
        if not (low >= bounds[0] and high <= bounds[1]):  # also where one of them is NaN
            raise ValueError(
                f"images must be within {bounds}, got {float(low):g} to {float(high):g}; "
                "put normalisation inside the model"
            )
    return images.clone() if images.is_inference() else images


def usable_labels(labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Labels (N,) as int64; whether the model has as many classes is seen when it is called.

    Raises:
        ValueError: no tensor of numbers, not integers, not one for each image, or negative.
    """
    _check_tensor(labels, "labels")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class indices, integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be one for each of {len(images)} images, got shape {tuple(labels.shape)}")
    if len(labels) and (least := int(labels.min())) < 0:
        raise ValueError(f"labels must be class indices from 0, got {least}")
    return labels.clone().long() if labels.is_inference() else labels.long()


def _check_tensor(given: object, name: str) -> None:
    if not isinstance(given, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got a {type(given).__name__}; see torch.as_tensor")
    if given.layout != torch.strided or given.is_meta:
        raise ValueError(f"{name} must be a dense tensor, got one on {given.device} of layout {given.layout}")


def usable_model(model: Model, labels: torch.Tensor) -> Model:
    """The model, whose every answer is looked at; a module is given images in the precision that it computes in.

    Its answer must be logits (N, K), for labels (N,) below K; else a ValueError says what it is.

    Raises:
        ValueError: nothing that can be called.
    """
    if not callable(model):
        raise ValueError(f"the model must be a module or a function, got a {type(model).__name__}")
    classes = int(labels.max()) + 1 if len(labels) else 0
    return _CheckedModule(model, classes) if isinstance(model, nn.Module) else _checked(model, classes)


class ModelError(ValueError, RuntimeError):
    """A model fails on what it is given; what it said, and what that was."""


@contextmanager
def given_to_model(images: torch.Tensor) -> Iterator[None]:
    """Make a `ModelError` of what PyTorch says inside of a model; running out of memory is an error of another kind."""
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        shape = tuple(images.shape)
        raise ModelError(f"the model fails on images {shape} of {images.dtype}: {first_line(error)}") from error


def check_logits(logits: torch.Tensor, images: torch.Tensor, classes: int) -> None:
    """Refuse what is no answer of a classifier.

    Raises:
        ValueError: no tensor, not (N, K) for N images, or K below 2 or ``classes``, which the labels need.
    """
    if not isinstance(logits, torch.Tensor):
        found = type(logits).__name__
        raise ValueError(f"the model must return logits (N, K), got a {found}; give a function that takes them out")
    if logits.dim() != 2 or len(logits) != len(images) or not logits.is_floating_point():
        shape = tuple(logits.shape)
        raise ValueError(f"the model must return logits ({len(images)}, K), got {logits.dtype} of shape {shape}")
    if logits.shape[1] < 2:
        raise ValueError("the model must return a logit for each of two or more classes, got a single one")
    if logits.shape[1] < classes:
        raise ValueError(f"labels go up to {classes - 1}, the model has classes 0 to {logits.shape[1] - 1}")


def _checked(model: Model, classes: int) -> Model:
    def call(images: torch.Tensor) -> torch.Tensor:
        with given_to_model(images):
            logits = model(images)
        check_logits(logits, images, classes)
        return logits

    return call


class _CheckedModule(nn.Module):
    """The same for a module, whose modules and modes are still seen."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes, self.training = model, classes, False
        self.precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K), in the precision of the images."""
        with given_to_model(images):
            logits = self.model(images if self.precision is None else images.to(self.precision))
        check_logits(logits, images, self.classes)
        return logits if self.precision in (None, images.dtype) else logits.to(images.dtype)
