"""Labels: the measured accuracies of students, kept in the run's ``labels.jsonl`` as they come.

A line is a label, ``{"fingerprint": ..., "architecture": {...}, "clean": ..., "robust": ..., "images": ..., "seconds":
...}``, or says what a fingerprint stands for, ``{"fingerprint": ..., "of": {...}}``: the weights, images, attack and
seed. Files are only ever appended to. Labels of other weights or of another attack stay in them and are left out, so
that going back to a setting finds its labels again.

Several processes (ranks) write a file each, ``labels-1.jsonl`` ..., and read all of them; nothing else is shared.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proard.common.errors import UserError, reason
from proard.common.files import append_line
from proard.search.selection import Label
from proard.supernet import Architecture, SearchSpace
from proard.supernet.cost_bins import Strata

STRATA = 8
MOST_DRAWS = 200  # in vain, before a space counts as exhausted


@dataclass(frozen=True)
class MeasuredLabel(Label):
    """Accuracies that were measured, on so many validation images; seconds that calibration and measurement took."""

    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Fingerprint:
    """What labels depend on; only labels of the same fingerprint are comparable.

    Attributes:
        of: the parts, with JSON values.
    """

    of: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Short and safe to compare."""
        return hashlib.sha256(json.dumps(self.of, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Names of the parts that another one has differently."""
        return [key for key in dict.fromkeys([*self.of, *other]) if self.of.get(key) != other.get(key)]


class LabelStore:
    """The labels of a run that fit a fingerprint.

    Args:
        folder: the run directory.
        fingerprint: of the labels that are wanted, and of the ones that are added.
        space: whose architectures they are.
        rank: of this process, which decides the file it writes.

    Attributes:
        labels: by architecture; grows with `add` and `read`.
        left_out: how many labels of other fingerprints the files hold.
        changed: what differs between those and the wanted ones, such as ``weights``.

    Raises:
        UserError: a line in a file is not a label; names file and line.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint, space: SearchSpace, rank: int = 0) -> None:
        self.folder, self.fingerprint, self.space = folder, fingerprint, space
        self.file = folder / ("labels.jsonl" if rank == 0 else f"labels-{rank}.jsonl")
        self.labels: dict[Architecture, MeasuredLabel] = {}
        self.left_out = 0
        self.changed: list[str] = []
        self._described = False
        self._offsets: dict[Path, tuple[int, int]] = {}  # per file: bytes and lines that were read
        _drop_unfinished_line(self.file)
        self.read()

    def read(self) -> None:
        """Take in what any process has added since the last time."""
        for file in sorted(self.folder.glob("labels*.jsonl")):
            offset, number = self._offsets.get(file, (0, 0))
            with open(file, "rb") as stream:
                stream.seek(offset)
                text = stream.read()
            complete = text[: text.rfind(b"\n") + 1]  # another process may be about to finish the last line
            for line in complete.splitlines():
                number += 1
                if line.strip():
                    self._take(line, f"{file}:{number}")
            self._offsets[file] = (offset + len(complete), number)

    def add(self, architecture: Architecture, label: MeasuredLabel) -> None:
        """Write a label down at once.

        Raises:
            OSError: the file cannot be written or the disk is full.
        """
        digest = self.fingerprint.digest
        if not self._described:
            append_line(self.file, json.dumps({"fingerprint": digest, "of": self.fingerprint.of}))
            self._described = True
        values = {
            "fingerprint": digest,
            "architecture": dict(architecture.decisions),
            **asdict(label),
            "seconds": round(label.seconds, 4),
        }
        append_line(self.file, json.dumps(values))
        self.labels[architecture] = label

    def _take(self, line: bytes, where: str) -> None:
        try:
            values = json.loads(line)
            if "of" in values:
                if values["fingerprint"] != self.fingerprint.digest:
                    self.changed = list(dict.fromkeys([*self.changed, *self.fingerprint.differences(values["of"])]))
                elif where.startswith(f"{self.file}:"):
                    self._described = True
                return
            label = _label(values)
            ours = values["fingerprint"] == self.fingerprint.digest
            architecture = self.space.canonical(values["architecture"]) if ours else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: not a label ({reason(error)}); remove this line, or the file") from error
        if architecture is None:
            self.left_out += 1
        else:
            self.labels[architecture] = label


def _label(values: Mapping[str, Any]) -> MeasuredLabel:
    """Read what `LabelStore.add` wrote; ValueError, KeyError or TypeError for anything else."""
    clean, robust = float(values["clean"]), float(values["robust"])
    if not all(0 <= value <= 1 for value in (clean, robust)):
        raise ValueError("an accuracy is not in [0, 1]")
    if not isinstance(values["fingerprint"], str) or not isinstance(values["architecture"], dict):
        raise TypeError("it has no fingerprint or no architecture")
    return MeasuredLabel(clean, robust, int(values["images"]), float(values["seconds"]))


def _drop_unfinished_line(file: Path) -> None:
    """Cut off what a killed process left of its last line."""
    if file.exists():
        with open(file, "rb+") as stream:
            text = stream.read()
            if text and not text.endswith(b"\n"):
                stream.truncate(text.rfind(b"\n") + 1)


def architectures_to_label(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """The largest, the smallest, then random ones, in turn from each bin of multiply-adds; each once.

    Every process, and every resumption, gets the same list; a longer list begins with the shorter one.

    Args:
        space: where to draw from; all of it, where it has fewer.
        count: at least 2.
        seed: of the draws.
    """
    found = dict.fromkeys([space.largest(), space.smallest()])
    strata, rng = Strata(space, STRATA), random.Random(seed)
    bins = sorted(strata.members)
    in_vain = 0
    while len(found) < min(count, space.size) and in_vain < MOST_DRAWS * len(bins):
        for index in bins:
            before = len(found)
            found.setdefault(strata.draw(index, rng))
            in_vain = 0 if len(found) > before else in_vain + 1
    return list(found)[:count]


def label_share(
    store: LabelStore,
    architectures: list[Architecture],
    label: Callable[[Architecture], MeasuredLabel],
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[], Any] = lambda: None,
) -> None:
    """Label every ``ranks``-th architecture, from ``rank`` on; then help with what the others have not done yet.

    So no process waits for another, and a search ends although one of them has died. At the end an architecture may be
    labelled twice, with equal results.

    Args:
        store: that has the labels so far, and gets the new ones.
        architectures: the same list in every process.
        label: measures one.
        rank: of this process, from 0.
        ranks: how many processes there are.
        progress: called after each.
    """
    share = architectures[rank::ranks]
    for architecture in dict.fromkeys([*share, *reversed(architectures)]):
        if architecture not in store.labels:
            store.read()
        if architecture not in store.labels:
            store.add(architecture, label(architecture))
            progress()
