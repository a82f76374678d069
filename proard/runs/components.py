"""From the configuration to the things it names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from proard.attacks import Attack, ThreatModel, attacks
from proard.common.errors import UserError
from proard.common.registry import import_modules
from proard.config import AttackConfig, Config
from proard.data import DataSplits, ImageSet, epoch_batches, sequential_batches
from proard.runs.resolve import published_options, resolve
from proard.supernet import Supernet, build_supernet

BYTES_PER_EVALUATION_BATCH = 1.5e6  # keeps activations in a CPU's cache; many times as much on a GPU


def threat_model(config: Config) -> ThreatModel:
    """The adversary that training and evaluation assume."""
    return ThreatModel(norm=config.threat.norm, eps=config.threat.eps)


def attack(settings: AttackConfig, threat: ThreatModel, where: str = "attack") -> Attack:
    """The attack of a section of the configuration.

    Raises:
        UserError: an unknown name or option, or an attack for another norm.
    """
    # Random draws come from the run's generators, and the labels of a configuration are the true ones.
    return attacks.build(settings.name, settings.options, where=where, threat=threat, seed=0, targeted=False)


def supernet_for(config: Config, data: DataSplits) -> Supernet:
    """A new supernet for these images; its normalisation is that of the training images unless the config sets one.

    In `mode: student` it has the one architecture that is trained, with random weights.

    Raises:
        UserError: an unknown family or option, a value out of range, or a module of ``imports`` that cannot be
            imported.
    """
    import_modules(config.imports)
    config = resolve(config)
    given: dict[str, Any] = {
        "num_classes": data.num_classes,
        "input_shape": data.input_shape,
        "seed": config.seed,
        "architecture": None if config.mode == "supernet" else config.student.architecture,
    }
    if wrong := sorted(given.keys() & config.supernet.options.keys()):
        source = {"seed": "the top-level key seed", "architecture": "student.architecture"}.get(wrong[0], "the images")
        raise UserError(f"supernet.{wrong[0]}: remove it; it comes from {source}")
    published = published_options(config, data.input_shape[0])
    options = {"mean": data.mean, "std": data.std, **published, **config.supernet.options}
    try:
        supernet = build_supernet(config.supernet.family, **given, **options)
        supernet.space.cost(supernet.space.largest())  # shows whether a timm network takes the images
        return supernet
    except UserError as error:
        message = str(error).removeprefix("build_supernet: ")
        section = "student." if message.startswith("architecture") else "supernet: "
        raise UserError(section + message) from error


def evaluation_batch_size(input_shape: tuple[int, int, int], device: torch.device) -> int:
    """Images per batch where no gradient of weights is needed."""
    size = BYTES_PER_EVALUATION_BATCH * (64 if device.type == "cuda" else 1) / (4 * math.prod(input_shape))
    return max(16, min(1024, int(size)))


def evaluation_batches(
    images: ImageSet, input_shape: tuple[int, int, int], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All images of a set in order, on the device."""
    return images.batches(sequential_batches(len(images), evaluation_batch_size(input_shape, device)), device)


def calibration_batches(config: Config, data: DataSplits, device: torch.device) -> list[torch.Tensor]:
    """Batches of clean training images, from which batch-norm statistics are made; the same ones in every call."""
    images = data.train.subset(config.validation.calibration_images, config.seed)
    indices = epoch_batches(len(images), config.batch_size, (config.seed,))
    return [batch for batch, _ in images.batches(indices, device)]
