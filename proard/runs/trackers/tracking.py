"""Trackers follow metrics.jsonl: after every checkpoint each gets the rows that it has not had.

So they see what is in the file, when it is safe there: a resumed run repeats no row that was tracked, a tracker that is
switched on later gets the earlier rows too, and one that failed can catch up by `replay`. How many rows each has had is
in ``trackers.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from tqdm import tqdm

from proard.common.errors import Stopped, UserError, first_line
from proard.common.files import RunLock, write_json
from proard.common.registry import import_modules
from proard.config import Component, Config
from proard.runs.run import Run, read_metrics
from proard.runs.trackers.base import Tracker, trackers

FILE = "trackers.json"
MOST_SAID = 200  # characters of an error: a server may answer with a page


def build(config: Config) -> dict[str, Tracker]:
    """The trackers of a configuration by name; nothing is started.

    Raises:
        UserError: an unknown name or option, a package that is missing, or a module of ``imports`` that is not there.
    """
    import_modules(config.imports if config.trackers else ())
    return {t.name: _built(t, f"trackers.{index}") for index, t in enumerate(config.trackers)}


def _built(component: Component, where: str) -> Tracker:
    # Not `component.options`: a project called 2024/11 is no number.
    tracker = trackers.build(component.name, component.model_extra or {}, where=where)
    tracker.require_package(f"{where}: {component.name}")
    return tracker


class Tracking:
    """Feeds trackers while a run is trained: ``with Tracking(...) as tracking: ...; tracking.follow()``.

    A tracker that fails is left out from then on, with one line on stderr. The run's metrics.jsonl, which is followed,
    holds no rows that may still be taken back.
    """

    def __init__(self, run: Run, config: Config, chosen: Mapping[str, Tracker]) -> None:
        self.run, self.config, self.active = run, config, dict(chosen)
        self._file = run.path / FILE
        self._known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Tracking:
        """Start them, and give them the rows that they have not had."""
        if not self.active:
            return self
        self._known = _known(self._file)
        present = len(read_metrics(self.run.metrics))
        for name, tracker in list(self.active.items()):
            entry = self._known.setdefault(name, {"rows": 0, "state": {}})
            entry["rows"] = min(entry["rows"], present)  # fewer: the run was begun anew
            tracker.state = entry["state"]
            self._guarded(name, tracker.start, self.run.path, self.config)
        self.follow()
        return self

    def follow(self) -> None:
        """Log the rows that have come since."""
        if not self.active:
            return
        rows = read_metrics(self.run.metrics)
        for name, tracker in list(self.active.items()):
            self._guarded(name, self._log, name, tracker, rows)

    def _log(self, name: str, tracker: Tracker, rows: list[dict[str, Any]]) -> None:
        entry = self._known[name]
        for row in rows[entry["rows"] :]:
            tracker.log(row)
            entry["rows"] += 1
        write_json(self._file, self._known)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let every tracker finish."""
        for name, tracker in list(self.active.items()):
            self._guarded(name, tracker.finish, kind is None)

    def _guarded(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self._failed(name, error, shorten(first_line(error), MOST_SAID))

    def _failed(self, name: str, error: Exception, text: str) -> None:
        """Whatever it is: the training goes on."""
        del self.active[name]
        tqdm.write(
            f"tracker {name}: failed ({text}), and is left out from here on; "
            f"'python -m proard.runs.trackers {self.run.path} {name}' logs the rest later",
            file=sys.stderr,
        )


def replay(run: str | Path | None, name: str, **options: Any) -> int:
    """Give a tracker the rows of a run that it has not had: all, where the run was trained without it.

    Args:
        run: the run directory; None for the newest.
        name: of the tracker.
        options: of the tracker; default those of the run's configuration, if it is there.

    Returns:
        How many rows were logged.

    Raises:
        UserError: no run, one that another process writes, an unknown tracker or option, or a missing package.
        Stopped: the tracker failed.
    """
    directory = Run.find(run)
    config = directory.config()
    import_modules(config.imports)
    configured = {tracker.name: tracker.model_extra or {} for tracker in config.trackers}
    tracker = _built(Component(name=name, **{**configured.get(name, {}), **options}), "replay")
    with RunLock(directory.path):
        tracking = _Replaying(directory, config, {name: tracker})
        with tracking:
            pass
        return tracking.logged


class _Replaying(Tracking):
    """Counts, and passes errors on: nothing is lost by them here."""

    logged = 0

    def _log(self, name: str, tracker: Tracker, rows: list[dict[str, Any]]) -> None:
        self.logged = len(rows) - self._known[name]["rows"]
        super()._log(name, tracker, rows)

    def _failed(self, name: str, error: Exception, text: str) -> None:
        raise error if isinstance(error, UserError) else Stopped(f"tracker {name}: {text}") from error


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """What trackers.json says by tracker; what is damaged is left out, so that all rows are logged again."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8")).items()
        return {name: {"rows": int(entry["rows"]), "state": dict(entry["state"])} for name, entry in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
