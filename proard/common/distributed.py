"""Several processes that train, label or evaluate together: who one is, what all have to agree on, and sums over all.

`torchrun` starts the processes; each calls `process_group` once. Everything here also works in a process that is alone,
where it does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from proard.common.errors import Stopped, UserError

Value = TypeVar("Value")
BUCKET_BYTES = 32 * 2**20  # of gradients that travel together


class ProcessLost(Stopped):
    """Another process of the job has ended, so that this one cannot go on."""


def rank() -> int:
    """Number of this process in the job, from 0."""
    return distributed.get_rank() if _active() else 0


def world_size() -> int:
    """Number of processes of the job."""
    return distributed.get_world_size() if _active() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Join the job that torchrun started, if it did; leave it in the end.

    CUDA tensors travel by NCCL, which refuses processes that share a GPU; theirs, and all others, by Gloo.

    Raises:
        UserError: torchrun's environment is incomplete.
        ProcessLost: inside the block another process went away.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1" or _active():
        yield
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(f"environment: WORLD_SIZE is {count}, but {', '.join(missing)} missing; start with torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        if int(os.environ.get("LOCAL_WORLD_SIZE", count)) <= gpus:
            backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise ProcessLost("another process of the job has ended; what was saved last is kept") from error
    finally:
        distributed.destroy_process_group()


def _lost(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached; PyTorch has no class for it on every backend."""
    if isinstance(error, distributed.DistBackendError | distributed.DistNetworkError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed by peer", "connection reset", "gloo", "nccl"))


def _active() -> bool:
    return distributed.is_available() and distributed.is_initialized()


# ---------------------------------------------------------------------------------------------------------------------
# Sums


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The average over the processes of a tensor that has the same shape on all; itself where there is one process."""
    if not _active():
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def sum_over_ranks(tensors: Iterable[torch.Tensor], weight: float) -> None:
    """Replace tensors, such as gradients, by their sum over the processes, each rank's times its ``weight``.

    In place, and in few messages, not one each; the shapes are the same on every rank.
    """
    if not _active():
        return
    for bucket in _buckets(list(tensors)):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).mul_(weight)
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [p.view_as(tensor) for p, tensor in zip(parts, bucket, strict=True)])


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Runs of tensors of one kind, of `BUCKET_BYTES` or a little more."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) >= BUCKET_BYTES
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


# ---------------------------------------------------------------------------------------------------------------------
# Agreement


def share(count: int) -> slice:
    """The part of ``count`` items that this process takes; parts differ by one item at most."""
    here, ranks = rank(), world_size()
    return slice(count * here // ranks, count * (here + 1) // ranks)


def from_first(value: Value) -> Value:
    """What the first process has, on all of them."""
    if not _active():
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def gathered(value: Value) -> list[Value]:
    """What every process has, by rank, on all of them."""
    if not _active():
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def highest(*numbers: int) -> tuple[int, ...]:
    """The largest of every number over the processes; through the CPU, so that nothing waits for a GPU."""
    if not _active():
        return numbers
    values = torch.tensor(numbers, dtype=torch.int64)
    distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return tuple(values.tolist())


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process runs the block, then all others: for what is fetched or cached once."""
    if not _active():
        yield
        return
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0:
        distributed.barrier()
