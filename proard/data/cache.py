"""A decoded image folder kept on disk: checked before use, replaced in one step, and never unpickled.

One safetensors file per folder and size holds the bytes and labels. Its metadata say which files it was made from
(their names, sizes and times) and the sha256 of the data; if either does not hold, it is made anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from proard.common.errors import reason
from proard.common.files import atomic_path
from proard.common.paths import user_cache

VERSION = "2"  # raise it when decoding changes
Tensors = dict[str, Tensor]


class _Unusable(Exception):
    """Why a cache file cannot be used."""


def cached(root: Path, name: str, fingerprint: str, build: Callable[[], Tensors]) -> Tensors:
    """The tensors of ``build``, from the cache if it holds them, else built and put there.

    The cache is in ``root/.proard-cache``, or under ``~/.cache/proard`` if that cannot be written.

    Args:
        root: the folder that is cached.
        name: file name within the cache.
        fingerprint: of everything the tensors are made from, as by :func:`fingerprint_files`.
        build: makes the tensors.
    """
    own = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    places = [root / ".proard-cache" / name]
    if (user := user_cache()) is not None:
        places.append(user / own / name)
    notices = []
    for path in places:
        if path.is_file():
            try:
                return _load(path, fingerprint)
            except _Unusable as problem:
                notices.append(f"cache {path}: {problem}, making it anew")
    if notices:
        print(notices[0], file=sys.stderr)
    tensors = build()
    _save(places, tensors, fingerprint)
    return tensors


def fingerprint_files(folder: Path, files: Sequence[str], more: Sequence[str]) -> str:
    """A digest of the files' names, sizes and modification times, and of ``more``."""
    digest = hashlib.sha256("\0".join([VERSION, *more]).encode())
    for file in files:
        status = os.stat(folder / file)
        digest.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _load(path: Path, fingerprint: str) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                raise _Unusable("the images have changed since")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is not a dict)
    except _Unusable:
        raise
    except Exception as error:  # whatever is wrong with the file, it can be made anew
        raise _Unusable(f"cannot be read ({reason(error)})") from error
    if metadata.get("sha256") != digest_of(tensors):
        raise _Unusable("is damaged (its checksum does not match)")
    return tensors


def _save(places: list[Path], tensors: Tensors, fingerprint: str) -> None:
    """Write to the first place that can be written; a cache is a convenience, so failing is only said."""
    metadata = {"fingerprint": fingerprint, "sha256": digest_of(tensors)}
    for path in places:
        problem = _write(path, tensors, metadata)
        if problem is None:
            return
    print(f"cache {path}: cannot be written ({reason(problem)}); the images are read again next time", file=sys.stderr)


def _write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> Exception | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, metadata)
            temporary.chmod(mode)  # safetensors makes its files private, but others may share the folder
    except Exception as error:  # full or read-only disk: safetensors has its own exception type for that
        return error
    return None


def digest_of(tensors: Tensors) -> str:
    """SHA-256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
