"""What does it cost to measure energy?

In seconds of the processor, so that other work on the machine does not count:

- ``start``: a new process that does nothing but to start and stop the meter, children included: codecarbon is imported
  and finds out the hardware. The meter does that while the images are loaded; ``waited`` is what a new process that
  loads the quickstart's images has left to wait for then, in seconds of the clock.
- ``running``: a process that sleeps, so that whatever it takes is the meter's, per second of the clock.
- ``training``: the same short training with ``energy.enabled`` true and false, in turns, after the start: a check of
  the second one, which is far less precise.

Of a run of so many minutes the meter then takes: start, and running for so long.

python scripts/bench_energy.py --out docs/results/bench_energy
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from benchmark import Table, Way, interleaved, ratios, with_quartiles

from proard import train
from proard.config import Config, EnergyConfig, load_config
from proard.runs.energy import EnergyMeter

START = """
import resource
import torch
from proard.config import EnergyConfig
from proard.runs.energy import EnergyMeter

def processor():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in both)

before = processor()
with EnergyMeter(EnergyConfig(), None, "train"):
    pass
print(processor() - before)
"""
WAITED = """
import time
from proard.config import EnergyConfig, load_config
from proard.data import load_data
from proard.runs.energy import EnergyMeter
from proard.training import Trainer

meter = EnergyMeter(EnergyConfig(), None, "train")
load_data(load_config("quickstart.yaml").data)
before = time.perf_counter()
with meter:
    print(time.perf_counter() - before)
"""
MINUTES = (1, 3, 10, 60)


def in_new_process(code: str) -> float:
    """The number that a program prints."""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def asleep(seconds: float) -> float:
    """Processor seconds of the meter per second that this process sleeps."""
    with EnergyMeter(EnergyConfig(), None, "train"):
        before, began = time.process_time(), time.perf_counter()
        time.sleep(seconds)
        return (time.process_time() - before) / (time.perf_counter() - began)


def short_training(place: Path, enabled: bool, scale: float) -> Way:
    """A way: the quickstart's training, made shorter."""
    small = ("data.limit=400", "validation.images=20", "validation.calibration_images=64", "validation.students=0")
    overrides = [f"energy.enabled={str(enabled).lower()}", *small]
    config: Config = load_config("quickstart.yaml", overrides)

    def way() -> None:
        with tempfile.TemporaryDirectory(dir=place) as run:
            train(config, run=Path(run) / "run", scale_epochs=scale, quiet=True)

    return way


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=30, help="asleep, in each repetition")
    parser.add_argument("--scale-epochs", type=float, default=0.03, help="of the quickstart's training")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    table = Table(
        options.out,
        "What it costs to measure energy",
        torch.device("cpu"),
        f"Seconds of the processor: medians of {options.repetitions} repetitions, with quartiles.",
        ("what", "with", "without", "the meter's"),
    )

    starts, waited = ([in_new_process(code) for _ in range(options.repetitions)] for code in (START, WAITED))
    table.add(["start, s", "", "", with_quartiles(starts)], {"what": "start", "seconds": starts, "waited": waited})

    shares = [asleep(options.seconds) for _ in range(options.repetitions)]
    table.add(
        ["running, ms per s", "", "", with_quartiles([1000 * share for share in shares])],
        {"what": "running", "share": shares, "seconds": options.seconds},
    )

    with tempfile.TemporaryDirectory() as place:
        ways: dict[str, Way] = {n: short_training(Path(place), n == "on", options.scale_epochs) for n in ("on", "off")}
        for way in ways.values():
            way()  # what is done once in a process
        seconds = interleaved(ways, options.repetitions, torch.device("cpu"))
    quotients = ratios(seconds, "on", "off")
    differences = [100 * (quotient - 1) for quotient in quotients]
    cells = [with_quartiles(seconds[name]) for name in ("on", "off")]
    table.add(["training, s", *cells, f"{with_quartiles(differences)} %"], {"what": "training", **seconds})

    table.note(f"After the images were loaded, the start was waited for {with_quartiles(waited)} seconds of the clock.")
    begin, share = median(starts), median(shares)
    parts = [f"{100 * (begin / (60 * m) + share):.2f} % of {m} minute{'s' * (m > 1)}" for m in MINUTES]
    table.note(f"Start and running together take, of a run on one processor: {', '.join(parts)}.")


if __name__ == "__main__":
    main()
