"""Where does the time of training go? Shares of the parts of a step, measured in the trainer itself.

Trains on one configuration's data for some steps of its last phase, with clocks around the parts; what no clock sees is
overhead. ``--operators`` lists PyTorch's operators too, by their own time.

python scripts/profile_step.py --config quickstart.yaml --out docs/results/profile_step
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from benchmark import Table, clock, wait
from torch.profiler import ProfilerActivity, profile

from proard.config import load_config
from proard.data import augment, load_data
from proard.runs.run import Run
from proard.supernet import Supernet
from proard.training import Trainer
from proard.training import trainer as loop
from proard.training.teachers import BatchTeacher

PARTS = {
    "data": "read, move and augment a batch",
    "teacher": "the teacher's logits",
    "attack": "the inner maximisation",
    "cut": "students' weights cut out, gradients added back",
    "backward": "the backward pass of the loss",
    "optimizer": "zero the gradients, and step",
    "sampler": "draw students, update on signals, keep the record",
}


class Clocks:
    """Seconds by part, without what parts inside a part take."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.now = device, clock(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's seconds under a name."""
        wait(self.device)
        started = self.now()
        self._inside.append(0.0)
        try:
            yield
        finally:
            wait(self.device)
            seconds = self.now() - started
            self.seconds[name] += seconds - self._inside.pop()
            if self._inside:
                self._inside[-1] += seconds

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return timed


def watched(clocks: Clocks, trainer: Trainer) -> ExitStack:
    """Clocks around the parts of a trainer's step, until the stack is closed."""
    stack = ExitStack()
    crafting, sampler = type(trainer.crafting), type(trainer.sampler)
    owners: list[tuple[Any, str, str]] = [
        (BatchTeacher, "__call__", "teacher"),
        (crafting, "images", "attack"),
        (Supernet, "student", "cut"),
        (Supernet, "accumulate", "cut"),
        (torch.Tensor, "backward", "backward"),
        (type(trainer.optimizer), "step", "optimizer"),
        (type(trainer.optimizer), "zero_grad", "optimizer"),
        (sampler, "sample", "sampler"),
        (type(trainer.record), "count", "sampler"),
        (loop, "signals", "sampler"),
    ]
    for owner, name, part in owners:
        stack.enter_context(patch.object(owner, name, clocks.around(part, getattr(owner, name))))
    return stack


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in proard train")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--operators", type=int, default=0, help="list so many of PyTorch's operators")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    config = load_config(options.config, options.set)
    data = load_data(config.data)
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(config, data, Run(Path(place)), quiet=True)
        trainer.position.phase = len(config.phases) - 1
        trainer._begin_phase()
        order = torch.arange(trainer.batch_size).split(trainer.batch_size) * (options.steps + 2)
        batches = trainer.train_images.batches(order, trainer.device)
        rows: list[dict[str, float]] = []
        for step in range(options.steps + 2):
            clocks = Clocks(trainer.device)
            with watched(clocks, trainer), clocks.part("overhead"):
                with clocks.part("data"):
                    images, labels = next(batches)
                    images = augment(images, config.data.augmentation, trainer.generator)
                with clocks.part("forward and rest"):
                    trainer._step(images, labels, step / (options.steps + 2))
            rows.append(dict(clocks.seconds))
        table = Table(
            options.out,
            "Where the time of a training step goes",
            trainer.device,
            f"`{options.config}` {' '.join(options.set)}: `{config.supernet.family}`, batches of "
            f"{trainer.batch_size}, {trainer.sampler.students} students, {trainer.objective.__class__.__name__}, "
            f"{trainer.precision}; medians of {options.steps} steps.",
            ["part", "ms", "share %", "what"],
        )
        steps = rows[2:]  # the first are slower
        total = median(sum(row.values()) for row in steps)
        for name in sorted(steps[0], key=lambda name: -median(row.get(name, 0.0) for row in steps)):
            seconds = median(row.get(name, 0.0) for row in steps)
            about = PARTS.get(name, "students' forward passes, losses" if "forward" in name else "")
            table.add([name, f"{1000 * seconds:.1f}", f"{100 * seconds / total:.1f}", about], {name: seconds})
        if options.operators:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                trainer._step(images, labels)
            print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=options.operators))


if __name__ == "__main__":
    main()
