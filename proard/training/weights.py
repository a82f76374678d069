"""Files of weights that others made: read without executing anything, and checked name by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from proard.common.errors import UserError, first_line

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of one network's batch norm
NAMED_SHOWN = 3


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict that ``torch.save`` wrote.

    A state dict may lie under ``state_dict`` or ``model`` in a checkpoint, and its names may begin with ``module.``.

    Raises:
        UserError: missing, not readable, or more than tensors.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as weights ({first_line(error)}); "
            "save them with torch.save(network.state_dict(), ...) or as .safetensors"
        ) from error
    for inside in ("state_dict", "model"):
        if isinstance(read, Mapping) and isinstance(read.get(inside), Mapping):
            read = read[inside]
    values = list(read.values()) if isinstance(read, Mapping) else []
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise UserError(f"{path} holds no state dict, which is names and tensors")
    prefix = "module." if all(str(name).startswith("module.") for name in read) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in read.items()}


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a network, every one.

    Batch-norm statistics are dropped if the network has none. The normalisation of images (``normalize.mean`` and
    ``normalize.std``) stays the network's where the weights have none, and names may lack the ``model.`` of a
    normalised model.

    Args:
        network: its parameters and buffers are set.
        weights: by name.

    Raises:
        UserError: names are missing, unknown, or of another shape.
    """
    own = network.state_dict()
    if not own.keys() & weights.keys():
        weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    given = {name: t for name, t in weights.items() if name in own or name.rpartition(".")[2] not in STATISTICS}
    optional = ("normalize.mean", "normalize.std")
    missing = [n for n in own if n not in given and n not in optional and not n.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in own]
    other = [
        f"{name} is {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    for problem, names in (("lack", missing), ("have also", unknown), ("are of another shape:", other)):
        if names:
            more = f" and {len(names) - NAMED_SHOWN} more" if len(names) > NAMED_SHOWN else ""
            raise UserError(
                f"the weights do not fit the network, they {problem} {', '.join(names[:NAMED_SHOWN])}{more}"
            )
    network.load_state_dict(given, strict=False)


@contextmanager
def only_weights() -> Iterator[None]:
    """Within the block, ``torch.load`` in other people's code unpickles nothing but weights, whatever it asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
