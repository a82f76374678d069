"""Clean and robust accuracy, with intervals; and the `evaluate` command."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.attacks.pgd import fgsm
from proard.build import evaluation_batches
from proard.config import DEVICE_NAMES, DataConfig
from proard.data import DataSplits, load_data
from proard.device import resolve_device
from proard.errors import UserError
from proard.export import CARD, load_student
from proard.run import Run
from proard.supernet import require_calibrated

Z_95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """A number of correctly classified images out of a total."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """In [0, 1]; 0 for no images."""
        return self.correct / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of Wilson (1927), in [0, 1]."""
        if not self.total:
            return 0.0, 1.0
        n, p = self.total, self.value
        centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
        # Exact at the ends, where rounding would put the value itself outside.
        return (centre - half if self.correct else 0.0), (centre + half if self.correct < n else 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Value, images and interval, for JSON."""
        low, high = self.interval
        return {"accuracy": self.value, "correct": self.correct, "images": self.total, "interval_95": [low, high]}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}"


@dataclass(frozen=True)
class Measurement:
    """Clean accuracy, and robust accuracy per attack (by name): correct on the image and on every perturbed one."""

    clean: Accuracy
    robust: dict[str, Accuracy]


def measure(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    attacks: dict[str, PGD],
    *,
    seed: int = 0,
) -> Measurement:
    """Evaluate a calibrated network in float32 and evaluation mode; its modes are put back.

    Each attack sees only images that are classified correctly without it.

    Args:
        network: images (N, C, H, W) in [0, 1] to logits.
        batches: pairs of images and labels, on the network's device.
        attacks: by the name to report.
        seed: of the attacks' random starts.

    Raises:
        UserError: the network has batch norm that was never calibrated.
    """
    require_calibrated(network)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    total, clean, robust = 0, 0, dict.fromkeys(attacks, 0)
    generators: dict[str, torch.Generator] = {}
    try:
        for images, labels in batches:
            with torch.no_grad():
                correct = network(images).argmax(1) == labels
            total, clean = total + len(labels), clean + int(correct.sum())
            images, labels = images[correct], labels[correct]
            for name, attack in attacks.items():
                generator = generators.setdefault(name, torch.Generator(images.device).manual_seed(seed))
                adversarial = attack(network, images, labels, generator=generator)
                with torch.no_grad():
                    robust[name] += int((network(adversarial).argmax(1) == labels).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return Measurement(Accuracy(clean, total), {name: Accuracy(count, total) for name, count in robust.items()})


def attack_as_dict(attack: PGD) -> dict[str, Any]:
    """Name and full parameters of an attack, for JSON."""
    parameters = asdict(attack)
    parameters.pop("seed")  # calls pass a generator; its seed is recorded beside the result
    return {"name": attack.name, **parameters, "step_size": attack.resolved_step_size}


def attack_from_dict(values: dict[str, Any]) -> PGD:
    """The attack that `attack_as_dict` described."""
    options = {key: value for key, value in values.items() if key not in ("name", "threat")}
    threat = {**values["threat"], "bounds": tuple(values["threat"]["bounds"])}
    return PGD(ThreatModel(**threat), **options)


def named_attack(name: str, threat: ThreatModel) -> PGD:
    """``fgsm``, or ``pgdN`` for N steps of 2.5 eps / N; ``pgdNxR`` has R restarts.

    Raises:
        UserError: another name.
    """
    if name == "fgsm":
        return fgsm(threat)
    match = re.fullmatch(r"pgd([1-9]\d*)(?:x([1-9]\d*))?", name)
    if match is None:
        raise UserError(
            f"--attack {name}: unknown; valid: fgsm, pgdN for N steps (pgd20), pgdNxR for R restarts (pgd20x5)"
        )
    return PGD(threat, steps=int(match[1]), restarts=int(match[2] or 1))


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured of one student on test images.

    Attributes:
        path: the student directory.
        card: its student.json.
        measurement: clean accuracy, and robust accuracy by attack.
    """

    path: Path
    card: dict[str, Any]
    measurement: Measurement


def evaluate(
    path: str | Path,
    attacks: Sequence[str] = (),
    *,
    limit: int | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
) -> list[Evaluation]:
    """Measure students on the test split of the data they were made for.

    Args:
        path: a student directory, or a run directory for all students in it.
        attacks: such as ``pgd20``; default those in the student's card, with which it repeats the card's numbers.
        limit: use a stratified subset of this many test images; default as in the card.
        data_root: where the images are on this machine; default where they were.
        device: ``auto``, ``cpu``, ``cuda``.

    Raises:
        UserError: no student there, a damaged one, an unknown attack, images that cannot be found.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1")
    if not re.fullmatch(DEVICE_NAMES, device):
        raise UserError(f"--device {device}: unknown; valid: auto, cpu, cuda, cuda:1 ...")
    folders = _student_directories(Path(path))
    where = resolve_device(device)
    results = []
    loaded: dict[DataConfig, DataSplits] = {}  # the students of one run share their images
    for folder in folders:
        student = load_student(folder).to(where)
        card: dict[str, Any] = student.card  # type: ignore[assignment]
        settings, recorded, seed, recorded_limit = _recorded(card, folder)
        chosen = [named_attack(name, recorded[0].threat) for name in attacks] or recorded
        if settings not in loaded:
            loaded[settings] = _test_data(settings, data_root)
        data = loaded[settings]
        if data.class_names != tuple(card["classes"]):
            raise UserError(
                f"student {folder}: the data {settings.name} at {settings.root} have other classes than its card"
            )
        images = data.test.subset(recorded_limit if limit is None else limit, seed)
        batches = evaluation_batches(images, data.input_shape, where)
        result = measure(student, batches, {attack.name: attack for attack in chosen}, seed=seed)
        results.append(Evaluation(folder, card, result))
    return results


def _recorded(card: dict[str, Any], folder: Path) -> tuple[DataConfig, list[PGD], int, int | None]:
    """How a card's numbers were made: the data, the attacks, their seed, and the number of test images if not all."""
    try:
        evaluation = card["evaluation"]
        attacks = [attack_from_dict(robust["attack"]) for robust in evaluation["robust"]]
        if not attacks:
            raise ValueError("no attack is recorded")
        return DataConfig.model_validate(card["data"]), attacks, int(evaluation["seed"]), evaluation["limit"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"student {folder / CARD}: its data or evaluation are damaged ({reason})") from error


def _test_data(settings: DataConfig, data_root: str | Path | None) -> DataSplits:
    """The images, where they are on this machine; never fetched: who trained asked for that, not who evaluates."""
    place = settings.root if data_root is None else Path(data_root)
    try:
        return load_data(settings.model_copy(update={"root": place, "download": False}))
    except UserError as error:
        raise UserError(f"{error} (--data-root DIR says where the images are on this machine)") from error


def _student_directories(path: Path) -> list[Path]:
    if (path / CARD).is_file():
        return [path]
    if Run(path).config_file.is_file():
        found = sorted(file.parent for file in Run(path).students.glob(f"*/{CARD}"))
        if not found:
            raise UserError(
                f"run {path}: no students in it yet; 'proard extract --run {path} --flops 100M' cuts one out"
            )
        return found
    raise UserError(f"{path}: neither a student directory (with {CARD}) nor a run directory (with config.yaml)")
