"""The latency table of a device: a file from which every student's latency is predicted.

    latency(student) = overhead + scale * sum over its blocks of (median - call_overhead)

``call_overhead`` is what calling anything costs, which a block pays when it is measured alone and a student pays once;
``overhead`` and ``scale`` are fitted on a few whole students. Additive tables per device are those of ProxylessNAS
(arXiv 1812.00332, section 3.3) and Once-for-All (arXiv 1908.09791); the fit on whole students is an addition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proard.common.errors import UserError
from proard.common.files import atomic_write
from proard.common.paths import path_of
from proard.evaluation.latency.blocks import blocks_of
from proard.evaluation.latency.execution import Execution
from proard.evaluation.latency.timing import Timing
from proard.supernet import Architecture, Family, families
from proard.supernet.cost import Block

# Options of a family that do not change how long its networks take.
WITHOUT_EFFECT = ("mean", "std", "dropout", "kernel_transform")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Read from JSON without conversions; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Entry(Model):
    """One block: its timing in seconds, and what interpolation between blocks needs."""

    median: Seconds
    p95: Seconds
    repeats: Count
    multiply_adds: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    layers: Count

    @classmethod
    def of(cls, block: Block, timing: Timing) -> Entry:
        """Of a block that was measured."""
        counts = {"multiply_adds": block.multiply_adds, "bytes": block.bytes, "layers": len(block.layers)}
        return cls(**asdict(timing), **counts)


class StudentLatency(Model):
    """A whole student: predicted and measured seconds, and whether the fit had not seen it."""

    architecture: dict[str, float]
    multiply_adds: int
    predicted: Seconds
    measured: Seconds
    p95: Seconds
    held_out: bool


class LatencyTable(Model):
    """What a latency.json holds; times are in seconds.

    Attributes:
        format: 1.
        family: of the networks, with its options, classes and input shape (channels, height, width).
        batch_size: and dtype, runtime and threads: how blocks were run.
        device: name of the processor or graphics card.
        versions: of what ran them.
        call_overhead: of calling anything, which every block's time holds.
        overhead: of a whole student, in addition to its blocks.
        scale: what a block takes inside a student relative to alone.
        interpolate: whether blocks without an entry are interpolated; else they are an error.
        blocks: entries by the block's key.
        students: whole students that were measured.
        error: median relative error of the predictions for held-out students; None without any.
        rank_correlation: Spearman's, likewise.
        kendall_tau: likewise.
    """

    format: Literal[1] = 1
    family: str
    family_options: dict[str, Any]
    num_classes: Count
    input_shape: tuple[Count, Count, Count]
    batch_size: Count
    dtype: str
    runtime: str
    threads: Count
    device: str
    versions: dict[str, str | None]
    call_overhead: NotNegative = 0.0
    overhead: NotNegative = 0.0
    scale: Seconds = 1.0
    interpolate: bool = False
    blocks: Annotated[dict[str, Entry], Field(min_length=1)]
    students: list[StudentLatency] = []
    error: float | None = None
    rank_correlation: float | None = None
    kendall_tau: float | None = None

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table from its file.

        Raises:
            UserError: no such file, or one that is not a table; names the first wrong place.
        """
        try:
            return cls.model_validate_json(path_of(path).read_bytes())
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise UserError(f"latency table {path}: {reason}; 'proard profile' makes one") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            message = first["msg"].replace("Input should be", "should be")
            got = "" if isinstance(first["input"], dict | list | bytes | str) else f", got {first['input']!r}"
            raise UserError(f"latency table {path}: {place + ': ' if place else ''}{message}{got}") from None

    def save(self, path: str | Path) -> None:
        """Write the table, replacing an older one.

        Raises:
            UserError: the folder does not exist or cannot be written.
        """
        try:
            atomic_write(path, self.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise UserError(f"latency table {path}: cannot be written ({error.strerror or error})") from error

    def check(self, family: Family, where: str = "latency table") -> None:
        """Refuse networks that the table was not made for.

        Raises:
            UserError: names the first difference.
        """
        theirs, ours = _comparable(describe_family(family)), _comparable(self.model_dump())
        for name in ("family", *sorted(theirs.keys() | ours.keys())):
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f"{where}: made for {name} {ours.get(name)}, and this run has {theirs.get(name)}; "
                    "'proard profile' makes one for this run"
                )

    def predict(self, architecture: Architecture) -> float:
        """Seconds for one batch of the student.

        Raises:
            UserError: a block has no entry, and the table does not interpolate.
        """
        return self.overhead + self.scale * sum(map(self.block_seconds, blocks_of(self._family, architecture)))

    def block_seconds(self, block: Block) -> float:
        """Seconds of a block without the call: its entry, or an interpolation.

        Raises:
            UserError: it has no entry, and the table does not interpolate.
        """
        entry = self.blocks.get(block.key)
        if entry is not None:
            return max(0.0, entry.median - self.call_overhead)
        if not self.interpolate:
            raise UserError(f"latency table of {self.device}: no entry for the block '{block.key}'; profile again")
        return float(np.dot(self._weights, _features(len(block.layers), block.multiply_adds, block.bytes)))

    @property
    def execution(self) -> Execution:
        """How the blocks were run, for measuring a student likewise."""
        return Execution(self.batch_size, self.dtype, self.runtime, self.threads)

    @cached_property
    def _family(self) -> Family:
        given = {"num_classes": self.num_classes, "input_shape": self.input_shape}
        return families.build(self.family, {**self.family_options, **given}, where="latency table")

    @cached_property
    def _weights(self) -> np.ndarray:
        """Seconds per call, layer, multiply-add and byte: least squares of relative errors, none of them negative."""
        entries = list(self.blocks.values())
        features = [_features(entry.layers, entry.multiply_adds, entry.bytes) for entry in entries]
        return fit(features, [max(entry.median - self.call_overhead, 1e-9) for entry in entries])


def describe_family(family: Family) -> dict[str, Any]:
    """The part of a table that says what networks it is for."""
    options = json.loads(json.dumps(asdict(family)))  # lists for tuples, as in the file
    return {
        "family": families.name_of(family),
        "num_classes": options.pop("num_classes"),
        "input_shape": tuple(options.pop("input_shape")),
        "family_options": options,
    }


def _features(layers: int, multiply_adds: int, moved: int) -> tuple[float, ...]:
    return 1.0, layers, multiply_adds, moved


def _comparable(described: Mapping[str, Any]) -> dict[str, Any]:
    """Family, classes, shape and the options that matter."""
    options = {name: value for name, value in described["family_options"].items() if name not in WITHOUT_EFFECT}
    return {**options, **{name: described[name] for name in ("family", "num_classes", "input_shape")}}


def fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> np.ndarray:
    """The weights, none of them negative, that have the least squares of relative errors.

    Args:
        features: one row for each measurement.
        seconds: what was measured, positive.

    Returns:
        Seconds per unit of each feature.
    """
    from scipy.optimize import nnls

    rows = np.array(features, dtype=float) / np.array(seconds)[:, None]
    units = rows.max(0)  # there are a million times as many multiply-adds as layers
    units[units == 0] = 1
    return nnls(rows / units, np.ones(len(rows)))[0] / units


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Overhead and scale, neither negative, with the least squares of relative errors."""
    if len(points) == 1:
        total, measured = points[0]
        return max(0.0, measured - total), (1.0 if measured >= total else measured / total)
    overhead, scale = fit([(1.0, total) for total, _ in points], [measured for _, measured in points])
    return float(overhead), float(scale) or 1e-9


def quality(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Median relative error and rank correlations, where there are any, of predicted against measured."""
    from scipy.stats import kendalltau, spearmanr

    if not pairs:
        return {}
    predicted, measured = zip(*pairs, strict=True)
    error = median(abs(p - m) / m for p, m in pairs)
    if min(len(set(predicted)), len(set(measured))) < 2:
        return {"error": error}
    ranks = float(spearmanr(predicted, measured).statistic), float(kendalltau(predicted, measured).statistic)
    return {"error": error, "rank_correlation": ranks[0], "kendall_tau": ranks[1]}
