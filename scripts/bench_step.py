"""How fast is a training step? Against a plain implementation, against a network that is not elastic, and against the
machine.

RSLAD with PGD, a frozen teacher of the largest architecture, the optimizer's step included. For one student:

- ``plain``: what published code of the field does, one student after the other: float32, channels first; the student's
  slices are cut from the supernet in every forward pass, also in those of the attack, whose backward passes compute
  the gradients of all weights too and throw them away;
- ``proard``: the trainer's own step: cut once, attacked and trained as a plain network, in the machine's best precision
  and memory layout;
- ``static``: the same for a network of this architecture that no supernet is around: what elasticity costs.

For the four students of a sandwich, ``shared`` too: the smallest makes the adversarial images, and the others refine
them by two steps (docs/results/samplers_equal_epochs.md says what that costs in accuracy).

The share of the peak is the arithmetic that ``proard`` needs (forward and backward passes, 2 operations per
multiply-add) by its time, relative to a matrix multiplication of 2048 x 2048 in the same precision, in its turn.

python scripts/bench_step.py --batch-sizes 32 128 --out docs/results/bench_step
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark import Table, Way, interleaved, ratios, train_on, trainer, with_quartiles
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from proard.common.device import autocast, keep_freed_memory, resolve_device
from proard.objectives import Batch
from proard.supernet import Architecture, Supernet
from proard.supernet.supernet import leading_slice
from proard.training import Trainer
from proard.training.teachers import BatchTeacher

EPS = 8 / 255
SIDE = 2048  # of the matrices whose product measures the machine
COLUMNS = (
    *("students", "batch", "plain ms", "proard ms", "static ms", "shared ms"),
    *("plain / proard", "plain / shared", "proard / static", "share of peak"),
)
SHARED = {"name": "refined", "source": "smallest", "steps": 2}


def plain_step(
    supernet: Supernet, students: list[Architecture], teacher: nn.Module, images: torch.Tensor, steps: int
) -> Way:
    """RSLAD through the elastic network, without any care."""
    skeletons = [supernet.student(student).train() for student in students]
    weights = dict(supernet.named_parameters())
    optimizer = torch.optim.SGD(supernet.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, foreach=False)

    def forward(skeleton: nn.Module, x: torch.Tensor) -> torch.Tensor:
        shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
        cut = {name: leading_slice(weights[name], shape).contiguous() for name, shape in shapes.items()}
        return functional_call(skeleton, cut, (x,))

    def divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean")

    def step() -> None:
        keep_freed_memory(False)
        with torch.no_grad():
            target = teacher(images).softmax(1)
        for skeleton in skeletons:
            adversarial = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
            for _ in range(steps):
                adversarial = adversarial.detach().requires_grad_()
                divergence(forward(skeleton, adversarial), target).backward()
                assert adversarial.grad is not None
                moved = adversarial.detach() + 2 / 255 * adversarial.grad.sign()
                adversarial = torch.min(torch.max(moved, images - EPS), images + EPS).clamp(0, 1)
            optimizer.zero_grad()  # also of what the attack left there
            robust = divergence(forward(skeleton, adversarial.detach()), target)
            (5 / 6 * robust + 1 / 6 * divergence(forward(skeleton, images), target)).backward()
            optimizer.step()
        keep_freed_memory()

    return step


def static_step(made: Trainer, architecture: Architecture) -> Way:
    """The trainer's arithmetic for a network of its own."""
    network = made.supernet.student(architecture).to(memory_format=torch.channels_last)
    (batch,) = made.train_images.batches([torch.arange(made.batch_size)], made.device)
    images = batch[0].contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    teacher = made.teacher
    assert teacher is not None

    def step() -> None:
        optimizer.zero_grad()
        with autocast(made.device, made.precision):
            known = Batch(images, batch[1], made.generator)
            outcome = made.objective.outcome(network, BatchTeacher(teacher, images), known)
        outcome.loss.backward()
        optimizer.step()

    return step


def multiplication(device: torch.device, precision: torch.dtype) -> Way:
    """The product of two matrices."""
    a = torch.rand(SIDE, SIDE, device=device, dtype=precision)
    return lambda: a @ a


def operations(made: Trainer, students: list[Architecture], steps: int) -> int:
    """Arithmetic of a step: an attack step is a forward and a backward pass to the image, an update two forward and two
    whole backward passes."""
    space = made.supernet.space
    passes = 2 * steps + 2 * 3
    cost = sum(space.cost(student).multiply_adds for student in students) * passes
    return 2 * made.batch_size * (cost + space.cost(space.largest()).multiply_adds)


def compared(name: str, students: list[Architecture], batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every way, and ratios, of a step of these students."""
    with tempfile.TemporaryDirectory() as place:
        common: dict[str, Any] = {"family": options.family, "steps": options.steps, "device": options.device}
        made = trainer(Path(place), batch_size, **common)
        supernet = made.supernet
        other = trainer(Path(place), batch_size, **common).supernet.to(memory_format=torch.contiguous_format)
        (batch,) = made.train_images.batches([torch.arange(batch_size)], made.device)
        teacher = other.extract(other.space.largest(), [batch[0]]).requires_grad_(False)
        ways = {
            "plain": plain_step(other, students, teacher, batch[0].contiguous(), options.steps),
            "proard": train_on(made, students),
        }
        if len(students) == 1:
            ways["static"] = static_step(made, students[0])
        else:
            ways["shared"] = train_on(trainer(Path(place), batch_size, crafting=SHARED, **common), students)
        ways["product"] = multiplication(made.device, made.precision)
        for step in ways.values() if options.repetitions > 1 else ():
            step()  # the first is slower, by less than a second
        seconds = interleaved(ways, options.repetitions, made.device)
        work = operations(made, students, options.steps)
        reached = [
            work / own / (2 * SIDE**3 / one) for own, one in zip(seconds["proard"], seconds["product"], strict=True)
        ]
        return {
            "students": name,
            "multiply_adds": [supernet.space.cost(student).multiply_adds for student in students],
            "batch_size": batch_size,
            "precision": str(made.precision),
            "seconds": seconds,
            "share_of_peak": reached,
            "ratios": {k: ratios(seconds, "plain", k) for k in ("proard", "shared") if k in seconds}
            | ({"elasticity": ratios(seconds, "proard", "static")} if "static" in seconds else {}),
        }


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    columns = ["plain", "proard", "static", "shared"]
    times = [f"{1000 * median(row['seconds'][k]):.0f}" if k in row["seconds"] else "" for k in columns]
    speeds = [with_quartiles(row["ratios"][k]) if k in row["ratios"] else "" for k in ("proard", "shared")]
    elasticity = with_quartiles(row["ratios"]["elasticity"]) if "elasticity" in row["ratios"] else ""
    share = with_quartiles(row["share_of_peak"])
    return [row["students"], str(row["batch_size"]), *times, *speeds, elasticity, share]


def main() -> None:
    """Parse, measure, write after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="resnet50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--students", nargs="+", default=["smallest", "largest", "sandwich"])
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        space = trainer(Path(place), 2, family=options.family, device=options.device).supernet.space
    ends = {"smallest": [space.smallest()], "largest": [space.largest()]}
    generator = random.Random(0)
    between = [space.sample(generator) for _ in range(2)]
    chosen = {**ends, "sandwich": [space.smallest(), *between, space.largest()]}
    table = Table(
        options.out,
        "A training step: plain, ours, of a network that is not elastic, and with shared attack work",
        resolve_device(options.device),
        f"`{options.family}`, RSLAD, PGD with {options.steps} steps, 32x32 images. Milliseconds are medians of "
        f"{options.repetitions} repetitions in which all take turns; ratios have quartiles.",
        COLUMNS,
    )
    for batch_size in options.batch_sizes:
        for name in options.students:
            row = compared(name, chosen[name], batch_size, options)
            table.add(cells(row), row)


if __name__ == "__main__":
    main()
