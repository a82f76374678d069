"""A teacher from elsewhere, checked before anything is trained: its file, its classes, and the images it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from proard.common.errors import UserError, located, reason
from proard.common.files import sha256
from proard.config import TeacherConfig
from proard.evaluation.accuracy import Measurement
from proard.supernet.family import Normalize
from proard.training.teachers.request import Request
from proard.training.teachers.sources import LOADERS, file_of

NEAR_CHANCE = 0.15  # of what there is above chance


class ExternalTeacher(nn.Module):
    """A fixed network on images in [0, 1]: always in evaluation mode, without gradients of its weights.

    Args:
        network: images to logits.
        source: where it came from.
        sha256: checksum of its file, or None where there is no one file.
        normalize: before the network, unless it normalises for itself.
        image_size: side to which images are resized first (bilinear).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        source: str,
        sha256: str | None = None,
        normalize: Normalize | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize
        self.source, self.sha256, self.image_size = source, sha256, image_size
        self.training = False
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> ExternalTeacher:
        """Stays in evaluation mode (exported programs refuse even to be told so)."""
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float images (N, C, H, W) in [0, 1] to logits (N, K)."""
        if self.image_size is not None and images.shape[2:] != (self.image_size, self.image_size):
            images = functional.interpolate(images, size=(self.image_size, self.image_size), mode="bilinear")
        return self.network(images if self.normalize is None else self.normalize(images))


def load_teacher(
    config: TeacherConfig,
    class_names: Sequence[str],
    input_shape: tuple[int, int, int],
    *,
    data_name: str = "",
    norm: str = "linf",
    device: torch.device | str = "cpu",
) -> ExternalTeacher:
    """The teacher that a configuration's source names.

    Args:
        config: with a source.
        class_names: of the images it is to teach.
        input_shape: (C, H, W) of those images.
        data_name: of the data set, for RobustBench.
        norm: of the threat model, for RobustBench.
        device: where it runs.

    Raises:
        UserError: it is not there, was changed, is not what it should be, or does not fit the images; one line.
    """
    size = config.image_size
    shape = input_shape if size is None else (input_shape[0], size, size)
    request = Request(config, tuple(class_names), shape, data_name, norm, torch.device(device))
    with located(f"teacher {config.source}"):
        teacher = _loaded(request).to(device)
        _check(teacher, len(class_names), input_shape, request.device)
        return teacher


def check_accuracy(config: TeacherConfig, measured: Measurement, classes: int) -> None:
    """Refuse a teacher that is hardly better than guessing, as one of other classes or other pixel values is.

    A student directory is let teach: its card says what its classes are, and it normalises for itself.

    Raises:
        UserError: says how good it is, and what the likely causes are.
    """
    chance = 1 / classes
    if config.trust or config.kind == "directory" or measured.clean.value > chance + NEAR_CHANCE * (1 - chance):
        return
    found = f"right on {measured.clean} % of {measured.clean.total} validation images"
    raise UserError(
        f"teacher {config.source}: {found}, hardly more than by guessing ({100 * chance:.0f} %); are its classes in "
        "another order, its images normalised otherwise (teacher.mean, teacher.std), or its weights not trained? "
        "teacher.trust: true lets it teach all the same"
    )


def _loaded(request: Request) -> ExternalTeacher:
    config = request.config
    file = file_of(request)
    digest = _checksum(file, config)
    with torch.random.fork_rng(devices=[]):  # what makes a network draws its weights first
        network = LOADERS[config.kind](request, file)
    digest = digest or _checksum(file, config)  # of a file that was downloaded
    if config.sha256 is not None and digest is None:
        raise UserError("there is no file of which teacher.sha256 could be checked; remove it")
    normalize = None
    if config.kind == "program" and config.mean is not None and config.std is not None:  # timm networks have their own
        normalize = Normalize(config.mean, config.std)
    return ExternalTeacher(
        network, source=str(config.source), sha256=digest, normalize=normalize, image_size=config.image_size
    )


def _check(teacher: nn.Module, num_classes: int, input_shape: tuple[int, int, int], device: torch.device) -> None:
    """Run two black images, then three, through a teacher; a program may have been exported for one batch size."""
    for count in (2, 3):
        try:
            with torch.no_grad():
                logits = teacher(torch.zeros(count, *input_shape, device=device))
        except Exception as error:
            raise UserError(
                f"it does not take {count} images of {' x '.join(map(str, input_shape))} ({reason(error)}); "
                "teacher.image_size resizes them to a side that it takes"
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != count:
            raise UserError("it does not give one row of logits per image")
        if logits.shape[1] != num_classes:
            raise UserError(f"it has {logits.shape[1]} classes, the data has {num_classes}")
        if not logits.isfinite().all():
            raise UserError("its logits on black images are not finite numbers; are these trained weights?")


def _checksum(file: Path | None, config: TeacherConfig) -> str | None:
    """The file's checksum, if there is a file; checked against what the configuration says it must be."""
    if file is None or not file.is_file():
        return None
    digest = sha256(file)
    if config.sha256 is not None and digest != config.sha256.lower():
        raise UserError(f"{file} has sha256 {digest}, but teacher.sha256 is {config.sha256.lower()}")
    return digest
