"""The `evaluate` command: clean and robust accuracy of student directories, on the data they were made for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from proard.attacks import Attack
from proard.attacks.presets import attack_as_dict, attack_from_dict, named_attack
from proard.commands.results import MeasuredStudent, Results
from proard.common.device import resolve_device
from proard.common.distributed import rank, world_size
from proard.common.errors import UserError, nearest, reason
from proard.common.files import write_json
from proard.common.paths import path_of
from proard.common.progress import Progress
from proard.common.version import __version__
from proard.config import DEVICE_NAMES, DataConfig, TeacherConfig
from proard.data import TestSplit, data_sets, load_test_split
from proard.evaluation.accuracy import Accuracy, Measurement, counted, measure, work
from proard.evaluation.gradient_masking import PASSES as MASKING_PASSES
from proard.evaluation.gradient_masking import Finding, check_masking
from proard.evaluation.transfer import PASSES as DIAGNOSIS_PASSES
from proard.evaluation.transfer import Diagnostics
from proard.evaluation.transfer import diagnose as diagnose_transfer
from proard.export.named import is_named, student_folder
from proard.export.student_directory import CARD, load_student
from proard.runs.components import evaluation_batches
from proard.runs.energy import EnergyMeter
from proard.runs.run import Run
from proard.training.teachers import ExternalTeacher, load_teacher

CHECKED_IMAGES = 100  # on which signs of gradient masking are looked for
DIAGNOSED_IMAGES = 1000  # unless a limit asks for more
DIAGNOSTICS = "diagnostics.json"


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
    """

    measurement: Measurement
    attacks: Mapping[str, Attack]
    seed: int
    limit: int | None
    findings: tuple[Finding, ...] | None = None
    diagnostics: Diagnostics | None = None
    teacher: Mapping[str, str | None] | None = None

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
            plain[name] = {**accuracy.as_dict(), **subset, "attack": attack_as_dict(self.attacks[name])}
        if self.findings is not None:
            plain["findings"] = [{**asdict(finding), "explained": finding.pointer} for finding in self.findings]
        if self.diagnostics is not None:
            plain["diagnostics"] = self.diagnostics_as_dict()
        return plain

    def diagnostics_as_dict(self) -> dict[str, Any]:
        """The content of the student's `DIAGNOSTICS`; only where there are diagnostics."""
        assert self.diagnostics is not None
        return {
            "proard": __version__,
            "split": self.split,
            "teacher_source": self.teacher,
            **self.diagnostics.as_dict(),
        }


def evaluate(
    path: str | Path,
    attacks: Sequence[str] = (),
    *,
    limit: int | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    check: bool = False,
    diagnose: bool = False,
    teacher: str | None = None,
    quiet: bool = True,
) -> list[Evaluation]:
    """Measure students on the test split of the data they were made for; under torchrun each process takes its share.

    Args:
        path: a student directory, ``zoo:SET/STUDENT``, ``hub:OWNER/NAME``, or a run directory for all its students.
        attacks: such as ``pgd20``, as a cascade: each sees what the ones before it left; default those in the
            student's card, with which it repeats the card's numbers.
        limit: use a stratified subset of this many test images; default as in the card.
        data_root: where the images are on this machine; default where they were, and for the zoo the few images that
            come with it.
        device: ``auto``, ``cpu``, ``cuda``.
        check: also look for signs of gradient masking, on at most `CHECKED_IMAGES` of the images.
        diagnose: also measure local linearity, a curve over radii and what follows from them
            (`proard.evaluation.transfer`), on at most `DIAGNOSED_IMAGES` of the images unless
            ``limit`` says more; kept in the `DIAGNOSTICS` of a student that is not on a hub.
        teacher: to diagnose transfer from; a source, or a section ``teacher:`` of a configuration in braces.
        quiet: no progress bars.

    Raises:
        UserError: no student there, a damaged one, an unknown attack, images that cannot be found, or a teacher that
            cannot be loaded or does not fit them.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if teacher is not None and not diagnose:
        raise UserError(f"--teacher {teacher}: only --diagnose compares with a teacher; add it")
    if not re.fullmatch(DEVICE_NAMES, device):
        raise UserError(f"--device {device}: unknown; valid: auto, cpu, cuda, cuda:1 ...")
    folders = _student_directories(path_of(path))
    where = resolve_device(device)
    meter = _meter(path_of(path))
    compared = None if teacher is None else _teacher(teacher)
    evaluator = _Evaluator(attacks, limit, data_root, where, check, diagnose, compared, quiet)
    with meter or nullcontext():
        return Results(evaluator(folder) for folder in folders)


@dataclass
class _Evaluator:
    """Measures one student after the other; the arguments are those of `evaluate`.

    Attributes:
        loaded: images, which the students of one run share.
        teachers: those of ``--teacher``, by the images that they were checked with.
    """

    attacks: Sequence[str]
    limit: int | None
    data_root: str | Path | None
    device: torch.device
    check: bool
    diagnose: bool
    teacher: TeacherConfig | None
    quiet: bool
    loaded: dict[tuple[DataConfig, tuple[str, ...]], TestSplit] = field(default_factory=dict)
    teachers: dict[DataConfig, ExternalTeacher] = field(default_factory=dict)

    def __call__(self, folder: Path) -> Evaluation:
        """All that was asked for about a student."""
        student = load_student(folder).to(self.device)
        card: dict[str, Any] = student.card  # type: ignore[assignment]
        settings, recorded, seed, recorded_limit = _recorded(card, folder)
        threat = recorded[0].threat
        chosen = [named_attack(name, threat) for name in self.attacks] or recorded
        if settings.name not in data_sets.names():
            raise UserError(
                f"student {folder}: its card names an unknown data set '{settings.name}'"
                f"{nearest(settings.name, data_sets.names())} (--import MODULE registers one of your own)"
            )
        classes = tuple(card["classes"])
        if (settings, classes) not in self.loaded:
            self.loaded[settings, classes] = _test_data(settings, classes, self.data_root, folder)
        data = self.loaded[settings, classes]
        if data.class_names != classes:
            raise UserError(
                f"student {folder}: the data {settings.name} at {settings.root} have other classes than its card"
            )
        if self.teacher is not None and settings not in self.teachers:
            self.teachers[settings] = load_teacher(
                self.teacher,
                data.class_names,
                data.input_shape,
                data_name=settings.name,
                norm=threat.norm,
                device=self.device,
            )
        size = recorded_limit if self.limit is None else self.limit
        by_name = {attack.name: attack for attack in chosen}
        images, batches = self._images(data, size, seed)
        with self._progress("evaluating", folder, work(images, by_name.values()) / world_size()) as progress:
            result = measure(student, batches, by_name, seed=seed, spread=True, progress=progress.advance)
        evaluation = Evaluation(folder, card, result, by_name, seed, size)
        if self.check:
            images, batches = self._images(data, min(size or CHECKED_IMAGES, CHECKED_IMAGES), seed)
            passes = images * MASKING_PASSES
            with self._progress("checking", folder, passes) as progress, counted(student, passes, progress.advance):
                findings = check_masking(student, batches, threat, limit=CHECKED_IMAGES, seed=seed)
            evaluation = replace(evaluation, findings=tuple(findings))
        if self.diagnose:
            few = min(size or DIAGNOSED_IMAGES, DIAGNOSED_IMAGES) if self.limit is None else self.limit
            images, batches = self._images(data, few, seed)
            tutor = self.teachers.get(settings)
            passes = images * DIAGNOSIS_PASSES
            with self._progress("diagnosing", folder, passes) as progress, counted(student, passes, progress.advance):
                diagnostics = diagnose_transfer(student, tutor, batches, threat, seed=seed)
            source = None if tutor is None else {"source": tutor.source, "sha256": tutor.sha256}
            evaluation = replace(evaluation, diagnostics=diagnostics, teacher=source)
            if rank() == 0 and not is_named(folder):
                write_json(folder / DIAGNOSTICS, evaluation.diagnostics_as_dict())
        return evaluation

    def _images(
        self, data: TestSplit, size: int | None, seed: int
    ) -> tuple[int, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
        """How many test images, and their batches."""
        images = data.test.subset(size, seed)
        return len(images), evaluation_batches(images, data.input_shape, self.device)

    def _progress(self, what: str, folder: Path, total: float) -> Progress:
        return Progress(f"{what} {folder.name}", total, quiet=self.quiet, shown=rank() == 0)


def _meter(path: Path) -> EnergyMeter | None:
    """Of the run that a path is, or is a student in; None without one, and for all processes but the first."""
    for directory in (path, path.resolve().parent.parent):
        run = Run(directory)
        if rank() == 0 and run.config_file.is_file():
            with suppress(UserError):  # a run of another version of proard; the student itself can be read
                return EnergyMeter(run.config().energy, run.energy, "evaluate")
    return None


def _recorded(card: dict[str, Any], folder: Path) -> tuple[DataConfig, list[Attack], int, int | None]:
    """How a card's numbers were made: the data, the attacks, their seed, and the number of test images if not all."""
    try:
        evaluation = card["evaluation"]
        attacks = [attack_from_dict(robust["attack"]) for robust in evaluation["robust"]]
        if not attacks:
            raise ValueError("no attack is recorded")
        return DataConfig.model_validate(card["data"]), attacks, int(evaluation["seed"]), evaluation["limit"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"student {folder / CARD}: its data or evaluation are damaged ({reason(error)})") from error


def _test_data(
    settings: DataConfig, classes: tuple[str, ...], data_root: str | Path | None, student: Path
) -> TestSplit:
    """The test images, where they are on this machine; never fetched: who trained asked for that, not who evaluates.

    A card may name a folder relative to its own.
    """
    root = settings.root if data_root is None else path_of(data_root)
    if data_root is None and root is not None and not path_of(root).is_absolute():
        root = student_folder(student) / root
    try:
        return load_test_split(settings.model_copy(update={"root": root, "download": False}), classes)
    except UserError as error:
        raise UserError(f"{error} (--data-root DIR says where the images are on this machine)") from error


def _student_directories(path: Path) -> list[Path]:
    if is_named(path) or (path / CARD).is_file():
        return [path]
    if Run(path).config_file.is_file():
        found = sorted(file.parent for file in Run(path).students.glob(f"*/{CARD}"))
        if not found:
            raise UserError(
                f"run {path}: no students in it yet; 'proard extract --run {path} --flops 100M' cuts one out "
                "(without a budget in mode student)"
            )
        return found
    raise UserError(f"{path}: neither a student directory (with {CARD}) nor a run directory (with config.yaml)")


def _teacher(text: str) -> TeacherConfig:
    """What ``--teacher`` says: a source alone, or ``{source: weights.pt, architecture: resnet18}`` in braces."""
    in_braces = text.lstrip().startswith("{")
    try:
        config = TeacherConfig.model_validate(yaml.safe_load(text) if in_braces else text)
    except yaml.YAMLError:
        raise UserError(f"--teacher {text}: not valid YAML; write it as {{source: ..., architecture: ...}}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        message, key = problem["msg"].removeprefix("Value error, "), ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            message = f"unknown key '{key}'{nearest(key, TeacherConfig.model_fields)}"
        elif key:
            message = f"{key}: {message}"
        if not in_braces:
            message += f"; options go into braces: --teacher '{{source: {text}, ...}}'"
        raise UserError(f"--teacher {text}: {message}") from None
    if config.source is None:
        raise UserError(f"--teacher {text}: name a student directory, a file, timm:NAME or robustbench:NAME")
    return config
