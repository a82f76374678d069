"""How many kernels would a GPU launch for one student's step? Counted on the CPU, where every launch is an operator.

An operator that only makes a view launches nothing. One for a list of tensors (``_foreach_...``, ``_fused_...``)
launches once for each dtype if on a GPU it does (dense, alike in strides and dtype), else once for each tensor.
Convolutions, norms and matrix products are counted apart, since they are what a step is for; what libraries launch
within an operator is not seen. Steps of the two ends are CUDA graphs, launched as one: the last column is the mean over
the default's draws, of which they are two fifths, if a graph counts as one launch beside the optimizer's. Before,
there were no graphs.

python scripts/count_launches.py --out docs/results/launches
python scripts/count_launches.py --before docs/results/launches.json --out docs/results/launches_now
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmark import CIFAR10_SMALL, Table, train_on, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from proard.supernet import Supernet
from proard.training.trainer import Trainer

OBJECTIVE = {"name": "rslad", "adversarial_weight": 1, "label_weight": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "cifar10_small, N-FGSM": {"family": "resnet", "options": CIFAR10_SMALL, "attack": {"name": "nfgsm"}},
    "resnet, PGD-10": {"family": "resnet"},
    "resnet50, PGD-10": {"family": "resnet50"},
    "vit, PGD-10": {"family": "vit"},
}
PARTS = {"student": "cutting", "accumulate": "adding back", "_update": "optimizer"}
ENDS = 0.4  # their share of the draws of `robustness`
HEAVY = ("conv", "batch_norm", "native_layer_norm", "mm", "attention")
NOTHING = {"empty", "empty_like", "empty_strided", "detach", "_reshape_alias", "_unsafe_view", "new_empty_strided"}


class Launches(TorchDispatchMode):
    """Counts by operator: what launches, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = "attack and loss"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if not (func.is_view or name in NOTHING):
            self.counts[self.part, name] += launches(name, args)
        return result


def launches(name: str, arguments: Any) -> int:
    """Of one call."""
    lists = [argument for argument in arguments if isinstance(argument, list | tuple)]
    lists = [entries for entries in lists if entries and isinstance(entries[0], torch.Tensor)]
    if not name.startswith(("_foreach", "_fused")) or not lists:
        return 1
    rows = list(zip(*lists, strict=False))
    alike = all(len({(tensor.stride(), tensor.dtype) for tensor in row}) == 1 and dense(row[0]) for row in rows)
    return len({tensor.dtype for tensor in lists[0]}) if alike else len(rows)


def dense(tensor: torch.Tensor) -> bool:
    """Whether it fills its memory without gaps."""
    return tensor.numel() == 1 + sum(
        (size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )


def counted(made: Any) -> Counter[tuple[str, str]]:
    """Launches of one step of a student of middle size, after one that is not counted."""
    space = made.supernet.space
    student = space.canonical({d.name: d.choices[len(d.choices) // 2] for d in space.decisions})
    step, mode = train_on(made, [student]), Launches()

    def within(part: str, function: Any, *arguments: Any) -> Any:
        before, mode.part = mode.part, part
        try:
            return function(*arguments)
        finally:
            mode.part = before

    step()
    owners = {"student": Supernet, "accumulate": Supernet, "_update": Trainer}
    with ExitStack() as stack:
        stack.enter_context(patch("proard.supernet.family.channels_lie_last", return_value=False))  # as on a GPU
        for name, owner in owners.items():
            stack.enter_context(patch.object(owner, name, wrapped(within, PARTS[name], getattr(owner, name))))
        with mode:
            step()
    return mode.counts


def wrapped(within: Any, part: str, function: Any) -> Any:
    """The method, whose launches belong to a part."""
    return lambda *arguments: within(part, function, *arguments)


def main() -> None:
    """Count all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--operators", type=int, default=0, help="list so many")
    parser.add_argument("--before", type=Path, help="what this wrote for an earlier commit, as .json")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    rows = json.loads(arguments.before.read_text())["rows"] if arguments.before else []
    before = {row["step"]: row["light"][0] for row in rows}
    plain = torch.optim.SGD.__init__

    def fused(self: torch.optim.SGD, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **{**options, "fused": True})

    parts = ("attack and loss", *PARTS.values())
    columns = ("step", "convolutions, norms, products", *parts, "all but the first", "mean, ends as graphs")
    table = Table(arguments.out, "Launches of a step", torch.device("cpu"), __doc__.split("\n\n")[1], columns)
    for name in arguments.cases:
        # The optimizer of a GPU
        with tempfile.TemporaryDirectory() as place, patch.object(torch.optim.SGD, "__init__", fused):
            counts = counted(trainer(Path(place), 4, objective=OBJECTIVE, precision="bfloat16", **CASES[name]))
        heavy = sum(n for (_, op), n in counts.items() if any(word in op for word in HEAVY))
        light = {
            part: sum(n for (p, op), n in counts.items() if p == part and not any(w in op for w in HEAVY))
            for part in parts
        }
        total = sum(light.values())
        mean = (1 - ENDS) * total + ENDS * (light["optimizer"] + 1)
        cells = [str(total), f"{mean:.0f}"]
        if name in before:
            cells = [f"{cell} (before: {before[name]})" for cell in cells]
        row = {"step": name, "heavy": heavy, **light, "light": [total, round(mean)]}
        table.add([name, heavy, *light.values(), *cells], row)
        for (part, op), n in counts.most_common(arguments.operators):
            print(f"  {part}: {op} {n}")


if __name__ == "__main__":
    main()
