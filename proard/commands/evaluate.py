"""The `evaluate` command: clean and robust accuracy of student directories, on the data they were made for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from proard.attacks import Attack
from proard.attacks.autoattack import AutoAttack, parts
from proard.attacks.presets import RADII, UNION, attack_as_dict, named_attack, union_attacks
from proard.commands.results import MeasuredStudent, Results
from proard.commands.subjects import Subject, Subjects, student_directories, teacher_config
from proard.common.device import resolve_device
from proard.common.distributed import rank, world_size
from proard.common.errors import UserError
from proard.common.files import write_json
from proard.common.paths import path_of
from proard.common.progress import Progress
from proard.common.version import __version__
from proard.config import DEVICE_NAMES, DataConfig, TeacherConfig
from proard.config.values import parse_number
from proard.data import TestSplit
from proard.evaluation.accuracy import Accuracy, Measurement, counted, measure, work
from proard.evaluation.corrupted import PASSES as CORRUPTED_PASSES
from proard.evaluation.corrupted import CorruptedAccuracy, measure_corruptions
from proard.evaluation.curves import PASSES as CURVE_PASSES
from proard.evaluation.curves import Curves, measure_curves
from proard.evaluation.gradient_masking import PASSES as MASKING_PASSES
from proard.evaluation.gradient_masking import Finding, check_masking
from proard.evaluation.transfer import PASSES as DIAGNOSIS_PASSES
from proard.evaluation.transfer import Diagnostics
from proard.evaluation.transfer import diagnose as diagnose_transfer
from proard.export.model_card import PARTS
from proard.export.named import is_named
from proard.export.student_directory import rewrite_model_card
from proard.runs.components import evaluation_batches
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run
from proard.training.teachers import ExternalTeacher, load_teacher

CHECKED_IMAGES = 100  # on which signs of gradient masking are looked for
FEW_IMAGES = 1000  # for what takes long, unless a limit asks for more


@dataclass(frozen=True, repr=False)
class Evaluation(MeasuredStudent):
    """What `evaluate` measured of one student on test images.

    Attributes:
        measurement: clean accuracy, and robust accuracy after each attack (by name) of the cascade.
        attacks: by the same names.
        seed: of the attacks and of the subset.
        limit: the number of images in the stratified subset; None for all.
        findings: signs of gradient masking; None if they were not looked for.
        diagnostics: of robustness and of its transfer from a teacher; None if they were not asked for.
        teacher: the source of that teacher, and the checksum of its file if it is one.
        corruptions: accuracy under common corruptions; None if it was not asked for.
        curve: accuracy over an attack's radius and steps; None if it was not asked for.
    """

    measurement: Measurement
    attacks: Mapping[str, Attack]
    seed: int
    limit: int | None
    findings: tuple[Finding, ...] | None = None
    diagnostics: Diagnostics | None = None
    teacher: Mapping[str, str | None] | None = None
    corruptions: CorruptedAccuracy | None = None
    curve: Curves | None = None

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """The accuracy ``clean``, and the robust ones by the name of the attack, as they were measured now."""
        return {"clean": self.measurement.clean, **self.measurement.robust}

    @property
    def split(self) -> str:
        """The split whose images the accuracies are of."""
        return "test"

    def as_dict(self) -> dict[str, Any]:
        """Every number with what it is of: split, seed, subset, and all parameters of the attack; for JSON."""
        subset = {"split": self.split, "seed": self.seed, "limit": self.limit}
        plain: dict[str, Any] = {"path": str(self.path), "clean": {**self.measurement.clean.as_dict(), **subset}}
        for name, accuracy in self.measurement.robust.items():
            every = {"name": name, "attacks": list(self.attacks)}  # of the union
            attack = attack_as_dict(self.attacks[name]) if name in self.attacks else every
            plain[name] = {**accuracy.as_dict(), **subset, "attack": attack}
        if self.findings is not None:
            plain["findings"] = [{**asdict(finding), "explained": finding.pointer} for finding in self.findings]
        return {**plain, **self.further()}

    def further(self) -> dict[str, Any]:
        """What else was asked for, as JSON, by name: ``diagnostics``, ``corruptions``, ``curve``."""
        found = {"diagnostics": self.diagnostics, "corruptions": self.corruptions, "curve": self.curve}
        teacher = {"diagnostics": {"teacher_source": self.teacher}}
        return {
            name: {"proard": __version__, "split": self.split, **teacher.get(name, {}), **part.as_dict()}
            for name, part in found.items()
            if part is not None
        }

    def keep(self) -> None:
        """Write each part of `further`, and AutoAttack, into a file of the student's directory and into its card."""
        found, everything = self.further(), self.as_dict()
        strong = {name: everything[name] for name in self.measurement.robust if name.startswith(("autoattack", UNION))}
        for name, row in strong.items():
            attack = self.attacks.get(name)
            if isinstance(attack, AutoAttack):
                names = parts(list(attack.order), len(self.card["classes"]))
                row["order"] = {part: attack.order.get(part, {}) for part in names}
        if strong:
            about = {"proard": __version__, "clean": everything["clean"]}
            found[UNION if UNION in strong else "autoattack"] = {**about, "robust": strong}
        for name, part in found.items():
            write_json(self.path / f"{name}.json", part)
        if found.keys() & PARTS.keys():
            rewrite_model_card(self.path, self.card)


def evaluate(
    path: str | Path,
    attacks: Sequence[str] = (),
    *,
    limit: int | None = None,
    data_root: str | Path | None = None,
    data: Sequence[Any] | None = None,
    device: str = "auto",
    check: bool = False,
    diagnose: bool = False,
    corruptions: bool = False,
    curve: bool = False,
    teacher: str | None = None,
    config: str | None = None,
    radii: str | Mapping[str, float] | None = None,
    quiet: bool = True,
) -> list[Evaluation]:
    """Measure students on the test split of the data they were made for; under torchrun each process takes its share.

    Args:
        path: a student directory, ``zoo:SET/STUDENT``, ``hub:OWNER/NAME``, or a run directory for all its students;
            with ``config`` a network from elsewhere, as ``teacher`` takes them.
        attacks: such as ``pgd20``, as a cascade: each sees what the ones before it left; default those in the
            student's card, with which it repeats the card's numbers. ``union`` alone is AutoAttack in linf, l2 and
            l1, each on all images, and the accuracy under all three. AutoAttack's are kept in ``autoattack.json`` or
            ``union.json`` and the model card of a student that is not on a hub.
        limit: use a stratified subset of this many test images; default as in the card.
        data_root: where the images are on this machine; default where they were, and for the zoo the few images that
            come with it.
        data: test images and their labels in the place of those of the card, as arrays; or all that `train` was given.
            What is measured on other images than the card's is not kept in the student's directory.
        device: ``auto``, ``cpu``, ``cuda``.
        check: also look for signs of gradient masking, on at most `CHECKED_IMAGES` of the images.
        diagnose: also measure local linearity, a curve over radii and what follows from them
            (`proard.evaluation.transfer`), on at most `FEW_IMAGES` of the images unless ``limit`` says more; kept in
            ``diagnostics.json`` of a student that is not on a hub.
        corruptions: also measure accuracy under common corruptions (`proard.evaluation.corruptions`), on as many;
            kept likewise, in ``corruptions.json`` and the model card.
        curve: also measure accuracy over an attack's radius and steps (`proard.evaluation.curves`), on as many; kept
            likewise, in ``curve.json`` and the model card.
        teacher: to diagnose transfer from; a source, or a section ``teacher:`` of a configuration in braces.
        config: a file, or a packaged configuration, whose data, threat model, evaluation and seed a network from
            elsewhere is measured with.
        radii: eps by norm for ``union``, or such as ``linf=8/255,l2=0.5``; default that of the threat model, and
            of other norms `proard.attacks.presets.RADII`.
        quiet: no progress bars.

    Raises:
        UserError: no student there, a damaged one, an unknown attack, images that cannot be found, or a teacher that
            cannot be loaded or does not fit them.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if teacher is not None and not diagnose:
        raise UserError(f"--teacher {teacher}: only --diagnose compares with a teacher; add it")
    if UNION in attacks and len(attacks) > 1:
        raise UserError("--attack union: measures AutoAttack in every norm by itself; name no other attack beside it")
    if radii is not None and UNION not in attacks:
        raise UserError(f"--radii {radii}: only of --attack union; an attack alone has the eps of the threat model")
    if not re.fullmatch(DEVICE_NAMES, device):
        raise UserError(f"--device {device}: unknown; valid: auto, cpu, cuda, cuda:1 ...")
    folders = student_directories(path_of(path)) if config is None else []
    where = resolve_device(device)
    meter = _meter(path_of(path)) if config is None else None
    compared = None if teacher is None else teacher_config(teacher)
    evaluator = _Evaluator(attacks, _radii(radii), limit, where, check, diagnose, corruptions, curve, compared, quiet)
    subjects = Subjects(data_root, data, where)
    with meter or nullcontext():
        if config is not None:
            return Results([evaluator(subjects.elsewhere(str(path), config))])
        return Results(evaluator(subjects.student(folder)) for folder in folders)


@dataclass
class _Evaluator:
    """Measures one network after the other; the arguments are those of `evaluate`.

    Attributes:
        teachers: those of ``--teacher``, by the images that they were checked with.
    """

    attacks: Sequence[str]
    radii: Mapping[str, float]
    limit: int | None
    device: torch.device
    check: bool
    diagnose: bool
    corruptions: bool
    curve: bool
    teacher: TeacherConfig | None
    quiet: bool
    teachers: dict[DataConfig, ExternalTeacher] = field(default_factory=dict)

    def __call__(self, subject: Subject) -> Evaluation:
        """All that was asked for about a network."""
        folder, network, data, seed = subject.path, subject.network, subject.data, subject.seed
        threat = subject.attacks[0].threat
        union = UNION in self.attacks
        if union:
            by_name = union_attacks(threat, self.radii)
        else:
            chosen = [named_attack(name, threat) for name in self.attacks] or subject.attacks
            by_name = {attack.name: attack for attack in chosen}
        if self.teacher is not None and subject.settings not in self.teachers:
            self.teachers[subject.settings] = load_teacher(
                self.teacher,
                data.class_names,
                data.input_shape,
                data_name=subject.settings.name,
                norm=threat.norm,
                device=self.device,
            )
        size = subject.limit if self.limit is None else self.limit
        few = min(size or FEW_IMAGES, FEW_IMAGES) if self.limit is None else self.limit
        images, batches = self._images(data, size, seed)
        shared: dict[str, Any] = {"seed": seed, "spread": True}  # each process takes its share
        with self._progress("evaluating", folder, work(images, by_name.values()) / world_size()) as progress:
            result = measure(network, batches, by_name, **shared, union=union, progress=progress.advance)
        evaluation = Evaluation(folder, subject.card, result, by_name, seed, size)
        if self.check:
            images, batches = self._images(data, min(size or CHECKED_IMAGES, CHECKED_IMAGES), seed)
            passes = images * MASKING_PASSES
            with self._progress("checking", folder, passes) as progress, counted(network, passes, progress.advance):
                findings = check_masking(network, batches, threat, limit=CHECKED_IMAGES, seed=seed)
            evaluation = replace(evaluation, findings=tuple(findings))
        if self.diagnose:
            images, batches = self._images(data, few, seed)
            tutor = self.teachers.get(subject.settings)
            passes = images * DIAGNOSIS_PASSES
            with self._progress("diagnosing", folder, passes) as progress, counted(network, passes, progress.advance):
                diagnostics = diagnose_transfer(network, tutor, batches, threat, seed=seed)
            source = None if tutor is None else {"source": tutor.source, "sha256": tutor.sha256}
            evaluation = replace(evaluation, diagnostics=diagnostics, teacher=source)
        if self.corruptions:
            images, batches = self._images(data, few, seed)
            with self._progress("corrupting", folder, images * CORRUPTED_PASSES / world_size()) as progress:
                corrupted = measure_corruptions(network, batches, **shared, progress=progress.advance)
            evaluation = replace(evaluation, corruptions=corrupted)
        if self.curve:
            images, _ = self._images(data, few, seed)
            with self._progress("curves of", folder, images * CURVE_PASSES / world_size()) as progress:
                curves = measure_curves(
                    network, lambda: self._images(data, few, seed)[1], threat, **shared, progress=progress.advance
                )
            evaluation = replace(evaluation, curve=curves)
        if rank() == 0 and subject.own and not is_named(folder):
            evaluation.keep()
        return evaluation

    def _images(
        self, data: TestSplit, size: int | None, seed: int
    ) -> tuple[int, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
        """How many test images, and their batches."""
        images = data.test.subset(size, seed)
        return len(images), evaluation_batches(images, data.input_shape, self.device)

    def _progress(self, what: str, folder: Path, total: float) -> Progress:
        return Progress(f"{what} {folder.name}", total, quiet=self.quiet, shown=rank() == 0)


def _radii(given: str | Mapping[str, float] | None) -> dict[str, float]:
    """Eps by norm, also of texts such as ``linf=8/255,l2=0.5``."""
    if not isinstance(given, Mapping):
        pairs = [part.partition("=") for part in given.split(",")] if given is not None else []
        given = {norm.strip(): parse_number(eps) for norm, _, eps in pairs}
    for norm, eps in given.items():
        most = 1 if norm == "linf" else sys.float_info.max
        if norm not in RADII or not isinstance(eps, int | float) or not 0 < eps <= most:
            raise UserError(f"--radii {norm}={eps}: write them as linf=8/255,l2=0.5,l1=12, or some of these")
    return dict(given)


def _meter(path: Path) -> EnergyMeter | None:
    """Of the run that a path is, or is a student in; None without one, and for all processes but the first."""
    for directory in (path, path.resolve().parent.parent):
        run = Run(directory)
        if rank() == 0 and run.config_file.is_file():
            with suppress(UserError):  # a run of another version of proard; the student itself can be read
                return EnergyMeter(run.config().energy, run.energy, "evaluate")
    return None
