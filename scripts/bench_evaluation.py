"""How fast is an evaluation? PGD-20 against foolbox and torchattacks; AutoAttack is in bench_autoattack.py.

All get the same student and the same batches of test images; steps and step size are equal, and an image counts that is
classified correctly before and after. The libraries run the student as it is, as their users do; proard runs what
`proard evaluate` runs: a copy with batch norm folded, channels last, from whose batch an image goes as soon as it is
fooled. Each repetition runs one after the other; ratios are medians over repetitions, with quartiles. torchattacks is
left out where it is not installed.

python scripts/bench_evaluation.py runs/quickstart --images 256 --out docs/results/bench_evaluation
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import foolbox
import torch
from benchmark import Table, interleaved, ratios, with_quartiles
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.commands.extract import Extractor
from proard.evaluation.accuracy import measure
from proard.runs.components import evaluation_batch_size, threat_model
from proard.runs.run import Run

STEPS = 20
Batches = list[tuple[torch.Tensor, torch.Tensor]]
Way = Callable[[], float]  # does the work, and returns the robust accuracy


def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which images are classified correctly."""
    with torch.no_grad():
        return network(images).argmax(1) == labels


def pgd_ways(student: nn.Module, batches: Batches, threat: ThreatModel) -> dict[str, Way]:
    """PGD-20 by proard, foolbox and torchattacks."""
    step_size, total = 2.5 * threat.eps / STEPS, sum(len(labels) for _, labels in batches)

    def ours() -> float:
        return measure(student, batches, {"pgd": PGD(threat, steps=STEPS)}).worst.value

    def attacked(attack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Way:
        def robust(x: torch.Tensor, y: torch.Tensor) -> int:
            return int((right(student, x, y) & right(student, attack(x, y), y)).sum())

        return lambda: sum(robust(x, y) for x, y in batches) / total

    make = foolbox.attacks.LinfPGD if threat.norm == "linf" else foolbox.attacks.L2PGD
    attack = make(abs_stepsize=step_size, steps=STEPS)
    model = foolbox.PyTorchModel(student, bounds=(0, 1), device=batches[0][0].device)
    ways = {"proard": ours, "foolbox": attacked(lambda x, y: attack(model, x, y, epsilons=threat.eps)[1])}
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        other = torchattacks.PGD if threat.norm == "linf" else torchattacks.PGDL2
        ways["torchattacks"] = attacked(other(student, eps=threat.eps, alpha=step_size, steps=STEPS))
    return ways


def compared(ways: dict[str, Way], repetitions: int, device: torch.device) -> dict[str, Any]:
    """Seconds and accuracies of every way, and how many times as long as proard the others take."""
    accuracy: dict[str, list[float]] = {name: [] for name in ways}
    keeping = {name: partial(lambda name: accuracy[name].append(ways[name]()), name) for name in ways}
    seconds = interleaved(keeping, repetitions, device)
    others = {name: ratios(seconds, name, "proard") for name in ways if name != "proard"}
    return {"seconds": seconds, "robust": accuracy, "ratios": others}


def main() -> None:
    """Parse, measure the smallest and the largest student, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    extractor = Extractor(Run(arguments.run), quiet=True)
    device, threat = extractor.device, threat_model(extractor.config)
    space = extractor.supernet.space
    table = Table(
        arguments.out,
        "Evaluation: PGD-20",
        device,
        f"Test images of `{extractor.config.data.name}`; foolbox {foolbox.__version__}. Medians of "
        f"{arguments.repetitions} repetitions in which all take turns, ratios with quartiles.",
        ["student", "attack", "images", "who", "seconds", "robust %", "times as long as proard"],
    )
    for end, architecture in (("smallest", space.smallest()), ("largest", space.largest())):
        student = extractor.supernet.extract(architecture, extractor.calibration)
        size = evaluation_batch_size(extractor.data.input_shape, device)
        images, labels = next(extractor.data.test.batches([torch.arange(len(extractor.data.test))], device))
        x, y = images[: arguments.images], labels[: arguments.images]
        ways = pgd_ways(student, list(zip(x.split(size), y.split(size), strict=True)), threat)
        row = compared(ways, arguments.repetitions, device) | {"student": end, "attack": "pgd20", "images": len(y)}
        for who in ways:
            ratio = with_quartiles(row["ratios"].get(who, [1.0]))
            robust = f"{100 * median(row['robust'][who]):.1f}"
            cells = [end, "pgd20", len(y), who, f"{median(row['seconds'][who]):.2f}", robust, ratio]
            table.add(cells, row if who == "proard" else None)


if __name__ == "__main__":
    main()
