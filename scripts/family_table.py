"""Train every family on one data set, and measure its smallest, middle and largest student; prints a Markdown table.

python scripts/family_table.py --config quickstart.yaml --seeds 0 1 2 > docs/results/families_digits.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from measure_ends import measure_ends

from proard import train
from proard.common.environment import environment
from proard.config import Config, load_config
from proard.supernet import families
from proard.supernet.cost import Cost

# Small versions of every family; a family that is not named here is trained with its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "resnet": {"widths": [32, 64, 128], "blocks": [1, 1, 1], "width_choices": [0.5, 0.75, 1.0]},
    "resnet50": {"widths": [64, 128, 256], "blocks": [1, 1, 1], "depth_choices": [0, 1], "dropout": 0.0},
    "mobilenetv3": {"width_multiplier": 0.5, "depth_choices": [1, 2], "dropout": 0.0},
    "proxyless": {"width_multiplier": 0.5, "depth_choices": [1, 2], "dropout": 0.0},
    "mobilenetv2": {"width_multiplier": 0.5, "depth_choices": [1, 2], "dropout": 0.0},
    "vit": {"width_choices": [48, 64, 96], "depth_choices": [2, 4, 6], "heads_choices": [1, 2, 3]},
}
OVERRIDES: dict[str, list[str]] = {
    "vit": ["optimizer.name=adamw", "optimizer.weight_decay=0.05", "optimizer.gradient_clip=1.0"],
}
# With a warm-up of an epoch. ReLU6 without squeeze-and-excitation does not start at the 0.1 of the configurations.
LEARNING_RATE = {"vit": 0.002, "proxyless": 0.03, "mobilenetv2": 0.03}


def configuration(name: str, family: str, seed: int, overrides: list[str]) -> Config:
    """The configuration with another family and seed."""
    base = load_config(name, [*overrides, *OVERRIDES.get(family, []), f"seed={seed}"])
    rate = LEARNING_RATE.get(family)
    phases = [
        phase.model_copy(
            update={
                "elastic": ("all",) if phase.elastic else (),
                "learning_rate": rate or phase.learning_rate,
                "warmup_epochs": min(1.0, phase.epochs / 4) if rate else phase.warmup_epochs,
            }
        )
        for phase in base.phases
    ]
    options = {"family": family, **OPTIONS.get(family, {})}
    if family == "vit" and base.data.name == "digits":
        options["patch_size"] = 2  # 8x8 images: 16 tokens
    elif family not in ("vit", "resnet") and base.data.name != "digits":
        options["stem"] = "imagenet"  # strides of 2: a few epochs in minutes on a CPU
    values = base.model_dump(mode="json") | {"supernet": options, "energy": {"enabled": False}}
    values["phases"] = [phase.model_dump(mode="json") for phase in phases]
    return Config.model_validate(values)


def main() -> None:
    """Parse, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="quickstart.yaml")
    parser.add_argument("--families", nargs="+", default=families.names(), choices=families.names())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--limit", type=int, help="test images")
    arguments = parser.parse_args()
    about = environment()
    print(f"Command: `python {' '.join(sys.argv)}`  ")
    print(f"Commit {about['git_commit']}, {about['processor']}, {about['threads']} threads, torch {about['torch']}.\n")
    print("| family | student | multiply-adds | parameters | clean % | PGD-20 % | training CPU s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for family in arguments.families:
        rows: dict[str, list[tuple[float, float]]] = {}
        costs: dict[str, Cost] = {}
        seconds = []
        for seed in arguments.seeds:
            config = configuration(arguments.config, family, seed, arguments.overrides)
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
                started = time.process_time()
                run = train(config, run=Path(folder) / "run", quiet=True)
                seconds.append(time.process_time() - started)
                for name, (cost, clean, robust) in measure_ends(run, arguments.limit).items():
                    costs[name] = cost
                    rows.setdefault(name, []).append((100 * clean.value, 100 * robust.value))
        for name, measured in rows.items():
            cost = costs[name]
            clean_mean, robust_mean = (spread(values) for values in zip(*measured, strict=True))
            print(
                f"| {family} | {name} | {cost.multiply_adds / 1e6:.2f} M | {cost.parameters:,} "
                f"| {clean_mean} | {robust_mean} | {mean(seconds):.0f} |",
                flush=True,
            )


def spread(values: tuple[float, ...]) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
