"""Would torch.compile pay for the pieces of a step that are the same in every step: the teacher, and the two ends?

Of a supernet as in configs/cifar10_small.yaml each piece runs as the trainer runs it (channels last, the machine's best
precision), and compiled: the teacher's answer (batch norm folded), a pass of the attack (forward, and backward to the
images), and the pass of the loss (backward to the weights). What compiling took is in seconds by the clock, and won
back after so many runs of the piece; a step has one of each at most.

python scripts/bench_compile.py --out docs/results/bench_compile
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from benchmark import CIFAR10_SMALL, Table, Way, interleaved, ratios, with_quartiles
from torch import nn

from proard.common.device import autocast, resolve_device, resolve_precision
from proard.evaluation.fast_copy import fast_copy
from proard.supernet import Supernet, build_supernet

COLUMNS = ["network", "piece", "as it is, ms", "compiled, ms", "as it is / compiled", "compiling, s", "won back after"]


class Pieces:
    """What a step computes with networks that do not change.

    Args:
        supernet: whose ends they are.
        images: (N, C, H, W), channels last.
    """

    def __init__(self, supernet: Supernet, images: torch.Tensor) -> None:
        self.supernet, self.images = supernet, images
        self.precision = resolve_precision("auto", images.device, tuple(images.shape[1:]))

    def teacher(self, compiled: Callable[[nn.Module], nn.Module]) -> Way:
        """Its answer."""
        network = self.supernet.extract(self.supernet.space.largest(), [self.images])
        fast = compiled(fast_copy(network, self.images))

        @torch.no_grad()
        def run() -> None:
            with autocast(self.images.device, self.precision):
                fast(self.images)

        return run

    def attack(self, compiled: Callable[[nn.Module], nn.Module], student: nn.Module) -> Way:
        """Forward, and backward to the images."""
        network = compiled(copy.deepcopy(student).requires_grad_(False))

        def run() -> None:
            images = self.images.detach().requires_grad_()
            with autocast(images.device, self.precision):
                logits = network(images)
            torch.autograd.grad(logits.float().logsumexp(1).sum(), images)

        return run

    def loss(self, compiled: Callable[[nn.Module], nn.Module], student: nn.Module) -> Way:
        """Forward, and backward to the weights."""
        weights = copy.deepcopy(student)
        network = compiled(weights)

        def run() -> None:
            weights.zero_grad()
            with autocast(self.images.device, self.precision):
                logits = network(self.images)
            logits.float().logsumexp(1).sum().backward()

        return run


def main() -> None:
    """Parse, compile, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    device = resolve_device(options.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch_size, 3, 32, 32, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    supernet = build_supernet("resnet", num_classes=10, input_shape=(3, 32, 32), **CIFAR10_SMALL).to(device)
    supernet = supernet.to(memory_format=torch.channels_last)
    pieces, space = Pieces(supernet, images), supernet.space
    cases: dict[tuple[str, str], Callable[[Callable[[nn.Module], nn.Module]], Way]] = {
        ("largest", "teacher"): pieces.teacher
    }
    for name, architecture in {"largest": space.largest(), "smallest": space.smallest()}.items():
        student = supernet.student(architecture).train()
        cases[name, "attack"] = lambda compiled, student=student: pieces.attack(compiled, student)
        cases[name, "loss"] = lambda compiled, student=student: pieces.loss(compiled, student)
    table = Table(
        options.out,
        "torch.compile for the fixed pieces of a step",
        device,
        f"`resnet` of configs/cifar10_small.yaml, 32x32 images, batches of {options.batch_size}, {pieces.precision}. "
        f"Milliseconds are medians of {options.repetitions} repetitions in which both take turns; ratios have "
        "quartiles.",
        COLUMNS,
    )
    for (name, piece), made in cases.items():
        plain, compiled = made(lambda network: network), made(torch.compile)
        plain()
        began = time.perf_counter()
        compiled()
        compiling = time.perf_counter() - began
        seconds = interleaved({"plain": plain, "compiled": compiled}, options.repetitions, device)
        won = median(a - b for a, b in zip(seconds["plain"], seconds["compiled"], strict=True))
        back = f"{compiling / won:,.0f} runs" if won > 0 else "never"
        milliseconds = [f"{1000 * median(seconds[way]):.1f}" for way in ("plain", "compiled")]
        ratio = ratios(seconds, "plain", "compiled")
        row = {"network": name, "piece": piece, "seconds": seconds, "ratios": ratio, "compiling": compiling}
        table.add([name, piece, *milliseconds, with_quartiles(ratio), f"{compiling:.0f}", back], row)


if __name__ == "__main__":
    main()
