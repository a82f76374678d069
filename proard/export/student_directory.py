"""Student directories: everything a device needs, loadable without the run; written, verified and read here.

`student.safetensors` has the weights, `student.json` the card (architecture, costs, accuracies, checksums),
`student.pt2` a program that runs with PyTorch alone, `README.md` is for people, and other formats
(`proard.export.formats`) come on request. Every file that can be run is run on test images before the directory
appears.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from proard.common.errors import UserError, nearest, reason
from proard.common.files import atomic_directory, atomic_write, sha256, write_json
from proard.common.progress import Progress
from proard.export.formats import FORMATS as FORMATS
from proard.export.formats import Format, FormatChecks, Source, evaluate_formats
from proard.export.model_card import PARTS, model_card
from proard.export.named import CARD as CARD
from proard.export.named import student_folder
from proard.supernet import Architecture, Family, families, require_calibrated
from proard.supernet.calibration import add_running_statistics

WEIGHTS = "student.safetensors"
CARD_FORMAT = 1
CARD_KEYS: dict[str, type] = {  # what loading and evaluating a student need
    "family": str,
    "family_options": dict,
    "num_classes": int,
    "input_shape": list,
    "architecture": dict,
    "classes": list,
    "data": dict,
    "evaluation": dict,
    "files": dict,
}


def write_student(
    directory: Path,
    student: nn.Module,
    card: dict[str, Any],
    formats: Sequence[str] = (),
    checks: FormatChecks | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Write a student directory, replacing an older one only when the new one is complete.

    Args:
        directory: to be made.
        student: calibrated.
        card: the content of student.json, without ``bytes``, ``files`` and ``formats``, which are filled in.
        formats: beside ``safetensors`` and ``pt2``, which are always written.
        checks: calibration images for int8 formats, and test images on which every file is measured.
        quiet: no progress bar.

    Returns:
        The content of student.json.

    Raises:
        UserError: an uncalibrated student, an unknown format, a missing extra, or an int8 format without calibration
            images.
        ExportError: a file cannot be written, or does not compute what the student computes.
    """
    check_formats(formats)
    require_calibrated(student)
    checks = checks or FormatChecks()
    for name in formats:
        if checks.calibration is None and getattr(FORMATS[name], "int8", False):
            raise UserError(f"--format {name}: needs calibration images; give write_student checks with some")
    plain = copy.deepcopy(student).cpu().float().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, *card["input_shape"])
    source = Source(plain, example, checks.calibration, checks.static_batch)
    directory.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(["safetensors", "pt2", *formats]))
    with (
        atomic_directory(directory) as folder,
        Progress(f"writing {directory.name}", 2 * len(names), quiet=quiet) as progress,
    ):
        written = _write_formats(folder, names, source, progress.advance)
        measured = evaluate_formats(folder, list(written), student, source, checks, progress.advance)
        card = {"format": CARD_FORMAT, **card, "bytes": (folder / WEIGHTS).stat().st_size}
        card["formats"] = {
            entry.name: {
                "file": entry.file,
                "bytes": (folder / entry.file).stat().st_size,
                "settings": settings,
                **measured.get(entry.name, {}),
            }
            for entry, settings in written.items()
        }
        card["files"] = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / CARD, card)
        atomic_write(folder / "README.md", model_card(card))
    return json.loads(json.dumps(card))


def _write_formats(
    folder: Path, names: Sequence[str], source: Source, progress: Callable[[int], Any]
) -> dict[Format, dict[str, Any]]:
    """Write the formats; those that are more than a function come back, with what the card says of them."""
    written: dict[Format, dict[str, Any]] = {}
    for name in names:
        entry = FORMATS[name]
        if isinstance(entry, Format):
            written[entry] = entry.write(source, folder / entry.file)
            progress(1)
        else:
            entry(source.student, source.example, folder / f"student.{name}")
            progress(2)  # it is not measured
    return written


def read_further(folder: Path) -> dict[str, dict[str, Any]]:
    """What `evaluate` added to a student directory, a JSON file each, by the names of `model_card.PARTS`.

    Raises:
        UserError: a file of them is damaged.
    """
    found = {}
    for name, part in PARTS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            try:
                found[name] = json.loads(file.read_text(encoding="utf-8"))
                part(found[name])  # what a card can say of is whole
            except (ValueError, OSError, LookupError, TypeError, AttributeError, StopIteration) as error:
                raise UserError(f"{file}: cannot be read ({reason(error)}); remove it") from error
    return found


def rewrite_model_card(folder: Path, card: dict[str, Any]) -> None:
    """The README.md of a student directory anew, with what `evaluate` added to it.

    Raises:
        UserError: as of `read_further`.
    """
    atomic_write(folder / "README.md", model_card(card, read_further(folder)))


def read_card(directory: str | Path) -> dict[str, Any]:
    """The verified student.json of a student directory, or of one that `student_folder` finds by its name.

    Raises:
        UserError: missing, not a card, or a file of the directory does not have the checksum that the card states.
    """
    folder = student_folder(directory)
    if not (folder / CARD).is_file():
        raise UserError(f"student {directory}: no {CARD} there; give a directory that 'proard extract' wrote")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"student {folder / CARD}: not a student's card ({error})") from error
    number = card.get("format", "unknown") if isinstance(card, dict) else "unknown"
    if number != CARD_FORMAT:
        raise UserError(f"student {folder / CARD}: format {number}, this version of proard reads {CARD_FORMAT}")
    for key, kind in CARD_KEYS.items():
        if not isinstance(card.get(key), kind):
            raise UserError(f"student {folder / CARD}: '{key}' is missing or damaged; extract or copy it again")
    for name, digest in {WEIGHTS: None, **card["files"]}.items():
        if not (folder / name).is_file():
            raise UserError(f"student {directory}: {name} is missing; extract or copy the directory again")
        if sha256(folder / name) != digest:
            raise UserError(f"student {directory}: {name} is damaged (its checksum differs); extract or copy it again")
    return card


def load_student(directory: str | Path) -> nn.Module:
    """The network of a student directory, in float32 and evaluation mode on the CPU.

    It maps float images (N, C, H, W) in [0, 1] to logits (N, K), normalisation included; ``.card`` is its student.json.

    Args:
        directory: or ``zoo:SET/STUDENT``, which comes with the package, or ``hub:OWNER/NAME`` on a hub.

    Raises:
        UserError: the directory is incomplete, damaged, or does not fit its card.
    """
    folder = student_folder(directory)
    card = read_card(folder)
    try:
        family = family_of(card)
        architecture = family.space().canonical(card["architecture"])
    except UserError as error:
        raise UserError(f"student {folder / CARD}: {error}") from error
    student = family.skeleton(family.plan(architecture))
    add_running_statistics(student)
    try:
        weights = {name: t.float() if t.is_floating_point() else t for name, t in load_file(folder / WEIGHTS).items()}
        student.load_state_dict(weights, assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"student {directory}: {WEIGHTS} does not fit its card ({reason(error)})") from error
    student.card = card  # type: ignore[assignment]
    return student.eval()


def family_of(card: Mapping[str, Any]) -> Family:
    """The family of a student, with its options, from what `describe` wrote into its card.

    Raises:
        UserError: a family that is not known here, or does not take these options.
    """
    images = {"num_classes": card["num_classes"], "input_shape": card["input_shape"]}
    return families.build(card["family"], {**card["family_options"], **images})


def describe(family: Family, architecture: Architecture) -> dict[str, Any]:
    """The part of a card that says what network it is and what it costs."""
    options = asdict(family)
    cost = family.cost(architecture)
    return {
        "family": families.name_of(family),
        "num_classes": options.pop("num_classes"),
        "input_shape": list(options.pop("input_shape")),
        "family_options": options,
        "normalisation": {"mean": list(family.mean), "std": list(family.std), "inside_the_network": True},
        "architecture": dict(architecture.decisions),
        "multiply_adds": cost.multiply_adds,
        "parameters": cost.parameters,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "peak_activation_bytes_int8": cost.peak_activation_bytes_int8,
        "weight_bytes_int8": cost.weight_bytes_int8,
    }


def check_formats(formats: Sequence[str]) -> None:
    """Refuse an unknown format, or one whose packages are not installed.

    Raises:
        UserError: says which, and how to get it.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: unknown{nearest(name, FORMATS)}")
        entry = FORMATS[name]
        if not isinstance(entry, Format):
            continue
        for package in entry.packages:
            if find_spec(package) is None:
                raise UserError(f"--format {name}: needs the package '{package}'; pip install 'proard[{entry.extra}]'")
