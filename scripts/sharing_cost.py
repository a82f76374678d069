"""What a training step costs with each way of sampling students and sharing attack work; prints a Markdown table.

A step is the trainer's own, in the setting of scripts/sampler_study.py, which measures what the same arms give. Each
repetition runs one step of every arm, one after another, so that all see the machine in the same state; a ratio is the
median over repetitions of a step's seconds by those of `sandwich` in the same repetition.

python scripts/sharing_cost.py > docs/results/sharing_cost.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark import interleaved, ratios, with_quartiles
from sampler_arms import BASE
from sampler_study import Study

from proard.common.environment import environment
from proard.config import Config
from proard.data import load_data
from proard.runs.run import Run
from proard.training import Trainer

SANDWICH = {"name": "sandwich", "students": 4}
# What differs from the sandwich with an attack of its own for every student.
ARMS: dict[str, dict[str, Any]] = {
    BASE: {},
    "uniform": {"sampler": {"name": "uniform", "students": 4}},
    "robustness": {"sampler": {"name": "robustness", "students": 4}},
    **{f"own, {steps} steps": {"crafting": {"name": "own", "steps": steps}} for steps in (3, 2, 1)},
    **{f"shared, {source}": {"crafting": {"name": "shared", "source": source}} for source in ("largest", "drawn")},
    **{
        f"refined {steps}, {source}": {"crafting": {"name": "refined", "steps": steps, "source": source}}
        for source in ("largest", "drawn", "previous", "smallest")
        for steps in (2, 1)
    },
    "weights averaged": {"ema_decay": 0.98},
    "joint teacher": {"teacher": {"mode": "joint"}},
}


class TimedArm:
    """A trainer that stands at the beginning of an arm of the study."""

    def __init__(self, arm: str, study: Study, place: Path) -> None:
        changed = ARMS[arm]
        config = study.config(0)
        config |= {key: changed[key] for key in ("ema_decay", "teacher") if key in changed}
        phase = {"name": "students", "epochs": 1, "learning_rate": 0.01, "elastic": ["all"], "sampler": SANDWICH}
        phase |= {key: changed[key] for key in ("sampler", "crafting") if key in changed}
        teacher = {"name": "teacher", "epochs": 1, "learning_rate": 0.01, "objective": {"name": "trades"}}
        parsed = Config.model_validate({**config, "phases": [teacher, phase]})
        data = load_data(parsed.data)
        self.trainer = Trainer(parsed, data, Run(place), quiet=True)
        self.trainer.position.phase = 1
        self.trainer._begin_phase()  # its weights are random, which is all the same for the time of a step
        images = self.trainer.train_images
        order = torch.arange(parsed.batch_size)
        (self.batch,) = images.batches([order], self.trainer.device)

    def step(self) -> None:
        """One step."""
        self.trainer._step(*self.batch, 0.5)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--root", type=Path, help="where the images are")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS)[1:])
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    study = Study(argparse.Namespace(data=arguments.data, root=arguments.root, limit=2400, out="unused", work="unused"))
    with tempfile.TemporaryDirectory() as directory:
        arms = {name: TimedArm(name, study, Path(directory) / str(n)) for n, name in enumerate([BASE, *arguments.arms])}
        for arm in arms.values():
            arm.step(), arm.step()  # the first steps are slower
        device = next(iter(arms.values())).trainer.device
        seconds = interleaved({name: arm.step for name, arm in arms.items()}, arguments.repetitions, device)
    about = environment()
    some = next(iter(arms.values())).trainer
    where = about["cuda_device"] if some.device.type == "cuda" else about["processor"]
    print(f"Command: `python {' '.join(sys.argv)}`  ")
    print(
        f"Commit {about['git_commit']}, {where}, {about['threads']} threads, torch {about['torch']}, {some.precision}."
    )
    print(
        f"\n{arguments.data}, batches of {some.config.batch_size}, attack of {some.config.attack.steps} steps, 4 "
        f"students per step; medians of {arguments.repetitions} repetitions, and quartiles of the ratio.\n"
    )
    print(f"| arm | ms per step | images/s | relative to {BASE} |\n|---|---|---|---|")
    for name, values in seconds.items():
        relative = ratios(seconds, name, BASE)
        time_ = median(values)
        images = some.config.batch_size / time_
        print(f"| {name} | {1000 * time_:.0f} | {images:.0f} | {with_quartiles(relative)} |")


if __name__ == "__main__":
    main()
