"""Does a stream of images from files keep up with training? The same training with images in memory and from a stream.

Every measurement is a whole `proard train` of one process with one thread; its throughput is that of the fastest epoch
in metrics.jsonl. Decoding workers are processes beside it. Ways take turns.

python scripts/bench_streaming.py FOLDER --out docs/results/bench_streaming     # FOLDER has train/ and test/
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from bench_processes import throughput
from benchmark import Table, with_quartiles

from proard.device import resolve_device

CONFIG = """
data:
  {{name: image_folder, root: {root}, image_size: {side}, limit: {limit}, workers: {workers}, memory_limit: {memory}}}
batch_size: 64
supernet: {{family: resnet, widths: [32, 64, 128], blocks: [1, 1, 1]}}
attack: {{name: pgd, steps: {steps}}}
validation: {{every: 1000, students: 0, images: 60, calibration_images: 60, attack: {{steps: 1}}}}
phases:
  - {{name: students, epochs: {epochs}, learning_rate: 0.01, elastic: [all], objective: {{name: trades}}}}
"""
WAYS = {
    "in memory": {"workers": 0, "memory": 4e9},
    "stream, 0 workers": {"workers": 0, "memory": 1},
    "stream, 1 worker": {"workers": 1, "memory": 1},
    "stream, 2 workers": {"workers": 2, "memory": 1},
}


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--limit", type=int, default=1300)
    parser.add_argument("--steps", type=int, default=3, help="of the attack")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as place:
        for repetition in range(options.repetitions):
            for name in list(WAYS)[:: 1 if repetition % 2 else -1]:
                config = Path(place) / "config.yaml"
                config.write_text(CONFIG.format(**vars(options) | WAYS[name]), encoding="utf-8")
                found[name].append(throughput(1, config, Path(place)))
    table = Table(
        options.out,
        "Images from a stream",
        resolve_device("auto"),
        f"{options.limit} JPEG files, resized to {options.side} pixels, batches of 64, a small `resnet`, 4 students a "
        f"step, TRADES, PGD with {options.steps} steps, one thread. Medians of {options.repetitions} runs in turns, "
        "ratios with quartiles.",
        ["images", "images/s", "relative to memory"],
    )
    for name, values in found.items():
        relative = [a / b for a, b in zip(values, found["in memory"], strict=True)]
        row = {"way": name, "images_per_second": values, "relative": relative}
        table.add([name, f"{median(values):.1f}", with_quartiles(relative)], row)


if __name__ == "__main__":
    main()
