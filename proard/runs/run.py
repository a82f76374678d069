"""A run directory: where a training keeps its configuration, checkpoint, metrics and students."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proard.common.environment import environment
from proard.common.errors import UserError
from proard.common.files import atomic_write, write_json
from proard.common.paths import path_of
from proard.config import Config, load_config
from proard.export.named import run_folder

if TYPE_CHECKING:
    from proard.data import DataSplits, Loaded

RUNS = Path("runs")


class Run:
    """Names of the files of one run.

    Args:
        path: the directory; made on `create`.
        data_root: where its images are on this machine; default where its configuration says.
        given: its images, where they are arrays in memory (`proard.data.given_arrays`).
    """

    def __init__(self, path: str | Path, data_root: str | Path | None = None, given: Loaded | None = None) -> None:
        self.path, self.given = path_of(path), given
        self.data_root = None if data_root is None else path_of(data_root)
        self.config_file = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.environment = self.path / "environment.json"
        self.energy = self.path / "energy.json"
        self.students = self.path / "students"

    @classmethod
    def find(
        cls, path: str | Path | None = None, data_root: str | Path | None = None, data: Sequence[Any] | None = None
    ) -> Run:
        """The run at ``path``, by default the newest in ``runs/``; one on a hub (`run_folder`) is downloaded there.

        Raises:
            UserError: there is none, or ``data`` are not the arrays that `proard.data.given_arrays` describes.
        """
        given = None
        if data is not None:
            from proard.data import given_arrays  # needs torch, which not all that looks for a run does

            given = given_arrays(data)
        if path is not None:
            run = cls(run_folder(path, RUNS), data_root, given)
            if not run.config_file.is_file():
                raise UserError(f"run {path}: no config.yaml there; give the directory that 'proard train' wrote")
            return run
        found = sorted(RUNS.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise UserError(f"no run in {RUNS}/: start with 'proard train --config quickstart.yaml', or give --run DIR")
        return cls(found[-1].parent, data_root, given)

    @classmethod
    def fresh(cls, config_name: str | Path) -> Run:
        """An empty directory ``runs/<config>-<time>``, which no other process has, whatever begins in the same second.

        Raises:
            UserError: it cannot be made.
        """
        stem = RUNS / f"{Path(config_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        for path in chain([stem], (stem.with_name(f"{stem.name}-{n}") for n in count(2))):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not path.exists():  # a file stands in its way
                    raise UserError(f"run {path}: cannot be made ({RUNS} is a file)") from None
                continue
            except OSError as error:
                raise UserError(f"run {path}: cannot be made ({error.strerror or error})") from error
            break
        return cls(path)

    def make(self) -> None:
        """Make the directory, if it is not there.

        Raises:
            UserError: it cannot be made.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run {self.path}: is a file; give a directory to --run")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run {self.path}: cannot be written ({error.strerror or error})") from error

    def remove_if_empty(self) -> None:
        """Take back a directory that nothing was written into."""
        with suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()

    def create(self, config: Config) -> None:
        """Write the resolved configuration and the environment; the directory should be locked.

        Raises:
            UserError: it holds another run already, or cannot be written.
        """
        if self.config_file.exists():
            raise UserError(f"run {self.path}: already holds a run; continue it with --resume, or choose another --run")
        self.make()
        try:
            atomic_write(self.config_file, config.to_yaml())
            write_json(self.environment, environment(config.seed))
        except OSError as error:
            raise UserError(f"run {self.path}: cannot be written ({error.strerror or error})") from error

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return load_config(self.config_file)

    def images(self, config: Config) -> DataSplits:
        """The images of a configuration of this run.

        Raises:
            UserError: they are not there, or not as they should be.
        """
        from proard.data import in_memory, load_data  # needs torch, which not all that looks into a run does

        data = config.data if self.data_root is None else config.data.model_copy(update={"root": self.data_root})
        try:
            if self.given is None:
                return load_data(data, config.imports)
            return load_data(in_memory(data, self.given), config.imports, self.given)
        except UserError as error:
            if "data.root" not in str(error):
                raise
            raise UserError(f"{error} (--data-root DIR says where the images are on this machine)") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without one that a process left unfinished when it was killed."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]
