"""Files of weights that others made: read without executing anything, and checked name by name."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from proard.common.errors import UserError, first_line

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of one network's batch norm
NAMED_SHOWN = 3
INSIDE = ("state_dict", "model_state_dict", "model")  # where checkpoints keep them
HARMLESS: list[Any] = [
    argparse.Namespace,
    PosixPath,
]  # of a trainer's options, beside the weights; they hold values alone
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
KINDS = {  # what is downloaded instead of weights, by how it begins
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; 'git lfs pull' fetches that",
    b"{": "a text file in JSON",
    b"": "empty",
}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict that ``torch.save`` wrote.

    A state dict may lie under one of `INSIDE` in a checkpoint, and its names may begin with `WRAPPERS`.

    Raises:
        UserError: missing, not readable, or more than tensors; says what it is instead, where that can be seen.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    right = "save them with torch.save(network.state_dict(), ...) or as .safetensors"
    try:
        with torch.serialization.safe_globals(HARMLESS):
            read = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as weights: {_instead(path, error)}; {right}") from error
    for inside in INSIDE:
        if isinstance(read, Mapping) and isinstance(read.get(inside), Mapping):
            read = read[inside]
    values = list(read.values()) if isinstance(read, Mapping) else []
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        found = f"'{', '.join(map(str, list(read)[:NAMED_SHOWN]))} ...'" if isinstance(read, Mapping) else "no names"
        raise UserError(f"{path} holds no state dict, which is names and tensors (it has {found}); {right}")
    weights = {str(name): tensor for name, tensor in read.items()}
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _instead(path: Path, error: Exception) -> str:
    """What a file is that is not weights; PyTorch's own words advise to unpickle it, which could run anything."""
    with path.open("rb") as file:
        begins = file.read(64).lstrip()
    if found := next(
        (kind for start, kind in KINDS.items() if (begins.startswith(start) if start else not begins)), None
    ):
        return f"it is {found}"
    if path.suffix == ".safetensors":
        return first_line(error)
    if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds more than tensors (an object of {match[1]}), which is not unpickled"
    return "it is no file of torch.save, or is damaged"


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a network, every one.

    Batch-norm statistics are dropped if the network has none. The normalisation of images (``normalize.mean`` and
    ``normalize.std``) stays the network's where the weights have none, and names may lack the ``model.`` of a
    normalised model, or have one more such word before them, as a trainer's have.

    Args:
        network: its parameters and buffers are set.
        weights: by name.

    Raises:
        UserError: names are missing, unknown, or of another shape.
    """
    own = network.state_dict()
    if not own.keys() & weights.keys():  # wrapped otherwise
        inner = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
        named = [{f"model.{name}": tensor for name, tensor in some.items()} for some in (weights, inner)]
        fits = (some for some in (named[0], inner, named[1]) if own.keys() & some.keys())
        weights = next(fits, named[0])
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
