"""Files that survive a crash, a full disk and a second process.

Whatever is written through this module is complete or absent: it is made under a temporary name beside its place,
flushed to the disk, and renamed. Temporary names start with ``.tmp-``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from proard.common.errors import UserError, reason

WRITERS = (
    "PytorchStreamWriter",
    "inline_container.cc",
    "iostream error",
    "StorageFull",
    "No space left",
)  # in errors of those that write files for us

# ---------------------------------------------------------------------------------------------------------------------
# Atomic writes


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with the same suffix; it becomes ``path`` when the block ends well.

    If the block raises, or the disk is full, the temporary file is removed and an older ``path`` stays as it was.

    Raises:
        OSError: the folder does not exist or cannot be written, or the block wrote nothing.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _raise_disk_error(error, path)
        raise
    _flush_to_disk(path.parent)


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Replace the contents of ``path``; text is written as UTF-8, line ends as they are.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file stays as it was.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: str | Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as indented JSON.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
        TypeError: a value has no JSON form.
        OSError: as for :func:`atomic_write`.
    """
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well.

    A folder cannot be replaced in one step: the old one is moved to ``.old-<name>``, and removed last. A crash between
    leaves the old one complete under one of the two names, and the next call for the same path puts it back.

    Raises:
        OSError: the parent folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary, aside = _temporary_name(path), path.parent / f".old-{path.name}"
    if aside.exists():  # an earlier process died between the steps below
        if path.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, path)
    temporary.mkdir()
    try:
        yield temporary
        for inside in temporary.rglob("*"):
            _flush_to_disk(inside)
        _flush_to_disk(temporary)
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(temporary, path)
        except BaseException:
            if aside.exists():
                os.replace(aside, path)
            raise
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _raise_disk_error(error, path)
        raise
    _flush_to_disk(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _raise_disk_error(error: BaseException, path: Path) -> None:
    """An OSError of the path for what PyTorch and safetensors say in ways of their own when they cannot write."""
    if not isinstance(error, OSError) and any(words in str(error) for words in WRITERS):
        message = "cannot be written, the disk may be full; what was there before is kept"
        raise OSError(errno.ENOSPC, message, str(path)) from error


def append_line(path: str | Path, text: str) -> None:
    """Add one line to a log such as ``metrics.jsonl``.

    A line that an earlier process left unfinished is closed first, so that it cannot spoil the new one.

    Raises:
        OSError: the file cannot be written or the disk is full.
    """
    with open(path, "ab+") as file:
        unfinished = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            unfinished = file.read(1) != b"\n"
        file.write(("\n" if unfinished else "").encode() + text.rstrip("\n").encode() + b"\n")


def _temporary_name(path: Path) -> Path:
    # Not tempfile: its files are private to the user (mode 600), and would stay so after the rename.
    return path.parent / f".tmp-{secrets.token_hex(4)}-{path.name}"


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir():
        with suppress(OSError):  # not every system can flush a folder; its files are flushed all the same
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    else:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


# ---------------------------------------------------------------------------------------------------------------------
# Integrity


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def checked_save(path: str | Path, writer: Callable[[Path], Any]) -> None:
    """Write a file with ``writer``, and its SHA-256 beside it in ``<name>.sha256``.

    The two cannot be replaced in one step. So the digests go first, that of the new file and that of the present one:
    a crash at any moment leaves a file that :func:`check_file` accepts.

    Args:
        path: what is written.
        writer: writes the path it is given; what it returns is ignored.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file stays as it was, and valid.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        writer(temporary)
        digests = [sha256(temporary)]
        if path.exists() and (present := sha256(path)) in _expected_digests(path):  # never vouch for a damaged file
            digests.append(present)
        atomic_write(_sidecar(path), "".join(f"{digest}  {path.name}\n" for digest in dict.fromkeys(digests)))


def check_file(path: str | Path) -> None:
    """Check a file that :func:`checked_save` wrote.

    Raises:
        UserError: the file or its ``.sha256`` is missing or cannot be read, or the contents have changed.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        expected = _expected_digests(path)
        if not expected:
            raise UserError(f"{path}: its checksum file {_sidecar(path).name} is missing or empty; copy both files")
        if sha256(path) not in expected:
            raise UserError(f"{path} is damaged: its contents do not match {_sidecar(path).name}; copy it again")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _expected_digests(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in _sidecar(path).read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return []


# ---------------------------------------------------------------------------------------------------------------------
# One process per run


class RunLock:
    """Keeps a second process out of a run folder: ``with RunLock(folder): ...``.

    The operating system releases the lock when the process ends, however it ends; the file ``.lock`` stays and means
    nothing by itself. Temporary files that a killed process left in the folder are removed. Where files cannot be
    locked (some network file systems), nothing is locked.
    """

    def __init__(self, path: str | Path) -> None:
        """``path`` is an existing folder."""
        self.path = Path(path)
        self._file = self.path / ".lock"
        # A lock that is made of a file's existence would outlive a process that is killed.
        self._lock = FileLock(self._file, mode=0o644, fallback_to_soft=False)

    def __enter__(self) -> RunLock:
        """Take the lock at once, or not at all.

        Raises:
            UserError: another process holds it, or the folder is missing or read-only.
        """
        try:
            self._file.touch()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{self.path}: in use by {self._holder()}; wait until it ends or choose another run"
            ) from None
        except (OSError, NotImplementedError) as error:  # under many numbers, where a file system has no locks
            print(
                f"{self.path}: cannot be locked ({reason(error)}); see to it that one process at a time uses it",
                file=sys.stderr,
            )
            return self
        with suppress(OSError):  # on Windows, a locked file is not written by its name
            self._file.write_text(str(os.getpid()))
        for left in self.path.glob(".tmp-*"):  # by a process that was killed: who holds the lock is the only writer
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; also for child processes, which inherit the open file."""
        self._lock.release()

    def _holder(self) -> str:
        """The process that has the lock, in words."""
        try:
            return f"process {int(self._file.read_text())}"
        except (OSError, ValueError):
            return "another process"
