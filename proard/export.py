"""Student directories: everything a device needs, loadable without the run; written, verified and read here.

`student.safetensors` has the weights, `student.json` the card (architecture, costs, accuracies, checksums),
`student.pt2` a program that runs with PyTorch alone, `student.onnx` (on request) one for ONNX runtimes, and
`README.md` is for people.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from proard.errors import UserError, nearest
from proard.files import atomic_directory, atomic_write, sha256, write_json
from proard.model_card import model_card
from proard.supernet import Architecture, Family, families, require_calibrated
from proard.supernet.calibration import add_running_statistics

CARD = "student.json"
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
    directory: Path, student: nn.Module, card: dict[str, Any], formats: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a student directory, replacing an older one only when the new one is complete.

    Args:
        directory: to be made.
        student: calibrated.
        card: the content of student.json, without ``bytes`` and ``files``, which are filled in.
        formats: ``onnx`` beside the two that are always written.

    Returns:
        The content of student.json.

    Raises:
        UserError: an uncalibrated student, an unknown format, or a missing extra.
    """
    check_formats(formats)
    require_calibrated(student)
    plain = copy.deepcopy(student).cpu().float().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, *card["input_shape"])
    directory.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(directory) as folder:
        save_file({name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, folder / WEIGHTS)
        (folder / WEIGHTS).chmod(0o644)  # safetensors makes it readable for its owner alone
        for name in dict.fromkeys(["pt2", *formats]):
            if name != "safetensors":
                FORMATS[name](plain, example, folder / f"student.{name}")
        card = {"format": CARD_FORMAT, **card, "bytes": (folder / WEIGHTS).stat().st_size}
        card["files"] = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / CARD, card)
        atomic_write(folder / "README.md", model_card(card))
    return json.loads(json.dumps(card))


def read_card(directory: str | Path) -> dict[str, Any]:
    """The verified student.json of a student directory.

    Raises:
        UserError: missing, not a card, or a file of the directory does not have the checksum that the card states.
    """
    folder = Path(directory)
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
    """The network of a student directory, in evaluation mode on the CPU.

    It maps float images (N, C, H, W) in [0, 1] to logits (N, K), normalisation included; ``.card`` is its student.json.

    Raises:
        UserError: the directory is incomplete, damaged, or does not fit its card.
    """
    card = read_card(directory)
    try:
        options = {"num_classes": card["num_classes"], "input_shape": card["input_shape"]}
        family = families.build(card["family"], {**card["family_options"], **options})
        architecture = family.space().canonical(card["architecture"])
    except UserError as error:
        raise UserError(f"student {Path(directory) / CARD}: {error}") from error
    student = family.skeleton(family.plan(architecture))
    add_running_statistics(student)
    try:
        student.load_state_dict(load_file(Path(directory) / WEIGHTS), assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(
            f"student {directory}: {WEIGHTS} does not fit its card ({' '.join(str(error).split())})"
        ) from error
    student.card = card  # type: ignore[assignment]
    return student.eval()


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
    }


def check_formats(formats: Sequence[str]) -> None:
    """Refuse an unknown format, or one whose packages are not installed.

    Raises:
        UserError: says which, and how to get it.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: unknown{nearest(name, FORMATS)}")
        if name == "onnx":
            for package in ("onnx", "onnxscript"):
                if find_spec(package) is None:
                    raise UserError(f"--format onnx: needs the package '{package}'; pip install 'proard[onnx]'")


def _export_pt2(student: nn.Module, example: torch.Tensor, path: Path) -> None:
    """A torch.export program with a free batch size; runs without proard."""
    program = torch.export.export(student, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)


def _export_onnx(student: nn.Module, example: torch.Tensor, path: Path) -> None:
    """An ONNX model with a free batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            student,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


FORMATS: dict[str, Callable[[nn.Module, torch.Tensor, Path], None]] = {
    "safetensors": lambda *_: None,  # always written
    "pt2": _export_pt2,
    "onnx": _export_onnx,
}
