"""Peak activation memory of any network, from a trace of the operators that it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_elements(network: nn.Module, images: torch.Tensor) -> int:
    """The most values that are alive while one operator runs.

    Operators run in the order of the forward pass; a tensor is alive from the operator that makes it to the last one
    that reads it, views of it included. Operators write in place where the network does (an in-place activation), so
    this is an upper bound for runtimes that fuse more. Parameters, buffers and outputs that nothing reads (indices of a
    max-pooling layer) do not count.

    Args:
        network: in evaluation mode; may be on the meta device, where nothing is computed.
        images: (N, C, H, W) on its device.
    """
    trace = _Trace([*network.parameters(), *network.buffers()])
    with torch.no_grad(), trace:
        trace.read([images])
        logits = network(images)
        trace.step += 1
        trace.read(tree_leaves(logits))
    peak = 0
    for step in range(trace.step + 1):
        alive = (trace.elements[key] for key, (first, last) in trace.lives.items() if first <= step <= last != first)
        peak = max(peak, sum(alive))
    return peak


class _Trace(TorchDispatchMode):
    """Notes, by storage, at which step a tensor is made and at which one it is read last."""

    def __init__(self, state: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.step = 0
        self.lives: dict[int, tuple[int, int]] = {}
        self.elements: dict[int, int] = {}
        # Storages are kept, so that no two have one address; on the meta device that takes no memory.
        self._kept = [tensor.untyped_storage() for tensor in state]
        self._state = {storage._cdata for storage in self._kept}

    def read(self, values: Sequence[Any]) -> None:
        """Tensors among these are alive now."""
        for tensor in values:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._state:
                continue
            if key not in self.lives:
                self._kept.append(storage)
                self.elements[key] = storage.nbytes() // tensor.element_size()
            self.lives[key] = (self.lives.get(key, (self.step,))[0], self.step)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and note what it reads and makes."""
        self.step += 1
        self.read(tree_leaves((args, kwargs)))
        made = function(*args, **(kwargs or {}))
        self.read(tree_leaves(made))
        return made
