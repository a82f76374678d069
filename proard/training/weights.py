"""Files of weights that others made: read without executing anything, and checked name by name."""

from __future__ import annotations

import argparse
import os
import re
import zipfile
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
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of NumPy",
}
IN_ZIP = {"constants.pkl": "a TorchScript program", ".npy": "arrays of NumPy"}  # by the end of a name in it


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict that ``torch.save`` wrote.

    Which of the two it is, is seen in the file. A state dict may lie in a checkpoint, under one of `INSIDE` or as the
    only one there, and its names may begin with `WRAPPERS`.

    Raises:
        UserError: missing, not readable, not finite, or more than tensors; says what it is instead, where that is seen.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    right = "save them with torch.save(network.state_dict(), ...) or as .safetensors"
    with path.open("rb") as file:
        begins = file.read(64)
    # It begins with the length of its header, any eight bytes, such as those that a web page begins with
    safetensors = begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") < path.stat().st_size
    wrong = f"{path} cannot be read as weights"
    if not safetensors and (found := _other_kind(path, begins)):
        raise UserError(f"{wrong}: it is {found}; {right}")
    try:
        with torch.serialization.safe_globals(HARMLESS), path.open("rb") as file:  # torch.load would look at the name
            read = load_file(path) if safetensors else torch.load(file, "cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{wrong}: {_reason(safetensors, error)}; {right}") from error
    for inside in INSIDE:
        if isinstance(read, Mapping) and isinstance(read.get(inside), Mapping):
            read = read[inside]
    if isinstance(read, Mapping) and len(states := [value for value in read.values() if _is_state_dict(value)]) == 1:
        (read,) = states
    if not _is_state_dict(read):
        found = f"'{', '.join(map(str, list(read)[:NAMED_SHOWN]))} ...'" if isinstance(read, Mapping) else "no names"
        raise UserError(f"{path} holds no state dict, which is names and tensors (it has {found}); {right}")
    weights = {str(name): tensor for name, tensor in read.items()}
    if broken := next((n for n, t in weights.items() if t.is_floating_point() and not t.isfinite().all()), None):
        raise UserError(f"{path}: its weights are not finite, such as in {broken}")
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(t, torch.Tensor) for t in value.values())


def _other_kind(path: Path, begins: bytes) -> str | None:
    """What a file is, where it shows that it holds no weights."""
    if not begins.strip():
        return "empty"
    if found := next((kind for start, kind in KINDS.items() if begins.lstrip().startswith(start)), None):
        return found
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if found := next((kind for end, kind in IN_ZIP.items() if any(name.endswith(end) for name in names)), None):
        return found
    return None if any(name.endswith("data.pkl") for name in names) else "a zip archive of something else"


def _reason(safetensors: bool, error: Exception) -> str:
    """Why it cannot be read; PyTorch's own words advise to unpickle it, which could run anything."""
    if safetensors:
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
