"""How fast is a training step? Against a plain implementation, and against a network that is not elastic.

Three ways to take one step (RSLAD, PGD) of one student, each with the optimizer's step:

- ``plain``: what published code of the field does: float32, channels first; the student's slices are cut from the
  supernet in every forward pass, also in those of the attack, whose backward passes compute the gradients of all
  weights too and throw them away;
- ``proard``: cut once, attacked and trained as a plain network in the machine's best precision and memory layout, its
  gradients added back;
- ``static``: proard's step on the same architecture as a network of its own, without a supernet around it: what
  elasticity costs.

Each repetition takes one step of each, one after the other. Ratios are medians over repetitions, with quartiles.

python scripts/bench_step.py --family resnet50 --batch-sizes 32 128 --out docs/results/bench_step
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from proard.attacks import PGD, ThreatModel
from proard.device import autocast, resolve_device, resolve_precision
from proard.files import atomic_write, write_json
from proard.objectives import Batch, objectives
from proard.run import environment
from proard.supernet import Architecture, Supernet, build_supernet
from proard.supernet.supernet import leading_slice
from proard.teachers import BatchTeacher

EPS, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 8 / 255, 0.01, 0.9, 5e-4
Step = Callable[[], None]


def plain_step(
    supernet: Supernet, architecture: Architecture, teacher: nn.Module, images: torch.Tensor, steps: int
) -> Step:
    """RSLAD through the elastic network, without any care."""
    skeleton = supernet.student(architecture).train()
    shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
    weights = dict(supernet.named_parameters())
    optimizer = torch.optim.SGD(
        supernet.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=False, fused=False
    )

    def forward(x: torch.Tensor) -> torch.Tensor:
        cut = {name: leading_slice(weights[name], shape).contiguous() for name, shape in shapes.items()}
        return functional_call(skeleton, cut, (x,))

    def divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean")

    def step() -> None:
        with torch.no_grad():
            target = teacher(images).softmax(1)
        adversarial = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            divergence(forward(adversarial), target).backward()
            assert adversarial.grad is not None
            moved = adversarial.detach() + 2 / 255 * adversarial.grad.sign()
            adversarial = torch.min(torch.max(moved, images - EPS), images + EPS).clamp(0, 1)
        optimizer.zero_grad()
        loss = 5 / 6 * divergence(forward(adversarial.detach()), target) + 1 / 6 * divergence(forward(images), target)
        loss.backward()
        optimizer.step()

    return step


class OurStep:
    """The trainer's step of one student; ``supernet`` may be a network of its own instead."""

    def __init__(
        self,
        network: nn.Module,
        architecture: Architecture | None,
        teacher: nn.Module,
        images: torch.Tensor,
        steps: int,
    ) -> None:
        self.network, self.architecture, self.teacher = network, architecture, teacher
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.precision = resolve_precision("auto", images.device, tuple(images.shape[1:]))  # type: ignore[arg-type]
        attack = PGD(ThreatModel("linf", EPS), steps=steps, step_size=2 / 255)
        self.objective = objectives.build("rslad", {}, attack=attack)
        self.generator = torch.Generator(images.device).manual_seed(0)
        self.optimizer = torch.optim.SGD(
            network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def __call__(self) -> None:
        """Cut, attack, forward, backward, add back, step."""
        self.optimizer.zero_grad(set_to_none=False)
        elastic = isinstance(self.network, Supernet)
        student = self.network.student(self.architecture) if elastic else self.network
        batch = Batch(self.images, self.labels, self.generator)
        with autocast(self.images.device, self.precision):
            outcome = self.objective.outcome(student, BatchTeacher(self.teacher, self.images), batch)
        outcome.loss.backward()
        if elastic:
            self.network.accumulate(student)
        self.optimizer.step()


def timed(step: Step, device: torch.device) -> float:
    """Seconds: of the processor where it computes, so that other work on the machine does not count."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def compared(
    family: str, batch_size: int, end: str, steps: int, repetitions: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of every way, and the ratios, for the largest or the smallest student."""

    def fresh() -> Supernet:
        return build_supernet(family, num_classes=10, input_shape=(3, 32, 32)).to(device)

    images = torch.rand(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    first, second = fresh(), fresh().to(memory_format=torch.channels_last)
    architecture = first.space.largest() if end == "largest" else first.space.smallest()
    teachers = [net.extract(net.space.largest(), [images]).requires_grad_(False) for net in (first, second)]
    static = second.student(architecture).to(memory_format=torch.channels_last)
    ways: dict[str, Step] = {
        "plain": plain_step(first, architecture, teachers[0], images, steps),
        "proard": OurStep(second, architecture, teachers[1], images, steps),
        "static": OurStep(static, None, teachers[1], images, steps),
    }
    for step in ways.values():
        step()  # the first is slower
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name in list(ways)[:: 1 if repetition % 2 else -1]:
            seconds[name].append(timed(ways[name], device))
    pairs = {"speedup": ("plain", "proard"), "elasticity": ("proard", "static")}
    ratios = {k: [a / b for a, b in zip(seconds[x], seconds[y], strict=True)] for k, (x, y) in pairs.items()}
    return {"student": end, "batch_size": batch_size, "seconds": seconds, "ratios": ratios}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    times = [f"{1000 * median(row['seconds'][name]):.0f}" for name in ("plain", "proard", "static")]
    cells = []
    for name in ("speedup", "elasticity"):
        low, _, high = quantiles(row["ratios"][name], n=4)
        cells.append(f"{median(row['ratios'][name]):.2f} ({low:.2f} to {high:.2f})")
    return f"| {row['student']} | {row['batch_size']} | " + " | ".join([*times, *cells]) + " |"


def main() -> None:
    """Parse, measure, write after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="resnet50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    device, about = resolve_device(arguments.device), environment()
    where = about["cuda_device"] if device.type == "cuda" else f"{about['processor']}, {about['threads']} threads"
    lines = [
        "# A training step: plain, ours, and of a network that is not elastic",
        "",
        f"Command: `python {' '.join(sys.argv)}`  ",
        f"Commit {about['git_commit']}, {where}, torch {about['torch']}.",
        "",
        f"`{arguments.family}`, RSLAD, PGD with {arguments.steps} steps, 32x32 images; milliseconds are medians of "
        f"{arguments.repetitions} interleaved repetitions; plain / proard and proard / static with quartiles.",
        "",
        "| student | batch | plain ms | proard ms | static ms | times as fast as plain | relative to static |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for batch_size in arguments.batch_sizes:
        for end in ("smallest", "largest"):
            rows.append(compared(arguments.family, batch_size, end, arguments.steps, arguments.repetitions, device))
            lines.append(line(rows[-1]))
            print(lines[-1], flush=True)
            atomic_write(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")
            write_json(arguments.out.with_suffix(".json"), {"environment": about, "command": sys.argv, "rows": rows})


if __name__ == "__main__":
    main()
