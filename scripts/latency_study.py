"""Predicted against measured latency of whole students, for several families and runtimes on this device.

For each case the blocks of the family's default space are measured, the overhead is fitted on a few whole students, and
others are predicted. Writes a Markdown table, and every number behind it as JSON.

python scripts/latency_study.py --threads 1 --out docs/results/latency
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from proard.common.environment import environment
from proard.common.files import atomic_write, write_json
from proard.evaluation.latency import Execution, LatencyTable, profile_supernet
from proard.evaluation.latency.execution import DTYPES, RUNTIMES
from proard.supernet import build_supernet

FAMILIES = ("resnet", "resnet50", "mobilenetv3", "vit")
CLASSES = 10
TARGET_ERROR, TARGET_RANKS = 0.15, 0.9


def row(family: str, runtime: str, table: LatencyTable, distinct: int, seconds: float) -> dict[str, Any]:
    """What the table shows of one case, and the students behind it."""
    return {
        "family": family,
        "runtime": runtime,
        "blocks": len(table.blocks),
        "distinct_blocks": distinct,
        "overhead": table.overhead,
        "scale": table.scale,
        "error": table.error,
        "spearman": table.rank_correlation,
        "kendall_tau": table.kendall_tau,
        "seconds": seconds,
        "students": [student.model_dump() for student in table.students],
    }


def markdown(rows: list[dict[str, Any]], about: dict[str, Any], device: str, arguments: argparse.Namespace) -> str:
    """The page, from the rows so far."""
    lines = [
        "# Latency: predicted against measured",
        "",
        f"Command: `python {' '.join(sys.argv)}`  ",
        f"Commit {about['git_commit']}, {device}, {arguments.threads or about['threads']} threads, "
        f"torch {about['torch']}, {arguments.dtype}, batch size {arguments.batch_size}.",
        "",
        f"Default spaces, images of 3x{arguments.image_size}x{arguments.image_size}. Overhead and scale are fitted on "
        f"{arguments.fitted} whole students; error (median, relative) and rank correlations are of "
        f"{arguments.held_out} others. Wanted: an error of at most {TARGET_ERROR:.0%} and Spearman's rank correlation "
        f"of at least {TARGET_RANKS}.",
        "",
        "| family | runtime | blocks | students ms | error % | Spearman | Kendall | minutes | wanted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        times = [1e3 * student["measured"] for student in r["students"]]
        reached = r["error"] <= TARGET_ERROR and r["spearman"] >= TARGET_RANKS
        lines.append(
            f"| {r['family']} | {r['runtime']} | {r['blocks']} of {r['distinct_blocks']} "
            f"| {min(times):.2f} - {max(times):.2f} | {100 * r['error']:.1f} | {r['spearman']:.2f} "
            f"| {r['kendall_tau']:.2f} | {r['seconds'] / 60:.1f} | {'yes' if reached else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, write after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, help="default what PyTorch chooses")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=0.1, help="for every block")
    parser.add_argument("--most-blocks", type=int, default=400)
    parser.add_argument("--fitted", type=int, default=8, help="students that the overhead is fitted on")
    parser.add_argument("--held-out", type=int, default=20, help="students that are predicted")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    arguments = parser.parse_args()
    about, rows = environment(), []
    for runtime in arguments.runtimes:
        settings = (arguments.batch_size, arguments.dtype, runtime, arguments.threads, arguments.device)
        execution = Execution(*settings).resolved()
        for family in arguments.families:
            started = time.perf_counter()
            shape = (3, arguments.image_size, arguments.image_size)
            table, distinct = profile_supernet(
                build_supernet(family, num_classes=CLASSES, input_shape=shape),
                execution,
                seconds=arguments.seconds,
                most_blocks=arguments.most_blocks,
                students=(arguments.fitted, arguments.held_out),
            )
            rows.append(row(family, runtime, table, distinct, time.perf_counter() - started))
            atomic_write(arguments.out.with_suffix(".md"), markdown(rows, about, execution.device_name, arguments))
            write_json(arguments.out.with_suffix(".json"), {"environment": about, "command": sys.argv, "rows": rows})
            print(f"{family} {runtime}: error {100 * (table.error or 0):.1f} %", flush=True)


if __name__ == "__main__":
    main()
