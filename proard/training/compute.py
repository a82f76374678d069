"""What a training computes, counted in multiply-adds as its networks run, and the processor's time for it.

Equal epochs, or equal students per step, are not equal compute: the largest student may cost 15 times the smallest. So
every pass is counted with the cost of the network that made it, and trainings are compared by the sums.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from proard.common.distributed import gathered

PURPOSES = ("attack", "update", "teacher", "validation")
SECONDS = "processor_seconds"


class ComputeMeter:
    """Multiply-adds by purpose, and seconds of the processor, since the last `take`.

    A forward pass counts as the network's multiply-adds per image, a backward pass to the images as one more, a
    backward pass to the weights as two more, and a second derivative (the alignment of input gradients) as four.
    ``attack`` is what asks for a gradient by the images, ``update`` the passes of the loss.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(PURPOSES, 0.0)
        self._seconds, self._since = 0.0, time.process_time()

    def watch(self, network: nn.Module, multiply_adds: int, purpose: str | None = None) -> nn.Module:
        """Count all passes of a network from now on, also those of copies of it; its results do not change.

        Args:
            network: images (N, C, H, W) to logits (N, K); the same one is returned.
            multiply_adds: per image.
            purpose: of all its passes; default told pass by pass: ``update`` or ``attack``.
        """

        def forward(_: nn.Module, inputs: tuple[Any, ...], logits: torch.Tensor) -> None:
            images = inputs[0]
            work = float(multiply_adds * len(images))
            differentiated = torch.is_grad_enabled() and logits.requires_grad
            kind = purpose or ("update" if differentiated and not images.requires_grad else "attack")
            self.spent[kind] += work
            if not differentiated:
                return
            twice = False

            def backward(_: torch.Tensor) -> None:
                nonlocal twice
                if torch.is_grad_enabled():  # this gradient will be differentiated again
                    twice = True
                    self.spent[kind] += work
                else:
                    self.spent[kind] += work * (4 if twice else 1 if images.requires_grad else 2)

            logits.register_hook(backward)

        network.register_forward_hook(forward)
        return network

    def state(self) -> dict[str, float]:
        """The sums over all processes so far; called on all ranks together."""
        own = {**self.spent, SECONDS: self._seconds + time.process_time() - self._since}
        everywhere = gathered(own)
        return {name: sum(part[name] for part in everywhere) for name in own}

    def load(self, state: dict[str, float]) -> None:
        """Go on from sums that one process is to add to, or from zeros."""
        self.spent = {purpose: state[purpose] for purpose in PURPOSES}
        self._seconds, self._since = state[SECONDS], time.process_time()

    def take(self) -> dict[str, float]:
        """The sums over all processes, which begin again at zero; called on all ranks together."""
        total = self.state()
        self.load(dict.fromkeys(total, 0.0))
        return total
