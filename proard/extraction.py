"""The `extract` command: the best student within each budget, measured and written as a student directory."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from proard import build
from proard.attacks import Attack
from proard.budgets import Budget
from proard.build import calibration_batches, check_phases, evaluation_batches, supernet_for, threat_model
from proard.config import Config
from proard.data import DataSplits, load_data
from proard.device import resolve_device
from proard.energy import EnergyMeter
from proard.errors import UserError
from proard.evaluation import Measurement, attack_as_dict, measure
from proard.export import check_formats, describe, write_student
from proard.run import Run, environment
from proard.search import Label, choose, preference
from proard.search.selection import Prefer
from proard.supernet import Architecture, Supernet
from proard.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Extracted:
    """A student that was written.

    Attributes:
        path: its directory.
        card: its student.json.
    """

    path: Path
    card: dict[str, Any]


def extract(
    budgets: Sequence[Budget | tuple[str, str]] | Budget | None = None,
    *,
    flops: str | float | None = None,
    params: str | float | None = None,
    memory: str | float | None = None,
    size: str | float | None = None,
    run: str | Path | None = None,
    out: str | Path | None = None,
    prefer: Prefer = "robust",
    formats: Sequence[str] = (),
    quiet: bool = False,
) -> list[Extracted]:
    """Choose a student for every budget on validation images, calibrate it, measure it on test images, and write it.

    A run of `mode: student` has one student, which needs no budget and is then written to ``students/student``.

    Args:
        budgets: any number of `Budget`s, or pairs such as ``("flops", "100M")``.
        flops: a budget of multiply-adds, such as ``"100M"``.
        params: a budget of parameters.
        memory: a budget of peak activation memory, such as ``"256KB"`` (float32, batch size 1).
        size: a budget of the weight file's size, such as ``"1MB"``.
        run: the run directory; default the newest in ``runs/``.
        out: where to write; default the run's ``students/``.
        prefer: which accuracy decides.
        formats: further formats, such as ``onnx``.
        quiet: no progress bar.

    Raises:
        UserError: no run, no budget, a budget below the smallest student, an unknown format or preference, or a place
            that cannot be written; nothing was written.
    """
    wanted = [budgets] if isinstance(budgets, Budget) else list(budgets or [])
    limits = [b if isinstance(b, Budget) else Budget.parse(*b) for b in wanted]
    named = {"flops": flops, "params": params, "memory": memory, "size": size}
    limits += [Budget.parse(kind, text) for kind, text in named.items() if text is not None]
    preference(prefer)  # refuses an unknown one
    check_formats(formats)
    directory = Run.find(run)
    if not limits and directory.config().mode == "supernet":
        raise UserError("extract needs a budget, such as --flops 100M (or --params, --memory, --size)")
    extractor = Extractor(directory, quiet)
    for budget in limits:
        budget.check(extractor.supernet.space.cost(extractor.supernet.space.smallest()))
    place = _writable(directory.students if out is None else Path(out))
    with EnergyMeter(extractor.config.energy, directory.energy, "extract"):
        wanted_students: list[Budget | None] = [*limits] or [None]
        return [extractor.write(budget, place, prefer, formats) for budget in wanted_students]


def _writable(folder: Path) -> Path:
    """The folder, made if need be; refused now rather than after the measurements."""
    reason = "no permission to write there"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"students {folder}: cannot be written ({reason}); choose another folder with --out")
    return folder


class Extractor:
    """Cuts students out of a trained run; labels measured for one budget are used for the next.

    Args:
        run: with a checkpoint.
        quiet: no progress bar.
    """

    def __init__(self, run: Run, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.config: Config = run.config()
        self.device = resolve_device(self.config.device)
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        state = load_checkpoint(run.checkpoint)
        self.finished = state["finished"]
        if not self.finished:
            print(
                f"run {run.path}: training has not finished, students have its weights so far; "
                f"'proard train --resume --run {run.path}' goes on with it",
                file=sys.stderr,
            )
        self.data: DataSplits = load_data(self.config.data)
        self.supernet: Supernet = supernet_for(self.config, self.data)
        check_phases(self.config, self.supernet.space)
        self.supernet.load_state_dict(state["best"]["weights"] if state["best"] else state["supernet"])
        self.supernet.to(self.device)
        self.calibration = calibration_batches(self.config, self.data, self.device)
        self.labels: dict[Architecture, Label] = {}

    def choose(self, budget: Budget, prefer: Prefer) -> Architecture:
        """The best architecture within the budget, by accuracy on validation images."""
        settings, space = self.config.search, self.supernet.space
        attack = build.attack(settings.attack, threat_model(self.config), "search.attack")
        images = self.data.validation.subset(settings.images, self.config.seed)
        batches = list(evaluation_batches(images, self.data.input_shape, self.device))
        bar = tqdm(
            desc=f"choosing for {budget.name}",
            total=settings.candidates + settings.mutations,
            unit="student",
            disable=None if not self.quiet else True,
            leave=False,
        )

        def label(architecture: Architecture) -> Label:
            student = self.supernet.extract(architecture, self.calibration)
            result = measure(student, batches, {"attack": attack}, seed=self.config.seed)
            bar.update()
            return Label(result.clean.value, result.robust["attack"].value)

        with bar:
            return choose(
                space,
                lambda architecture: budget.admits(space.cost(architecture)),
                label,
                random.Random(self.config.seed),
                candidates=settings.candidates,
                mutations=settings.mutations,
                prefer=prefer,
                known=self.labels,
            )

    def write(self, budget: Budget | None, out: Path, prefer: Prefer, formats: Sequence[str]) -> Extracted:
        """Choose, calibrate, measure on the test split, and write the student directory."""
        space = self.supernet.space
        architecture = space.largest() if budget is None or space.size == 1 else self.choose(budget, prefer)
        student = self.supernet.extract(architecture, self.calibration)
        attack = build.attack(self.config.evaluation.attack, threat_model(self.config), "evaluation.attack")
        images = self.data.test.subset(self.config.evaluation.limit, self.config.seed)
        batches = evaluation_batches(images, self.data.input_shape, self.device)
        result = measure(student, batches, {attack.name: attack}, seed=self.config.seed)
        card = self._card(budget, architecture, result, attack)
        path = out / ("student" if budget is None else budget.name)
        return Extracted(path, write_student(path, student, card, formats))

    def _card(
        self, budget: Budget | None, architecture: Architecture, result: Measurement, attack: Attack
    ) -> dict[str, Any]:
        threat = attack.threat
        versions = environment()
        data = self.config.data.model_dump(mode="json", exclude={"augmentation"})
        if self.config.data.root is not None:
            data["root"] = str(self.config.data.root.expanduser().absolute())
        return {
            **describe(self.supernet.family, architecture),
            "classes": list(self.data.class_names),
            "budget": budget and {"kind": budget.kind, "limit": budget.limit, "text": budget.text},
            "threat_model": {"norm": threat.norm, "eps": threat.eps, "bounds": list(threat.bounds)},
            "clean_accuracy": result.clean.value,
            "robust_accuracy": result.robust[attack.name].value,
            "evaluation": {
                "split": "test",
                "seed": self.config.seed,
                "limit": self.config.evaluation.limit,
                "clean": result.clean.as_dict(),
                "robust": [{"attack": attack_as_dict(attack), **result.robust[attack.name].as_dict()}],
            },
            "data": data,
            "supernet_finished": self.finished,
            "versions": {key: versions[key] for key in ("proard", "torch", "torchvision", "python", "git_commit")},
        }
