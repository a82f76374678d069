"""What the benchmarks share: ways that take turns, ratios with quartiles, a table and its JSON, a trainer to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from proard.common.environment import environment
from proard.common.files import atomic_write, write_json
from proard.config import Config
from proard.data import DataSplits, ImageSet
from proard.runs.run import Run
from proard.samplers import Sampler
from proard.supernet import Architecture
from proard.training import Trainer

CLASSES = 10
CIFAR10_SMALL = {"stem": "strided", "activation": "silu", "widths": [32, 64, 128], "blocks": [1, 1, 1]}
Way = Callable[[], object]


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds: on a CPU those of the processor, so that other work on the machine does not count."""
    return time.perf_counter if device.type == "cuda" else time.process_time


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Way, device: torch.device) -> float:
    """How long the work takes."""
    now = clock(device)
    wait(device)
    started = now()
    work()
    wait(device)
    return now() - started


def interleaved(ways: Mapping[str, Way], repetitions: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every way, which take turns, forwards and backwards: none always comes after the longest."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name in list(ways)[:: 1 if repetition % 2 else -1]:
            seconds[name].append(timed(ways[name], device))
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> list[float]:
    """How many times as long the one took as the other, in each repetition."""
    return [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]


def with_quartiles(values: Sequence[float]) -> str:
    """The median, and the quartiles behind it."""
    if len(values) < 2:
        return f"{median(values):.2f}"
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} ({low:.2f} to {high:.2f})"


class Table:
    """Rows that are printed as they come, and written after each one, as Markdown and as JSON.

    Args:
        out: where to, without suffix.
        title: of the page.
        device: on which it is measured.
        about: what the rows mean; a paragraph.
        columns: their names.
    """

    def __init__(self, out: Path, title: str, device: torch.device, about: str, columns: Sequence[str]) -> None:
        self.out, self.environment = out, environment()
        where = self.environment["cuda_device"] if device.type == "cuda" else self.environment["processor"]
        threads = torch.get_num_threads()
        self.lines = [
            f"# {title}",
            "",
            f"Command: `python {' '.join(sys.argv)}`  ",
            f"Commit {self.environment['git_commit']}, {where}, {threads} thread{'s' * (threads > 1)}, "
            f"torch {self.environment['torch']}.",
            "",
            about,
            "",
        ]
        self.rows: list[dict[str, Any]] = []
        self.head(columns)

    def head(self, columns: Sequence[str]) -> None:
        """Begin a table, after an empty line if there is one already."""
        self.lines += [""] * (self.lines[-1] != "") + [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        print("\n".join(self.lines[-2:]), flush=True)

    def add(self, cells: Sequence[object], row: Mapping[str, Any] | None) -> None:
        """One more row: its cells for people, its numbers for the JSON unless they are there already."""
        self.lines.append(f"| {' | '.join(map(str, cells))} |")
        self.rows += [] if row is None else [dict(row)]
        print(self.lines[-1], flush=True)
        self.write()

    def note(self, text: str) -> None:
        """A paragraph after what is there."""
        self.lines += ["", text]
        print(f"\n{text}", flush=True)
        self.write()

    def write(self) -> None:
        """Both files."""
        atomic_write(self.out.with_suffix(".md"), "\n".join(self.lines) + "\n")
        content = {"environment": self.environment, "command": sys.argv, "rows": self.rows}
        write_json(self.out.with_suffix(".json"), content)


# ---------------------------------------------------------------------------------------------------------------------
# A trainer


class Fixed(Sampler):
    """The same students in every step."""

    def __init__(self, chosen: Sequence[Architecture], **options: Any) -> None:
        super().__init__(**options)
        self.chosen = chosen

    def draw(self, step: int) -> Sequence[Architecture]:
        """See `Sampler`."""
        return self.chosen


def random_data(images: int, side: int) -> DataSplits:
    """Images of noise: what is computed on them takes as long as on others."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, side, side), generator=generator, dtype=torch.uint8)
    some = ImageSet(pixels, torch.arange(images) % CLASSES)
    names = tuple(str(label) for label in range(CLASSES))
    return DataSplits(some, some, some, names, (3, side, side), (0.5,) * 3, (0.25,) * 3)


def trainer(
    place: Path,
    batch_size: int,
    *,
    family: str = "resnet50",
    side: int = 32,
    steps: int = 10,
    crafting: Mapping[str, Any] | None = None,
    attack: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Trainer:
    """A trainer that stands at the beginning of a phase of RSLAD, with a teacher of random weights.

    Args:
        place: its run directory.
        batch_size: images of a step.
        family: of the supernet.
        side: of the images, in pixels.
        steps: of PGD.
        crafting: section of the phase.
        attack: in place of PGD.
        objective: in place of RSLAD as in the paper.
        options: of the family.
        device: as in a configuration.
        precision: likewise.
    """
    phase = {
        "name": "students",
        "epochs": 1,
        "learning_rate": 0.01,
        "elastic": ["all"],
        "objective": objective or {"name": "rslad"},
        "crafting": crafting or {"name": "own"},
    }
    config = Config.model_validate(
        {
            "data": {"name": "cifar10"},
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "supernet": {"family": family, **(options or {})},
            "attack": attack or {"name": "pgd", "steps": steps, "step_size": 2 / 255},
            "phases": [{**phase, "name": "teacher", "elastic": [], "objective": {"name": "trades"}}, phase],
        }
    )
    made = Trainer(config, random_data(2 * batch_size, side), Run(place), quiet=True)
    made.position.phase = 1
    made._begin_phase()
    return made


def train_on(made: Trainer, students: Sequence[Architecture]) -> Way:
    """The trainer's step of these students, on its first images."""
    (batch,) = made.train_images.batches([torch.arange(made.batch_size)], made.device)
    sampler = Fixed(students, space=made.supernet.space, seed=0)

    def step() -> None:
        made.sampler = sampler
        made._step(*batch)

    return step
