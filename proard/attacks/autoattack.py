"""AutoAttack (Croce and Hein, arXiv 2003.01690): attacks of different kinds, one after the other.

Its parts are those of proard, written from their papers. Verdicts are compared with the authors' package, image by
image, in docs/results/bench_autoattack.md.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch

from proard.attacks.attack import Loss, Model, attacks
from proard.attacks.steps import GuardedAttack, images_are_apart
from proard.common.errors import UserError

VERSIONS: dict[str, dict[str, dict[str, Any]]] = {  # the parts, in their order, with what is not their default
    "standard": {"apgd-ce": {}, "apgd-t": {}, "fab-t": {}, "square": {}},
    "plus": {
        "apgd-ce": {"restarts": 5},
        "apgd-dlr": {"restarts": 5},
        "fab": {"restarts": 5},
        "square": {},
        "apgd-t": {},
        "fab-t": {},
    },
    "rand": {"apgd-ce": {"draws": 20}, "apgd-dlr": {"draws": 20}},
}
STANDARD_L1 = {**VERSIONS["standard"], "apgd-ce": {"restarts": 5}, "apgd-t": {"targets": 5}}


@attacks.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(GuardedAttack):
    """The ensemble that robust accuracy is compared by: each part attacks what withstood those before it.

    ``standard`` is apgd-ce, apgd-t, fab-t and square; ``plus`` adds apgd-dlr, fab and restarts; ``rand`` is apgd-ce and
    apgd-dlr averaged over 20 passes, for networks that are random. Targeted attacks try 9 classes, or all others where
    there are fewer. The targeted DLR loss needs 4 classes, so with 3 apgd-dlr stands in for apgd-t; with 2, neither
    exists, and apgd-ce, fab-t and square remain. For l1 it is l1-AutoAttack (Croce and Hein,
    arXiv 2103.01208): 5 restarts of apgd-ce, and 5 targets of apgd-t.

    Attributes:
        threat: norm, radius and bounds.
        version: ``standard``, ``plus`` or ``rand``.
        batch_size: images at a time at most, at least 1; what is left of several batches is put together.

    Raises:
        ValueError: an option out of range.
    """

    _: KW_ONLY
    version: Literal["standard", "plus", "rand"] = "standard"
    batch_size: int = 250

    trains = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(lambda version: version in VERSIONS, "standard, plus or rand", "version")
        self.require_one_or_more("batch_size")

    @property
    def name(self) -> str:
        """Short name: ``autoattack``, ``autoattack-plus`` or ``autoattack-rand``."""
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    @property
    def passes(self) -> int:
        """About how many forward passes each version takes for an image that withstands it, of 10 classes or more."""
        return sum(self._part(name).passes for name in self.order)

    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """What the first part that fools found; an image that withstands every part is returned as it is.

        Raises:
            UserError: the network has a single class.
        """
        if images.dim() != 4:
            raise ValueError(f"autoattack needs images (N, C, H, W), got {images.dim()} dimensions")
        perturbed, batches = images.clone(), self._batches(torch.arange(len(images), device=images.device))
        logits = torch.cat([model(images[batch]) for batch in batches])
        self._warn(logits[: len(batches[0])], model(images[batches[0]]))
        left = logits.argmax(1) == labels
        for name in parts(list(self.order), logits.shape[1]):
            part = self._part(name)
            # Where images of a batch may depend on each other, it stays together.
            for batch in self._batches(left.nonzero().squeeze(1)) if images_are_apart(model) else batches:
                if not bool(left[batch].any()):
                    continue
                found = part.find(model, images[batch], labels[batch], None, generator)
                broken = left[batch] & (model(found).argmax(1) != labels[batch])
                perturbed[batch[broken]] = found[broken]
                left[batch[broken]] = False
        return perturbed

    @property
    def order(self) -> dict[str, dict[str, Any]]:
        """The parts in their order, by name, with what is not their default."""
        l1 = self.version == "standard" and self.threat.norm == "l1"
        return STANDARD_L1 if l1 else VERSIONS[self.version]

    def _part(self, name: str) -> GuardedAttack:
        """A part with its options."""
        part = attacks.build(name, self.order.get(name, {}), threat=self.threat)
        assert isinstance(part, GuardedAttack)
        return part

    def _batches(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As few as the batch size allows, and about equally many images in each."""
        return indices.chunk(max(math.ceil(len(indices) / self.batch_size), 1))

    def _warn(self, logits: torch.Tensor, again: torch.Tensor) -> None:
        """Say what makes the result look better than it is, as far as two passes over the same images show it."""
        same = torch.allclose(logits, again, rtol=1e-3, atol=1e-3)
        signs = {
            "the network's outputs are a probability distribution, not logits": bool(
                (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all()
            ),
            "the network is random; autoattack-rand is for such": self.version != "rand" and not same,
            "the network is not random; 'autoattack' is stronger for such": self.version == "rand" and same,
        }
        for text, shown in signs.items():
            if shown:
                warnings.warn(f"autoattack: {text} ('proard evaluate --check' looks closer)", stacklevel=2)


def parts(attacks_to_run: list[str], classes: int) -> list[str]:
    """The parts of a version that are defined for a number of classes."""
    if classes < 2:
        raise UserError(f"attack autoattack needs 2 classes or more, the network has {classes}")
    chosen = list(attacks_to_run)
    if classes == 3:
        chosen = ["apgd-dlr" if part == "apgd-t" else part for part in chosen]
    if classes == 2:
        chosen = [part for part in chosen if part not in ("apgd-t", "apgd-dlr")]
    return list(dict.fromkeys(chosen))
