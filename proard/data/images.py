"""Labelled images that yield batches: held in memory as bytes, or decoded from files while they are read."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from proard.common.errors import Stopped, UserError, first_line
from proard.data.decode import Bytes, decode_image
from proard.data.stratify import stratified_sample


class ImageSet:
    """Images in memory, on one device.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), classes from 0.

    Attributes:
        labels: int64 (N,), always on the CPU.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or len(labels) != len(images):
            raise ValueError(
                f"expected uint8 (N, C, H, W) and int64 (N,), got {images.dtype} {tuple(images.shape)} "
                f"and {labels.dtype} {tuple(labels.shape)}"
            )
        self.labels = labels.cpu()
        self._images = images
        self._labels = labels.to(images.device)  # beside the images, so that a batch is made where they are

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """``images`` and ``labels`` as the constructor takes them; not of a set whose images are elsewhere."""
        return {"images": self._images, "labels": self.labels}

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its bytes on ``device``; batches for that device are then made without a transfer."""
        return ImageSet(self._images.to(device), self.labels)

    def select(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` (int64 (M,)), in that order."""
        return ImageSet(self._images[indices.to(self._images.device)], self.labels[indices])

    def labelled(self, labels: Tensor) -> ImageSet:
        """The same images with other labels, int64 (N,)."""
        return ImageSet(self._images, labels)

    def subset(self, count: int | None, seed: int) -> ImageSet:
        """A stratified random part of ``count`` images, in random order; the set itself if it has no more than that."""
        if count is None or count >= len(self):
            return self
        generator = np.random.default_rng(seed)
        return self.select(torch.from_numpy(stratified_sample(self.labels.numpy(), count, generator)))

    def batches(
        self, batches_of_indices: Iterable[Tensor], device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the images in the given order.

        Args:
            batches_of_indices: int64 tensors (B,), as from ``epoch_batches``.
            device: where the batches are wanted.

        Yields:
            Images, float32 (B, C, H, W) in [0, 1], and labels, int64 (B,), both on ``device``.
        """
        for indices in batches_of_indices:
            here = indices.to(self._images.device, non_blocking=True)
            yield _as_batch(self._images[here], self._labels[here], torch.device(device))


class StreamedImageSet(ImageSet):
    """Images of a set too large for memory, read by worker processes when a batch asks for them.

    Args:
        read: gives the image of a row as uint8 (C, H, W), such as `ImageFiles`; may raise `UserError`.
        labels: int64 (N,), classes from 0.
        workers: processes that read, to which ``read`` is sent; 0 reads in this one.
        rows: int64 (N,), where each image is for ``read``; default 0 to N - 1.
    """

    def __init__(
        self, read: Callable[[int], Bytes], labels: Tensor, workers: int, rows: NDArray[np.int64] | None = None
    ) -> None:
        # The base class's constructor is for images in memory, which is what this class avoids.
        self.labels = labels
        self._rows = _Rows(read, np.arange(len(labels)) if rows is None else rows)
        self._workers = workers

    def to(self, device: torch.device | str) -> ImageSet:
        """The set itself: it does not fit."""
        return self

    def select(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` (int64 (M,)), in that order."""
        return StreamedImageSet(self._rows.read, self.labels[indices], self._workers, self._rows.rows[indices.numpy()])

    def labelled(self, labels: Tensor) -> ImageSet:
        """The same images with other labels, int64 (N,)."""
        return StreamedImageSet(self._rows.read, labels, self._workers, self._rows.rows)

    def batches(
        self, batches_of_indices: Iterable[Tensor], device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the images in the given order; as :meth:`ImageSet.batches`.

        Raises:
            UserError: an image cannot be read; names the file.
            WorkerDied: a process that decodes did, or cannot be started.
        """
        device, batches = torch.device(device), list(batches_of_indices)
        loader: DataLoader[Bytes | str] = DataLoader(
            self._rows,
            batch_size=None,  # one index batch is one item of the dataset, so a worker returns a whole batch
            sampler=[indices.numpy() for indices in batches],
            num_workers=self._workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else the loader would draw from the global random state
        )
        for indices, pixels in zip(batches, _until_one_dies(loader), strict=True):
            if isinstance(pixels, str):
                raise UserError(pixels)
            images = torch.from_numpy(pixels)
            yield _as_batch(images.pin_memory() if device.type == "cuda" else images, self.labels[indices], device)


class WorkerDied(Stopped):
    """A process that decodes images ended, for whatever reason."""

    alone = True


@dataclass(frozen=True)
class ImageFiles:
    """Reads images of a folder by their number among ``files``, resized to the side ``size``."""

    folder: Path
    files: Sequence[str]
    size: int

    def __call__(self, index: int) -> Bytes:
        """uint8 (3, size, size)."""
        return decode_image(self.folder / self.files[index], self.size)


class _Rows(Dataset["Bytes | str"]):
    """What a worker process needs: index batch -> bytes (B, C, H, W), or an error line.

    They are NumPy's, which go through a pipe: PyTorch's go through shared memory, of which a container may have little,
    and where it runs short they wait for ever.
    """

    def __init__(self, read: Callable[[int], Bytes], rows: NDArray[np.int64]) -> None:
        self.read, self.rows = read, rows

    def __getitem__(self, indices: NDArray[np.int64]) -> Bytes | str:
        try:
            return np.stack([self.read(row) for row in self.rows[indices].tolist()])
        except UserError as error:
            return str(error)  # raised in a worker, it would arrive wrapped in a traceback


def _as_it_is(batch: Any) -> Any:
    return batch


# SLURM, torchrun, docker and Ctrl-C send these to all processes; the training handles them, then ends those that decode
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait meanwhile, here and, from their first moment on, in processes that are started."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no groups of processes either
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _deaths_noticed_later() -> Iterator[None]:
    """Where a process dies at once, what PyTorch raises must not come while its threads start, but after that."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal_handling._set_SIGCHLD_handler()  # PyTorch's own, which it would set meanwhile, once for all loaders
    handler, died = signal.getsignal(signal.SIGCHLD), []
    signal.signal(signal.SIGCHLD, lambda *arguments: died.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if died and callable(handler):
        handler(*died[-1])


def _leave_signals_to_the_parent(_: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _until_one_dies(loader: DataLoader[Bytes | str]) -> Iterator[Bytes | str]:
    try:
        with _signals_held(), _deaths_noticed_later():
            batches = iter(loader)
        yield from batches
    except (RuntimeError, OSError) as error:  # the loader's words for it, and the system's where it has no process left
        raise WorkerDied(f"a process that decodes images died ({first_line(error)[:200]})") from error


def _as_batch(images: Tensor, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bytes (B, C, H, W) to floats in [0, 1]; they travel as bytes."""
    images, labels = (tensor.to(device, non_blocking=True) for tensor in (images, labels))
    return images.to(torch.float32).div_(255), labels
