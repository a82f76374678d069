"""Any model of timm, as it is: a family without decisions, so that it trains, extracts and ships like the others.

timm is optional, and imported when a network of it is described.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from proard.common.errors import UserError, nearest, reason
from proard.supernet.architecture import Architecture, Decision
from proard.supernet.calibration import remove_running_statistics
from proard.supernet.cost import Activation, CostMeter
from proard.supernet.family import Family, Normalize, families

# Of timm.create_model, and not the user's: what the images decide, and what would load weights or fetch something.
RESERVED = ("num_classes", "in_chans", "features_only", "checkpoint_path", "cache_dir", "device", "dtype")
RESERVED_PREFIX = "pretrained"


class TimmNetwork(nn.Module):
    """Normalisation, then a model of timm."""

    def __init__(self, normalize: Normalize, model: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float images (N, C, H, W) in [0, 1] to logits (N, K)."""
        return self.model(self.normalize(images))


@families.register("timm")
@dataclass(frozen=True)
class TimmFamily(Family):
    """A model of timm; its space has one architecture.

    Costs are measured (`measured_network.py`): peak activation memory and the size in int8 are upper bounds.

    Attributes:
        model: its name in timm, such as ``vit_tiny_patch16_224``; nothing is downloaded.
        model_options: passed on to ``timm.create_model``, such as ``{"img_size": 32, "patch_size": 4}``.
    """

    plain: ClassVar[bool] = False

    model: str = "resnet18"
    model_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.model)
        for option in self.model_options:
            if option in RESERVED or option.startswith(RESERVED_PREFIX):
                raise ValueError(f"option '{option}' of the timm model is not for you to set; remove it")

    def decisions(self) -> list[Decision]:
        """An empty list: the network is fixed."""
        return []

    def plan(self, architecture: Architecture) -> str:
        """The model's name stands for all of it."""
        return self.model

    def network(self, plan: str) -> nn.Module:
        """The model with random weights, its batch norm without running statistics.

        Raises:
            UserError: options that the model does not take, or layers with statistics that cannot be calibrated.
        """
        with _explained(f"timm model '{plan}' cannot be made with options {self.model_options}"):
            model = import_timm().create_model(plan, **self._fixed_options, **self.model_options)
        for name, module in model.named_modules():
            if not isinstance(module, _BatchNorm) and any("running" in buffer for buffer in module._buffers):
                raise UserError(f"timm model '{plan}': {name} keeps running statistics that proard cannot calibrate")
        remove_running_statistics(model)
        return TimmNetwork(self.normalize(), model)

    def published_weights(self) -> dict[str, torch.Tensor]:
        """The model's pre-trained weights; a head for another number of classes is new. Downloads if need be.

        Raises:
            UserError: there are none, or they cannot be fetched.
        """
        with (
            _explained(
                f"timm model '{self.model}': its published weights cannot be loaded (give a file of them instead)"
            ),
            torch.random.fork_rng(devices=[]),
        ):
            model = import_timm().create_model(self.model, pretrained=True, **self._fixed_options, **self.model_options)
        return model.state_dict()

    @property
    def _fixed_options(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "in_chans": self.input_shape[0]}

    def measure(self, plan: str, meter: CostMeter, images: Activation) -> None:
        """As for any network, with an error that names the model."""
        shape = " x ".join(map(str, self.input_shape))
        with _explained(f"timm model '{plan}' does not take images of {shape}; see its option img_size"):
            super().measure(plan, meter, images)


def import_timm() -> ModuleType:
    """The package timm, imported when it is needed.

    Raises:
        UserError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise UserError("a timm model needs the package 'timm'; pip install 'proard[timm]'") from None
    return timm


def check_name(model: str) -> None:
    """Refuse what is not the name of a model that timm has on this machine, with or without a tag of its weights.

    Raises:
        UserError: with the nearest name.
    """
    timm = import_timm()
    if not timm.is_model(model):
        hint = nearest(model, timm.list_models())
        raise UserError(
            f"unknown timm model '{model}'{hint if 'did you mean' in hint else '; timm.list_models() lists them'}"
        )
    tag = model.partition(".")[2]
    tags = [name.partition(".")[2] for name in timm.list_pretrained(model.partition(".")[0])]
    if tag and tag not in tags:
        raise UserError(f"timm model '{model}': no weights of that tag{nearest(tag, tags)}")


def published_normalisation(model: str, channels: int) -> dict[str, tuple[float, ...]]:
    """``mean`` and ``std`` that timm states for a model; averaged where the images have another number of channels."""
    stated = import_timm().get_pretrained_cfg(model)
    chosen = {"mean": tuple(stated.mean), "std": tuple(stated.std)} if stated is not None else {}
    return {name: v if len(v) == channels else (sum(v) / len(v),) for name, v in chosen.items()}


def published_shape(model: str) -> tuple[int, tuple[int, int, int]]:
    """The number of classes, and the (channels, height, width) of the images, of a model's pre-trained weights."""
    stated = import_timm().get_pretrained_cfg(model)
    return stated.num_classes, tuple(stated.input_size)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of timm as one line of ours."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {reason(error)}") from error
