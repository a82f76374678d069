"""Measure what a training step costs with each objective, relative to RSLAD; prints a Markdown table.

A step is what the trainer does for one student: attack, forward and backward, with the teacher's share for one student
(a step with several students shares the teacher's logits on clean images, and its input gradient there). Each
repetition runs RSLAD and the other objective one after the other, so that both see the machine in the same state.

python scripts/objective_cost.py > docs/results/objective_cost.md
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.common.device import autocast, resolve_device, resolve_precision
from proard.common.environment import environment
from proard.objectives import Batch, Objective, objectives
from proard.supernet import build_supernet
from proard.training.teachers import BatchTeacher

INPUT_SHAPE, CLASSES = (3, 32, 32), 10
SPACE: dict[str, Any] = {"widths": (32, 64, 128), "blocks": (1, 1, 1), "dropout": 0.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "kdiga, ARD_C": ("kdiga", {"distil": "adversarial"}),
    "kdiga, ARD_A": ("kdiga", {"distil": "adversarial", "align": "adversarial"}),
    "igdm on adaad": ("igdm", {"base": "adaad"}),
}


def cases(attack: PGD, names: list[str]) -> dict[str, Objective]:
    """Every named objective with its defaults, and its variants."""
    plain: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in names}
    chosen = plain | {label: case for label, case in VARIANTS.items() if case[0] in names}
    return {label: objectives.build(name, options, attack=attack) for label, (name, options) in chosen.items()}


class Bench:
    """A student, a frozen teacher of the same architecture, and a batch, as the trainer would have them."""

    def __init__(self, batch_size: int, device: torch.device, precision: torch.dtype) -> None:
        self.device, self.precision = device, precision
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(batch_size, *INPUT_SHAPE, generator=generator).to(device)
        labels = torch.randint(CLASSES, (batch_size,), generator=generator).to(device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.batch = Batch(self.images, labels, torch.Generator(device).manual_seed(0))
        self.student, source = (self._supernet(seed) for seed in (0, 1))
        self.teacher = source.extract(source.space.largest(), [self.images]).requires_grad_(False)
        self.cost = source.space.cost(source.space.largest())

    def _supernet(self, seed: int) -> Any:
        supernet = build_supernet("resnet", num_classes=CLASSES, input_shape=INPUT_SHAPE, seed=seed, **SPACE)
        return supernet.to(self.device).to(memory_format=torch.channels_last)

    def seconds(self, objective: Objective) -> float:
        """One step of one student: cut, attack, forward, backward, add back."""
        for parameter in self.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._wait()
        # Of the processor where it computes, so that other work on the machine does not count; it sums over threads.
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        started = clock()
        student: nn.Module = self.student.student(self.student.space.largest())
        with autocast(self.device, self.precision):
            outcome = objective.outcome(student, BatchTeacher(self.teacher, self.images), self.batch)
        outcome.loss.backward()
        self.student.accumulate(student)
        self._wait()
        return clock() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare(measure: Callable[[Objective], float], one: Objective, other: Objective, repetitions: int) -> list[float]:
    """Seconds of the first, and its time relative to the second: medians over interleaved repetitions."""
    measure(one), measure(other)  # the first call of a shape is slower
    pairs = [(measure(one), measure(other)) for _ in range(repetitions)]
    return [median(a for a, _ in pairs), median(a / b for a, b in pairs)]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=objectives.names(), choices=objectives.names())
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="of the attack")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, help="default what PyTorch chooses")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    precision = resolve_precision(arguments.precision, device, INPUT_SHAPE)
    bench = Bench(arguments.batch_size, device, precision)
    about = environment()
    where = about["cuda_device"] if device.type == "cuda" else about["processor"]
    print(f"Command: `python {' '.join(sys.argv)}`  ")
    print(f"Commit {about['git_commit']}, {where}, {about['threads']} threads, torch {about['torch']}, {precision}.\n")
    print(
        f"One student of {bench.cost.multiply_adds / 1e6:.0f} M multiply-adds and a teacher of the same size, "
        f"{arguments.batch_size} images of 3x32x32, attack of {arguments.steps} steps; medians of "
        f"{arguments.repetitions} repetitions.\n"
    )
    attack = PGD(ThreatModel(), steps=arguments.steps)
    baseline = objectives.build("rslad", {}, attack=attack)
    print("| objective | ms per step | relative to RSLAD |")
    print("|---|---|---|", flush=True)
    for label, objective in cases(attack, arguments.objectives).items():
        seconds, ratio = compare(bench.seconds, objective, baseline, arguments.repetitions)
        print(f"| {label} | {1000 * seconds:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
