"""On a GPU, a student's part of a step as one CUDA graph, replayed.

Cut, attack, loss and gradients launch thousands of small kernels, one by one from Python, which takes longer than the
kernels do. What is trained again and again (the teacher, a fixed student, the ends of the space) is captured when it
comes for the third time, and from then on launched as a whole. The numbers drawn are the same as without.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from proard.common.errors import first_line
from proard.supernet import Architecture
from proard.training.compute import ComputeMeter

WARM_UP = 2  # ordinary steps before the capture, in which libraries choose their kernels
Part = Callable[[Architecture, Tensor, Tensor, "float | Tensor"], Tensor]
"""An architecture, images (N, C, H, W), labels (N,) and the phase's progress to numbers that describe what was done."""


class StepGraphs:
    """Runs a part of a step, as a graph where that is possible.

    Args:
        part: adds a student's gradients to those of the supernet, on tensors that stay where they are.
        meter: of its passes, which a replay adds again.
        generator: of its draws.
    """

    def __init__(self, part: Part, meter: ComputeMeter, generator: torch.Generator) -> None:
        self.part, self.meter, self.generator = part, meter, generator
        self.seen: Counter[tuple[Architecture, torch.Size]] = Counter()
        self.replays: dict[tuple[Architecture, torch.Size], Callable[[Tensor, Tensor, float], Tensor]] = {}
        self.possible = True

    def __call__(self, architecture: Architecture, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The part's numbers; its gradients are added."""
        key = (architecture, images.shape)
        self.seen[key] += 1
        if key in self.replays:
            return self.replays[key](images, labels, progress)
        if not self.possible or self.seen[key] < WARM_UP:
            return self.part(architecture, images, labels, progress)
        state, before = self.generator.get_state(), dict(self.meter.spent)
        try:
            if (
                self.seen[key] == WARM_UP
            ):  # a failed capture is hard to leave: what waits for the device is found before
                with waiting_refused():
                    return self.part(architecture, images, labels, torch.full((), progress, device=images.device))
            self.replays[key] = self._captured(architecture, images, labels)
        except RuntimeError as error:  # such as an objective that looks at a number
            self.possible = False
            warnings.warn(f"steps are not captured as CUDA graphs: {first_line(error)}", stacklevel=2)
            self.generator.set_state(state)
            self.meter.spent.update(before)
            return self.part(architecture, images, labels, progress)
        return self.replays[key](images, labels, progress)

    def _captured(
        self, architecture: Architecture, images: Tensor, labels: Tensor
    ) -> Callable[[Tensor, Tensor, float], Tensor]:
        """Capture the part on tensors of its own; what is returned copies its arguments there, and replays."""
        inputs = (images.clone(), labels.clone(), torch.zeros((), device=images.device))
        before = dict(self.meter.spent)
        replay = capture(lambda: self.part(architecture, *inputs), self.generator)
        spent = {purpose: amount - before[purpose] for purpose, amount in self.meter.spent.items()}
        self.meter.spent.update(before)

        def run(images: Tensor, labels: Tensor, progress: float) -> Tensor:
            inputs[0].copy_(images)
            inputs[1].copy_(labels)
            inputs[2].fill_(progress)
            for purpose, amount in spent.items():
                self.meter.spent[purpose] += amount
            return replay().clone()  # the next replay writes into the same tensor

        return run


@contextmanager
def waiting_refused() -> Iterator[None]:
    """What waits for a GPU raises a RuntimeError."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def capture(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
    """A function without arguments as a CUDA graph: each call of what is returned does it again.

    Raises:
        RuntimeError: it waits for the device, which a graph cannot.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        result = function()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
