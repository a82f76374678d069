"""How many images per second come from a stream of files, and from memory?

A training keeps up with its stream where this is more than its own `images_per_second` in metrics.jsonl. Files are
decoded and resized by worker processes; seconds are those of the clock on the wall, from the first batch on.

python scripts/bench_streaming.py FOLDER --out docs/results/bench_streaming     # FOLDER has train/ and test/
"""

from __future__ import annotations

import argparse
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch
from benchmark import Table

from proard.common.device import resolve_device
from proard.config import DataConfig
from proard.data import ImageSet, load_data

BATCH = 64


def throughput(images: ImageSet, batches: int, device: torch.device) -> float:
    """Images per second of an endless epoch's batches after the first."""
    order = islice(cycle(torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(BATCH)), batches)
    stream = images.batches(list(order), device)
    next(stream)  # with the start of the workers
    started, count = time.perf_counter(), 0
    for _, labels in stream:
        count += len(labels)
    return count / (time.perf_counter() - started)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=41)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    device = resolve_device(options.device)
    table = Table(
        options.out,
        "Images from a stream",
        device,
        f"JPEG files resized to squares, batches of {BATCH}, as floats on the device; medians of {options.repetitions} "
        "repetitions in turns.",
        ["side", "images", "images/s"],
    )
    for side in options.sides:
        common = {"name": "image_folder", "root": options.root, "image_size": side}
        sets = {"in memory": load_data(DataConfig.model_validate(common)).train.to(device)}
        for workers in options.workers:
            config = DataConfig.model_validate({**common, "workers": workers, "memory_limit": 1})
            sets[f"stream, {workers} workers"] = load_data(config).train
        found: dict[str, list[float]] = {name: [] for name in sets}
        for repetition in range(options.repetitions):
            for name in list(sets)[:: 1 if repetition % 2 else -1]:
                found[name].append(throughput(sets[name], options.batches, device))
        for name, values in found.items():
            row = {"side": side, "way": name, "images_per_second": values, "median": median(values)}
            table.add([side, name, f"{median(values):.0f}"], row)


if __name__ == "__main__":
    main()
