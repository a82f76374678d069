"""Do trainings and their files survive what happens to them? Every kind of fault, many times, and a table.

python scripts/faults.py --out docs/results/faults                      # all of it: about an hour on two cores
python scripts/faults.py --only kills --count 5 --out /tmp/faults       # some of it

- ``kills``: SIGKILL at random moments of one training, by itself, in two processes, and with images that two processes
  decode; each is resumed, and must end bit for bit where an uninterrupted one ends.
- ``terms``: SIGTERM to the whole group of processes, which must save, say one line, and go on likewise.
- ``disk``: the disk is full at every write in turn, of a training, a search, an extraction; what was there must remain.
- ``bytes``: random bytes in every file of a run and of a student; what reads it must refuse it, or give the same.
  Records (of metrics, energy, the environment, a front, labels) have no checksum: there a number may change, but the
  page about them must be written, or refused; that takes seconds, so there is a quarter as many.
- ``configs``: configurations with random changes; each is trained for a step, or refused in one line.

Lost checkpoints, tracebacks, wrong results and executed code are counted, and must be none.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from benchmark import Table
from hypothesis import Phase, given, settings, strategies
from PIL import Image

from proard import evaluate, extract, load_student
from proard.common.errors import Stopped, UserError
from proard.config import Config, parse_config
from proard.data import load_data
from proard.runs.checkpoint import FREE_KEYS, load_checkpoint
from proard.runs.run import Run, read_metrics
from proard.runs.trained_run import MEASURING, TrainedRun
from proard.training import Trainer

KINDS = ("kills", "terms", "disk", "bytes", "configs")
COUNTS = {"kills": 100, "terms": 20, "disk": 1000, "bytes": 200, "configs": 500}
MODES = ("one process", "two processes", "images decoded by two processes")
MANY = {"name": "sandwich", "students": 3}
TINY: dict[str, Any] = {
    "seed": 1,
    "data": {"name": "digits", "limit": 200},
    "supernet": {"family": "resnet", "widths": [8, 16], "blocks": [1, 1], "width_choices": [0.5, 1.0]},
    "threat": {"norm": "linf", "eps": 0.1},
    "attack": {"steps": 1},
    "batch_size": 32,
    "phases": [
        {"name": "teacher", "epochs": 6, "learning_rate": 0.1, "objective": {"name": "trades"}},
        {"name": "all", "epochs": 12, "learning_rate": 0.05, "elastic": ["all"], "sampler": MANY},
    ],
    "validation": {"students": 1, "images": 20, "calibration_images": 64, "attack": {"steps": 1}},
    "search": {"candidates": 1, "mutations": 0, "images": 20, "labels": 8, "attack": {"steps": 1}},
    "evaluation": {"attack": {"steps": 2}, "limit": 30},
    "energy": {"enabled": False},
}
SEARCH = {"labels": 8, "population": 4, "generations": 1, "verify": 1}
CHECKED = ("config.yaml", "checkpoint.pt", "checkpoint.pt.sha256")
RECORDS = ("metrics.jsonl", "energy.json", "environment.json", "front.json")
Found = Iterator[tuple[str, Counter[str]]]  # of what, and the counts
TIMES = ("seconds", "images_per_second", "peak_memory_bytes", "processor_seconds")
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    0.5,
    1e-9,
    float("nan"),
    "",
    "x",
    "8/255",
    [],
    [1],
    ["all"],
    {},
    {"name": "x"},
)


class Faults:
    """Makes them, and counts what comes of them.

    Args:
        folder: to work in.
        rng: of all that is random.
    """

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.images = folder / "images"
        self.made = 0

    # -----------------------------------------------------------------------------------------------------------------
    # Trainings in processes of their own

    def config(self, mode: str) -> Path:
        """The file of a configuration."""
        values = copy.deepcopy(TINY)
        if mode == MODES[2]:
            self._make_images()
            values["data"] = {"name": "image_folder", "root": str(self.images), "image_size": 8, "memory_limit": 10}
        path = self.folder / f"{mode.replace(' ', '-')}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def _make_images(self) -> None:
        rng = np.random.default_rng(0)
        for split, count in (("train", 100), ("test", 20)):
            for label, name in enumerate(("dark", "light")):
                (self.images / split / name).mkdir(parents=True, exist_ok=True)
                for index in range(count):
                    pixels = np.clip(rng.normal(80 + 80 * label, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(self.images / split / name / f"{index}.png")

    def start(self, mode: str, run: Path) -> subprocess.Popen[str]:
        """Train from the beginning, or go on, as a group of processes of its own."""
        command = [sys.executable, "-m"]
        if mode == MODES[1]:
            command += ["torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
            command += ["--rdzv-endpoint=localhost:0", "-m", "--"]
        command += ["proard", "train", "--run", str(run), "--quiet"]
        command += ["--resume"] if (run / "config.yaml").exists() else ["--config", str(self.config(mode))]
        return subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def whole(self, mode: str) -> tuple[list[Any], float]:
        """What an uninterrupted training ends with, and how long it takes."""
        run, started = self.new(), time.monotonic()
        process = self.start(mode, run)
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{mode}: {errors}")
        return result(run), time.monotonic() - started

    def new(self) -> Path:
        """A place for a run."""
        self.made += 1
        return self.folder / f"run-{self.made}"

    def interrupted(self, mode: str, number: int, count: int) -> Counter[str]:
        """Send a signal ``count`` times, a few times to each training, and see where the trainings end."""
        expected, seconds = self.whole(mode)
        found: Counter[str] = Counter()
        while found["faults"] < count:
            run = self.new()
            for _ in range(min(5, count - found["faults"])):
                process = self.start(mode, run)
                try:
                    process.wait(self.rng.uniform(0.2, 1.0) * seconds)
                except subprocess.TimeoutExpired:
                    ranks = children(process.pid) if mode == MODES[1] and number == signal.SIGKILL else []
                    os.killpg(process.pid, number)
                    for rank in ranks:  # each in a group of its own; torchrun would end them on any other signal
                        os.kill(rank, number)
                    found["faults"] += 1
                _, errors = process.communicate()
                found["tracebacks"] += "Traceback" in errors and mode != MODES[1]
                found["lost checkpoints"] += not self.readable(run)
                if process.returncode == 0:
                    break
            process = self.start(mode, run)
            _, errors = process.communicate()
            found["wrong results"] += process.returncode != 0 or result(run) != expected
            found["tracebacks"] += "Traceback" in errors
            shutil.rmtree(run)
        return found

    def readable(self, run: Path) -> bool:
        """Whether a checkpoint that was there can be read."""
        try:
            return not (run / "checkpoint.pt").exists() or bool(load_checkpoint(run / "checkpoint.pt"))
        except UserError:
            return False

    def kills(self, count: int) -> Found:
        """SIGKILL."""
        for mode in MODES:
            yield mode, self.interrupted(mode, signal.SIGKILL, -(-count // len(MODES)))

    def terms(self, count: int) -> Found:
        """SIGTERM to the group; torchrun says in a traceback that a process left, so its output is not looked at."""
        for mode in MODES:
            yield mode, self.interrupted(mode, signal.SIGTERM, -(-count // len(MODES)))

    # -----------------------------------------------------------------------------------------------------------------
    # In this process

    def disk(self, count: int) -> Found:
        """No space at the first write, the second ..., of every command that writes."""
        from proard.commands.report import write_report
        from proard.commands.search import search
        from proard.commands.train import train
        from proard.common import files
        from proard.search import labels
        from proard.training import trainer

        config = shorter()
        whole = train(config, run=self.new(), quiet=True)
        expected = result(whole)
        found = {name: Counter[str]() for name in ("train", "search", "extract", "report")}
        flush, append, left = files._flush_to_disk, files.append_line, 0

        def full(path: Path) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(28, "No space left on device", str(path))
            flush(path)

        def full_append(path: Path, text: str) -> None:
            if left == 1:  # a part of a line fits
                with path.open("a") as file:
                    file.write(text[: len(text) // 2])
            full(path.parent)
            append(path, text)

        def attempts(name: str, work: Callable[[], Any], again: Callable[[], Any]) -> None:
            nonlocal left
            for write in range(1, count + 1):
                left = write
                files._flush_to_disk, trainer.append_line, labels.append_line = full, full_append, full_append
                try:
                    work()
                    if left > 0:  # there are not so many writes
                        return
                    found[name]["without a word"] += 1  # such as energy's, which stop no work
                except (OSError, UserError, Stopped):
                    found[name]["refused"] += 1
                except Exception as error:
                    found[name]["tracebacks"] += 1
                    print(f"{name}, write {write}: {type(error).__name__}: {error}", file=sys.stderr)
                finally:
                    files._flush_to_disk, trainer.append_line, labels.append_line = flush, append, append
                found[name]["faults"] += 1
                again()

        runs = [self.new()]

        def again() -> None:
            run = runs[-1]
            found["train"]["lost checkpoints"] += not self.readable(run)
            train(config, run=run, quiet=True, resume=(run / "config.yaml").exists())
            found["train"]["wrong results"] += result(run) != expected
            runs.append(self.new())

        attempts("train", lambda: train(config, run=runs[-1], quiet=True), again)

        def searched_anew() -> None:
            for file in whole.glob("labels*.jsonl"):
                file.unlink()
            search(whole, **SEARCH)

        searched_anew()
        front = (whole / "front.json").read_text()

        def searched_on() -> None:
            search(whole, **SEARCH)
            points = [json.loads(text)["students"] for text in (front, (whole / "front.json").read_text())]
            found["search"]["wrong results"] += points[0] != points[1]

        attempts("search", searched_anew, searched_on)
        budget = [("flops", "10M")]
        cards = [extract(budget, run=whole, out=self.folder / "expected")[0].card]

        def extracted() -> None:
            cards.append(extract(budget, run=whole)[0].card)
            found["extract"]["wrong results"] += cards[-1]["files"] != cards[0]["files"]

        attempts("extract", lambda: extract(budget, run=whole), extracted)
        attempts("report", lambda: write_report(whole), lambda: write_report(whole))
        yield from found.items()

    def bytes(self, count: int) -> Found:
        """Changed, cut or lengthened files of a run and of a student."""
        from proard.commands.report import write_report
        from proard.commands.search import search
        from proard.commands.train import train

        run = train(shorter(), run=self.new(), quiet=True)
        search(run, **SEARCH, quiet=True)
        (student,) = extract([("flops", "10M")], run=run)
        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

        def read_run() -> Any:
            trained = TrainedRun(Run(run))  # what of it may be changed by hand may be changed by chance
            config = trained.config.model_dump(exclude={*FREE_KEYS, *MEASURING})
            return [config, [t.tolist() for t in trained.supernet.state_dict().values()]]

        def read_student() -> Any:
            (measured,) = evaluate(student.path, limit=10)
            return [
                load_student(student.path)(images).tolist(),
                str(measured.accuracies),
                measured.card["threat_model"],
            ]

        def read_records() -> None:
            write_report(run, quiet=True)

        def read_labels() -> None:
            search(run, **SEARCH, quiet=True)

        readers: dict[Path, Callable[[], Any]] = dict.fromkeys([run / name for name in CHECKED], read_run)
        readers |= {path: read_student for path in sorted(student.path.iterdir()) if path.name != "README.md"}
        readers |= dict.fromkeys([run / name for name in RECORDS], read_records)
        readers[run / "labels.jsonl"] = read_labels
        for path, read in readers.items():
            before, expected = path.read_bytes(), read()
            counts = Counter[str]()
            for _ in range(count if read in (read_run, read_student) else -(-count // 4)):
                path.write_bytes(self.damaged(before))
                counts["faults"] += 1
                try:
                    counts["wrong results"] += read() != expected
                except (UserError, Stopped):
                    counts["refused"] += 1
                except Exception as error:
                    counts["tracebacks"] += 1
                    print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
            path.write_bytes(before)
            yield path.name, counts

    def damaged(self, content: bytes) -> bytes:
        """Some bytes changed, or an end that is missing or too much."""
        changed = bytearray(content)
        for _ in range(self.rng.choice((1, 1, 2, 16))):
            changed[self.rng.randrange(len(changed))] = self.rng.randrange(256)
        kind = self.rng.random()
        return bytes(changed[: self.rng.randrange(len(changed))] if kind < 0.1 else changed) + b"x" * (kind > 0.9)

    def configs(self, count: int) -> Found:
        """Changes of one or two keys, by hypothesis, which tries simple and odd ones."""
        counts: Counter[str] = Counter()
        whole = parse_config(shorter()).model_dump(mode="json")

        @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
        @given(strategies.randoms())
        def attempt(rng: random.Random) -> None:
            values = copy.deepcopy(whole)
            for _ in range(rng.choice((1, 2))):
                self.change(values, rng)
            counts["faults"] += 1
            try:
                one_step(parse_config(values), self.folder / f"config-{counts['faults']}")
                counts["accepted"] += 1
            except UserError as error:
                counts["refused"] += 1
                counts["tracebacks"] += "\n" in str(error)
            except Stopped:
                counts["stopped"] += 1
            except Exception as error:
                counts["tracebacks"] += 1
                print(f"{json.dumps(values)[:2000]}: {type(error).__name__}: {error}", file=sys.stderr)

        attempt()
        yield "two small phases on the digits", counts

    def change(self, values: dict[str, Any], rng: random.Random) -> None:
        """Put another value, or an unknown key, somewhere."""
        at: Any = values
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                return
            key = rng.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7:
                at = at[key]
                continue
            if isinstance(at, dict) and rng.random() < 0.1:
                at[f"{key}x"] = at[key]
            number = isinstance(at[key], int | float) and rng.random() < 0.7
            at[key] = at[key] * rng.choice((0, -1, 0.5, 1, 2, 3)) if number else rng.choice(ODD)
            return


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def shorter() -> dict[str, Any]:
    """The configuration with as few epochs as have two phases."""
    values = copy.deepcopy(TINY)
    for phase in values["phases"]:
        phase["epochs"] = 2
    return values


def one_step(config: Config, folder: Path) -> None:
    """Read the images, make the trainer, and take its first step."""
    trainer = Trainer(config, load_data(config.data), Run(folder), quiet=True)
    images, labels = next(trainer.train_images.batches([torch.arange(min(trainer.batch_size, 32))], trainer.device))
    trainer._step(images, labels)


def result(run: Path) -> list[Any]:
    """What a training ends with, without times: weights, and what was measured on the way."""
    state = load_checkpoint(run / "checkpoint.pt")
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(run / "metrics.jsonl")]
    return [
        state["finished"],
        [tensor.tolist() for tensor in state["supernet"].values()],
        [row for row in rows if row["kind"] == "validation"],
    ]


def main() -> None:
    """Parse, make faults, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--count", type=int, help="of each kind; default as many as the table has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    table = Table(
        options.out,
        "Faults",
        torch.device("cpu"),
        f"seed {options.seed}; what each kind is, `scripts/faults.py` says.",
        ["kind", "of", "faults", "lost checkpoints", "wrong results", "tracebacks", "and"],
    )
    with tempfile.TemporaryDirectory() as place:
        faults = Faults(Path(place), random.Random(options.seed))
        for kind in options.only:
            for of, counts in getattr(faults, kind)(options.count or COUNTS[kind]):
                usual = ("faults", "lost checkpoints", "wrong results", "tracebacks")
                rest = ", ".join(f"{n} {name}" for name, n in counts.items() if name not in usual)
                table.add([kind, of, *(str(counts[name]) for name in usual), rest], dict(counts))


if __name__ == "__main__":
    main()
