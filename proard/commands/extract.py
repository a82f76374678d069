"""The `extract` command: the best student within each budget, measured and written as a student directory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import torch
from torch import nn

from proard.attacks import Attack, attack_as_dict
from proard.commands.results import MeasuredStudent, Results
from proard.common.environment import environment
from proard.common.errors import UserError
from proard.common.paths import path_of
from proard.common.progress import Progress
from proard.common.registry import import_modules
from proard.common.terminal import warn
from proard.evaluation.accuracy import Measurement, measure, work
from proard.evaluation.latency import LatencyTable, latency_card, measure_latency, with_latency
from proard.evaluation.latency.limits import TABLE
from proard.export.formats import FormatChecks
from proard.export.student_directory import check_formats, describe, write_student
from proard.runs import components
from proard.runs.components import evaluation_batches, threat_model
from proard.runs.energy import EnergyMeter, known_energy
from proard.runs.resolve import absolute
from proard.runs.run import Run
from proard.runs.trained_run import TrainedRun
from proard.search.front import FILE, Front, read_front
from proard.search.labeller import Labeller
from proard.search.selection import Label, Prefer, choose, preference
from proard.supernet import Architecture, Family, SearchSpace
from proard.supernet.budgets import Budget, Limits, budgets_of, no_budget

QUANTISATION_IMAGES = 256  # of the validation split, for the ranges of activations


def extract(
    budgets: Budget | Sequence[Budget | tuple[str, str]] = (),
    *,
    together: bool = False,
    latency_table: str | Path | None = None,
    run: str | Path | None = None,
    out: str | Path | None = None,
    prefer: Prefer = "robust",
    formats: Sequence[str] = (),
    static_batch: int | None = None,
    quiet: bool = False,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
    **named: str | float | None,
) -> list[MeasuredStudent]:
    """Choose a student for every budget on validation images, calibrate it, measure it on test images, and write it.

    It is chosen from the front that `search` measured, where the run has one; else some students are measured now.

    A run of `mode: student` has one student, which needs no budget and is then written to ``students/student``.

    Args:
        budgets: any number of `Budget`s, or pairs such as ``("flops", "100M")``.
        together: one student that keeps all budgets, instead of one for each.
        latency_table: of another device; default the run's own, which `profile` makes.
        run: the run directory; default the newest in ``runs/``.
        out: where to write; default the run's ``students/``.
        prefer: which accuracy decides.
        formats: further formats: ``onnx``, ``onnx-int8``, ``pt2-int8``, ``executorch``.
        static_batch: the one batch size that ONNX files take; default any.
        quiet: no progress bar.
        data_root: where the images are on this machine; default where the run says.
        data: the images, where the run's were arrays in memory; as of `train`.
        named: further budgets by their kind, such as ``flops="100M"`` or ``memory_int8="64KB"``.

    Raises:
        UserError: no run, no budget, a budget below the smallest student, an unknown format or preference, or a place
            that cannot be written; nothing was written.
    """
    given = budgets_of(budgets, named)
    if together and len(given) < 2:
        raise UserError("--and: joins the budgets of one student; give two, such as --flops 100M --params 2M --and")
    limits = [Limits(tuple(given))] if together else [Limits((budget,)) for budget in given]
    preference(prefer)  # refuses an unknown one
    if static_batch is not None and static_batch < 1:
        raise UserError(f"--static-batch {static_batch}: must be at least 1")
    directory = Run.find(run, data_root, data)
    config = directory.config()
    import_modules(config.imports)  # may bring a format
    check_formats(formats)
    if not limits and config.mode == "supernet":
        raise no_budget("extract")
    meter = EnergyMeter(config.energy, directory.energy, "extract")
    extractor = Extractor(directory, quiet)
    extractor.static_batch = static_batch
    if any(budget.kind == "latency" for budget in given):
        extractor.use_latency(find_table(directory, extractor.supernet.family, latency_table))
    for limit in limits:
        limit.check(extractor.space.cost(extractor.space.smallest()))
    place = _writable(directory.students if out is None else path_of(out))
    wanted_students: list[Limits | None] = [*limits] or [None]
    meter.record["students"] = len(wanted_students)
    with meter:
        return Results(extractor.write(limit, place, prefer, formats) for limit in wanted_students)


def _writable(folder: Path) -> Path:
    """The folder, made if need be; refused now rather than after the measurements."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"students {folder}: cannot be written ({reason}); choose another folder with --out") from error
    return folder


class Extractor(TrainedRun):
    """Cuts students out of a trained run; labels measured for one budget are used for the next."""

    def __init__(self, run: Run, quiet: bool = False) -> None:
        super().__init__(run)
        self.quiet = quiet
        self.space: SearchSpace = self.supernet.space
        self.labels: dict[Architecture, Label] = {}
        self.static_batch: int | None = None
        self._table: LatencyTable | None = None

    def use_latency(self, table: LatencyTable) -> None:
        """Predict every student's latency with a table, so that it counts among its costs."""
        self._table, self.space = table, with_latency(self.supernet.space, table)

    @cached_property
    def labeller(self) -> Labeller:
        """Measures students on validation images."""
        return Labeller(self)

    @cached_property
    def front(self) -> Front | None:
        """What `search` measured, unless it was with other weights, images or another attack."""
        if not (self.run.path / FILE).is_file():
            return None
        front, changed = read_front(self.run.path, self.labeller.fingerprint, self.supernet.space)
        if changed:
            warn(
                f"{self.run.path / FILE}: is of other {' or '.join(changed)}, and is not used; "
                f"'proard search --run {self.run.path}' writes it again"
            )
        return front

    def select(self, limits: Limits, prefer: Prefer) -> tuple[Architecture, dict[str, Any]]:
        """The student to extract, and what a card says of how it was chosen.

        From the measured front, if that comes near the limits; else by measuring, with the front to begin from.
        """
        if self.front is not None:
            near = self.front.covers(limits, self.space.cost)
            if near and (point := self.front.choose(limits, prefer, self.space.cost)):
                return point.architecture, self._selection("front", prefer, point.label, 0)
            self.labels |= {point.architecture: point.label for point in self.front.measured}
        before = len(self.labels)
        architecture = self.choose(limits, prefer)
        method = "measuring" if self.front is None else "front and measuring"
        return architecture, self._selection(method, prefer, self.labels[architecture], len(self.labels) - before)

    def _selection(self, method: str, prefer: Prefer, label: Label, measured: int) -> dict[str, Any]:
        return {
            "method": method,
            "prefer": prefer,
            "measured_now": measured,
            "split": "validation",
            "images": min(self.config.search.images, len(self.data.validation)),
            "attack": attack_as_dict(self.labeller.attack),
            "clean_accuracy": label.clean,
            "robust_accuracy": label.robust,
        }

    def choose(self, limits: Limits, prefer: Prefer) -> Architecture:
        """The best architecture within the limits among some that are measured now, and those that were before."""
        settings = self.config.search
        count = settings.candidates + settings.mutations
        bar = Progress(f"choosing for {limits.name}", count, "students", quiet=self.quiet)

        def label(architecture: Architecture) -> Label:
            measured = self.labeller(architecture)
            bar.advance()
            return measured

        with bar:
            return choose(
                self.space,
                lambda architecture: limits.admits(self.space.cost(architecture)),
                label,
                random.Random(self.config.seed),
                candidates=settings.candidates,
                mutations=settings.mutations,
                prefer=prefer,
                known=self.labels,
            )

    def write(self, limits: Limits | None, out: Path, prefer: Prefer, formats: Sequence[str]) -> MeasuredStudent:
        """Choose, calibrate, measure on the test split, and write the student directory."""
        if limits is None or self.space.size == 1:
            architecture, selection = self.space.largest(), {"method": "only one"}
        else:
            architecture, selection = self.select(limits, prefer)
        student = self.supernet.extract(architecture, self.calibration)
        path = out / ("student" if limits is None else limits.name)
        budget = limits and _budget(limits.budgets)
        return self.write_network(path, student, architecture, formats, {"budget": budget, "selection": selection})

    def write_network(
        self,
        path: Path,
        network: nn.Module,
        architecture: Architecture,
        formats: Sequence[str] = (),
        about: dict[str, Any] | None = None,
        split: Literal["test", "validation"] = "test",
    ) -> MeasuredStudent:
        """Measure a calibrated network of this run's space, and write its student directory.

        Args:
            path: of the directory.
            network: that was calibrated.
            architecture: of the network.
            formats: beside those that are always written.
            about: further entries of its card, such as ``budget``.
            split: whose images it is measured on.
        """
        attack = components.attack(self.config.evaluation.attack, threat_model(self.config), "evaluation.attack")
        limit = self.config.evaluation.limit if split == "test" else self.config.validation.images
        images = (self.data.test if split == "test" else self.data.validation).subset(limit, self.config.seed)
        batches = evaluation_batches(images, self.data.input_shape, self.device)
        with Progress(f"measuring {path.name}", work(len(images), [attack]), quiet=self.quiet) as bar:
            result = measure(network, batches, {attack.name: attack}, seed=self.config.seed, progress=bar.advance)
        card = {**self._card(architecture, result, attack), **(about or {})}
        card["evaluation"] |= {"split": split, "limit": limit}
        if self._table is not None:
            execution = self._table.execution.resolved()
            timing = measure_latency(network, self.data.input_shape, execution)
            card["latency"] = latency_card(self._table, architecture, timing, execution)
        card["energy"] = known_energy(self.run.energy)
        checks = self._format_checks(attack) if split == "test" else None
        return MeasuredStudent(path, write_student(path, network, card, formats, checks, self.quiet))

    def _format_checks(self, attack: Attack) -> FormatChecks:
        """What the files of a student are quantised with (validation images), and measured on (test images)."""
        evaluation, seed, shape = self.config.evaluation, self.config.seed, self.data.input_shape
        count = min(evaluation.format_images, evaluation.limit or evaluation.format_images)
        calibration = self.data.validation.subset(QUANTISATION_IMAGES, seed)
        return FormatChecks(
            torch.cat([images for images, _ in evaluation_batches(calibration, shape, torch.device("cpu"))]),
            list(evaluation_batches(self.data.test.subset(count, seed), shape, self.device)),
            attack,
            seed,
            evaluation.square_queries,
            self.static_batch,
        )

    def _card(self, architecture: Architecture, result: Measurement, attack: Attack) -> dict[str, Any]:
        threat = attack.threat
        versions = environment()
        data = self.config.data.model_dump(mode="json", exclude={"augmentation"})
        if self.config.data.root is not None:
            data["root"] = str(absolute(self.config.data.root))
        return {
            **describe(self.supernet.family, architecture),
            "classes": list(self.data.class_names),
            "budget": None,
            "threat_model": {"norm": threat.norm, "eps": threat.eps, "bounds": list(threat.bounds)},
            "clean_accuracy": result.clean.value,
            "robust_accuracy": result.robust[attack.name].value,
            "evaluation": {
                "seed": self.config.seed,
                "clean": result.clean.as_dict(),
                "robust": [{"attack": attack_as_dict(attack), **result.robust[attack.name].as_dict()}],
            },
            "data": data,
            "supernet_finished": self.finished,
            "versions": {key: versions[key] for key in ("proard", "torch", "torchvision", "python", "git_commit")},
        }


def _budget(budgets: Sequence[Budget]) -> dict[str, Any]:
    """What a card says of a budget; ``all`` has each one, where several hold together."""
    rows = [{"kind": budget.kind, "limit": budget.limit, "text": budget.text} for budget in budgets]
    if len(rows) == 1:
        return rows[0]
    joined = {key: " + ".join(str(row[key]) for row in rows) for key in ("kind", "text")}
    return {"kind": joined["kind"], "limit": None, "text": joined["text"], "all": rows}


def find_table(run: Run, family: Family, path: str | Path | None = None) -> LatencyTable:
    """The table to use for a run: that at ``path``, by default the run's own.

    Raises:
        UserError: there is none, it is damaged, or it is of other networks.
    """
    place = run.path / TABLE if path is None else path_of(path)
    if path is None and not place.is_file():
        raise UserError(
            f"--latency: run {run.path} has no {TABLE}; make it with 'proard profile --run {run.path}', "
            "or give another device's with --latency-table"
        )
    table = LatencyTable.load(place)
    table.check(family, f"latency table {place}")
    return table
