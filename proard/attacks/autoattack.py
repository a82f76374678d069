"""AutoAttack (Croce and Hein, arXiv 2003.01690) through the package ``pyautoattack``: an adapter.

The package seeds the global random states, clears the trace hook of debuggers and coverage, and calls ``.backward()``
on the network's output; here all of that leaves no trace. Its numbers are its own, image by image.
"""

from __future__ import annotations

import importlib
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy
import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, input_gradient
from proard.common.errors import UserError

LOGGER = "auto-attack"
PASSES = {"standard": 7900, "plus": 9800, "rand": 4100}  # counted on images that withstand it


@attacks.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(GuardedAttack):
    """The ensemble that robust accuracy is compared by.

    ``standard`` is apgd-ce, apgd-t, fab-t and square; ``plus`` adds apgd-dlr, fab and restarts; ``rand`` is apgd-ce and
    apgd-dlr averaged over 20 passes, for networks that are random. Targeted attacks try 9 classes, or all others where
    there are fewer. The targeted DLR loss needs 4 classes, so with 3 apgd-dlr stands in for apgd-t; with 2, neither
    exists, and apgd-ce, fab-t and square remain.

    Every batch begins with the same seed, as in the package: ``seed``, or the one that the generator of a call was made
    with. So a batch gives what the package gives for it.

    Attributes:
        threat: norm, radius and bounds, which must be (0, 1).
        version: ``standard``, ``plus`` or ``rand``.
        batch_size: images at a time, at least 1.

    Raises:
        ValueError: an option out of range, or other bounds.
        UserError: the package is missing (when called).
    """

    _: KW_ONLY
    version: Literal["standard", "plus", "rand"] = "standard"
    batch_size: int = 250

    trains = False
    packages = {"pyautoattack": "autoattack"}  # noqa: RUF012 - a ClassVar of Attack

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda version: version in PASSES, "standard, plus or rand", "version")
        self.require_one_or_more("batch_size")
        if tuple(self.threat.bounds) != (0, 1):
            raise ValueError(f"autoattack is for images in (0, 1), got bounds {self.threat.bounds}")

    @property
    def name(self) -> str:
        """Short name: ``autoattack``, ``autoattack-plus`` or ``autoattack-rand``."""
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    @property
    def passes(self) -> int:
        """About how many forward passes each version takes for an image that withstands it."""
        return PASSES[self.version]

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """What the package finds; an image that withstands every part is returned as it is.

        Raises:
            UserError: the package is missing, or the network has a single class.
        """
        self.require_packages()
        if images.dim() != 4:
            raise ValueError(f"autoattack needs images (N, C, H, W), got {images.dim()} dimensions")
        single, dtype = images.float().contiguous(), images.dtype  # the package cannot view images in another layout
        with globals_restored(), warnings_of_the_package():
            make = importlib.import_module("pyautoattack").AutoAttack
            classes = model(images[: self.batch_size]).shape[1]
            package = make(
                _without_parameter_gradients(model, dtype),
                norm={"linf": "Linf", "l2": "L2"}[self.threat.norm],
                eps=self.threat.eps,
                seed=generator.initial_seed(),
                version=self.version,
                device=images.device,
            )
            package.verbose = False
            package.attacks_to_run = parts(package.attacks_to_run, classes)
            for part in (package.apgd_targeted, package.fab):
                part.n_target_classes = min(part.n_target_classes, classes - 1)
            perturbed, _ = package.run_standard_evaluation(single, labels, batch_size=self.batch_size)
        changed = (perturbed != single).flatten(1).any(1)
        return torch.where(changed.view(-1, 1, 1, 1), perturbed.to(dtype), images).detach()


def parts(attacks_to_run: list[str], classes: int) -> list[str]:
    """The parts of a version that are defined for a number of classes."""
    if classes < 2:
        raise UserError(f"attack autoattack needs 2 classes or more, the network has {classes}")
    chosen = list(attacks_to_run)
    if classes == 3:
        chosen = ["apgd-dlr" if part == "apgd-t" else part for part in chosen]
    if classes == 2:
        chosen = [part for part in chosen if part not in ("apgd-t", "apgd-dlr")]
    return list(dict.fromkeys(chosen))


# ---------------------------------------------------------------------------------------------------------------------
# Leaving no trace


@contextmanager
def globals_restored() -> Iterator[None]:
    """Put back the global random states of torch, numpy and Python, and the trace hook, also after an exception."""
    python, arrays, trace = random.getstate(), numpy.random.get_state(), sys.gettrace()  # noqa: NPY002
    # Asking for the state of a GPU that nobody uses yet would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)  # noqa: NPY002
        sys.settrace(trace)


@contextmanager
def warnings_of_the_package() -> Iterator[None]:
    """Its log messages below a warning are dropped, its warnings become Python's, each text once per place."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if not text.startswith("with only"):  # about numbers of classes, which `parts` has seen to
                warnings.warn(f"autoattack: {text} ('proard evaluate --check' looks closer)", stacklevel=2)

    logger, handler = logging.getLogger(LOGGER), Handler(logging.WARNING)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _InputGradient(torch.autograd.Function):
    """A network whose backward pass reaches the images and stops there: no parameter's gradient is touched."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, model: Model) -> torch.Tensor:
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            logits = model(inputs)
        ctx.graph = inputs, logits
        return logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        inputs, logits = ctx.graph
        with torch.enable_grad():
            value = (logits * gradients[0]).sum()
        gradient = input_gradient(value, inputs, retain_graph=True)  # asked for once per class
        return gradient.contiguous(), None  # in the layout that the package needs, whatever the network's is


def _without_parameter_gradients(model: Model, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as the package may call it: float32 images to float32 logits."""

    def call(images: torch.Tensor) -> torch.Tensor:
        images = images.to(dtype)
        if torch.is_grad_enabled() and images.requires_grad:
            logits: torch.Tensor = _InputGradient.apply(images, model)
        else:
            with torch.no_grad():
                logits = model(images)
        return logits.float()

    return call
