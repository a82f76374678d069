"""Is our AutoAttack as strong as the authors' package, and how fast? Verdicts image by image, and times.

Both attack the same test images, those that a student classifies correctly, chunk by chunk: one, then the other, in
turn first. The package runs the student as it is, as its users do; proard runs what `proard evaluate` runs, a copy with
batch norm folded and channels last. All verdicts are of the student as it is. An image that the package breaks and
proard does not is *weaker*, the opposite is *stronger*. Eps is that of the card for its norm, 0.5 for l2, 12 for l1.

python scripts/bench_autoattack.py zoo:cifar10-jpeg/flops-2M --data-root DIR --out docs/results/bench_autoattack
python scripts/bench_autoattack.py zoo:cifar10-jpeg/flops-2M --threats l1:8 --part apgd-ce --data-root DIR --out OUT
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from benchmark import Table, timed
from pyautoattack import AutoAttack as Package
from torch import nn

from proard.attacks import AutoAttack, ThreatModel, attacks, check_result
from proard.attacks.presets import RADII
from proard.config import DataConfig
from proard.data import load_data
from proard.evaluation.fast_copy import fast_copy
from proard.export.student_directory import load_student, read_card
from proard.runs.components import evaluation_batches


def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which images are classified correctly."""
    with torch.no_grad():
        return network(images).argmax(1) == labels


def broken_by_package(
    student: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: ThreatModel, part: str | None
) -> torch.Tensor:
    """Which images the package breaks, by its standard version or by a part of it."""
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
    attack = Package(student, norm=norm, eps=threat.eps, seed=0, device=images.device)
    if part is not None:
        attack.attacks_to_run = [part]
    attack.verbose = False
    targets = int(student(images[:1]).shape[1]) - 1
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(part.n_target_classes, targets)
    adversarial, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return ~right(student, adversarial, labels)


def broken_by_proard(
    student: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: ThreatModel, part: str | None
) -> torch.Tensor:
    """Which images proard breaks, as `proard evaluate` runs it."""
    whole, fast = AutoAttack(threat), fast_copy(student, images)
    attack = whole if part is None else attacks.build(part, whole.order[part], threat=threat)
    adversarial = attack(fast, images.contiguous(memory_format=torch.channels_last), labels)
    check_result(attack, adversarial, images)
    return ~right(student, adversarial, labels)


COLUMNS = ["student", "threat", "images", "proard breaks", "pyautoattack breaks", "weaker", "stronger"]
COLUMNS += ["seconds", "theirs", "ratio"]
WAYS = {"proard": broken_by_proard, "pyautoattack": broken_by_package}


def compared(
    student: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: ThreatModel, part: str | None, chunk: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Which images each of the two breaks, and its seconds."""
    broken: dict[str, list[torch.Tensor]] = {way: [] for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)

    def attack(way: str, x: torch.Tensor, y: torch.Tensor) -> None:
        broken[way].append(WAYS[way](student, x, y, threat, part))

    for turn, some in enumerate(zip(images.split(chunk), labels.split(chunk), strict=True)):
        for way in list(WAYS)[:: 1 if turn % 2 else -1]:
            seconds[way] += timed(partial(attack, way, *some), images.device)
    return {way: torch.cat(parts) for way, parts in broken.items()}, seconds


def test_images(name: str, student: nn.Module, count: int, data_root: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images, and labels, that the student classifies correctly."""
    device = next(student.parameters()).device
    settings = DataConfig.model_validate(read_card(name)["data"])
    data = load_data(settings.model_copy(update={"root": data_root}) if data_root else settings)
    some = data.test.subset(min(4 * count, len(data.test)), 0)
    parts = [
        (x[kept], y[kept])
        for x, y in evaluation_batches(some, data.input_shape, device)
        for kept in [right(student, x, y)]
    ]
    images, labels = (torch.cat(tensors)[:count].contiguous() for tensors in zip(*parts, strict=True))
    return images, labels


def main() -> None:
    """Parse, compare each student under each norm, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="student directories, or zoo:SET/STUDENT")
    parser.add_argument("--images", type=int, default=500, help="correctly classified ones, of each student")
    parser.add_argument("--chunk", type=int, default=250, help="images that go to one and then to the other")
    parser.add_argument("--threats", nargs="+", default=["linf", "l2"], metavar="NORM[:EPS]")
    parser.add_argument("--part", help="of the standard version, alone")
    parser.add_argument("--data-root", help="where the images are, if not where the card says")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(
        arguments.out,
        "AutoAttack: proard and pyautoattack",
        device,
        f"Test images that the student classifies correctly, {arguments.chunk} at a time at most; the standard version "
        f"of both{f', {arguments.part} of it alone' if arguments.part else ''}. *Weaker* are images that the package "
        "alone breaks, *stronger* those that proard alone breaks.",
        COLUMNS,
    )
    for name in arguments.students:
        student = load_student(name).to(device)
        images, labels = test_images(name, student, arguments.images, arguments.data_root)
        recorded = read_card(name)["evaluation"]["robust"][0]["attack"]["threat"]
        for threat in arguments.threats:
            norm, _, radius = threat.partition(":")
            eps = float(radius) if radius else {**RADII, recorded["norm"]: recorded["eps"]}[norm]
            threat = ThreatModel(norm, eps)
            broken, seconds = compared(student, images, labels, threat, arguments.part, arguments.chunk)
            ours, theirs = broken.values()
            row = {
                "student": name,
                "threat": f"{norm} {eps:.4g}",
                "images": len(labels),
                "broken": int(ours.sum()),
                "broken_by_package": int(theirs.sum()),
                "weaker": int((theirs & ~ours).sum()),
                "stronger": int((ours & ~theirs).sum()),
                "seconds": round(seconds["proard"], 1),
                "seconds_of_package": round(seconds["pyautoattack"], 1),
                "ratio": round(seconds["proard"] / seconds["pyautoattack"], 2),
            }
            table.add(list(row.values()), row)


if __name__ == "__main__":
    main()
