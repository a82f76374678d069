"""Accuracy under common corruptions: by corruption and severity, and its mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proard.attacks.given import given_to_model, usable_images, usable_labels
from proard.common.distributed import gathered, share
from proard.common.terminal import table
from proard.evaluation.accuracy import Z_95, Accuracy, evaluation_mode, is_right
from proard.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from proard.evaluation.fast_copy import fast_copy
from proard.supernet import require_calibrated

PASSES = 1 + len(CORRUPTIONS) * len(SEVERITIES)  # how often an image goes through the network
CATEGORIES = tuple(dict.fromkeys(kind.category for kind in CORRUPTIONS.values()))
NOTE = (
    "after Hendrycks & Dietterich (2019), with the strengths of CIFAR-10-C; comparable with published numbers only "
    "approximately, and frost, whose texture is made and no photograph, only roughly"
)


@dataclass(frozen=True, eq=False)
class CorruptedAccuracy:
    """What `measure_corruptions` found.

    Attributes:
        clean: the accuracy on the same images as they are.
        right: whether each corrupted image is classified correctly: (images, corruptions, severities), in the order of
            `CORRUPTIONS`.
        seed: of the corruptions.
    """

    clean: Accuracy
    right: torch.Tensor
    seed: int

    def accuracy(self, name: str, severity: int) -> Accuracy:
        """Of one corruption at one severity."""
        return Accuracy.of(self.right[:, list(CORRUPTIONS).index(name), severity - 1])

    def mean(self, names: Sequence[str] = tuple(CORRUPTIONS)) -> tuple[float, tuple[float, float]]:
        """The mean accuracy over corruptions and severities, and its 95 % interval, both in [0, 1].

        The interval is the normal approximation over images: how often one is classified correctly counts once, since
        its corrupted copies are no independent draws.
        """
        chosen = [list(CORRUPTIONS).index(name) for name in names]
        shares = self.right[:, chosen].double().flatten(1).mean(1)
        value = float(shares.mean())
        half = Z_95 * float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 1.0
        return value, (max(value - half, 0.0), min(value + half, 1.0))

    def as_dict(self) -> dict[str, Any]:
        """Every number, for JSON."""

        def mean(names: Sequence[str]) -> dict[str, Any]:
            value, interval = self.mean(names)
            return {"accuracy": value, "interval_95": list(interval)}

        kinds = {
            name: {
                "category": kind.category,
                "mean": mean([name]),
                "severities": [{"severity": s, **self.accuracy(name, s).as_dict()} for s in SEVERITIES],
            }
            for name, kind in CORRUPTIONS.items()
        }
        return {
            "images": len(self.right),
            "seed": self.seed,
            "clean": self.clean.as_dict(),
            "mean": mean(list(CORRUPTIONS)),
            "categories": {category: mean(_of(category)) for category in CATEGORIES},
            "corruptions": kinds,
            "note": NOTE,
        }

    def __str__(self) -> str:
        """A table: accuracy in per cent by corruption and severity, means with 95 % intervals."""
        rows = []
        for category in CATEGORIES:
            for name in _of(category):
                at = {str(severity): str(self.accuracy(name, severity)) for severity in SEVERITIES}
                rows.append({"corruption": name, **at, "mean": _percent(self.mean([name]))})
        none = dict.fromkeys(map(str, SEVERITIES), "")
        rows += [
            {"corruption": f"all {category}", **none, "mean": _percent(self.mean(_of(category)))}
            for category in CATEGORIES
        ]
        rows.append({"corruption": f"all {len(CORRUPTIONS)}", **none, "mean": _percent(self.mean())})
        title = f"accuracy % under common corruptions, by severity; {len(self.right)} images, clean {self.clean} %"
        return "\n".join([title, *table(rows)])


def measure_corruptions(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    seed: int = 0,
    spread: bool = False,
    progress: Callable[[float], Any] = lambda _: None,
) -> CorruptedAccuracy:
    """Accuracy of a network under every corruption of `CORRUPTIONS` at every severity; its modes are put back.

    Args:
        network: calibrated; images (N, C, H, W) in [0, 1] to logits.
        batches: pairs of images and labels, on the network's device; an image is corrupted by its number in them.
        seed: of the corruptions.
        spread: every process of a job measures its share of each batch, and all get the result for all images.
        progress: called with amounts that add up to `PASSES` for each image that this process measures.

    Raises:
        UserError: the network has batch norm that was never calibrated, or answers that are not finite.
        ValueError: no image, images below 8x8 or not in [0, 1], or labels that are no classes of the network.
    """
    require_calibrated(network)
    clean: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    number, fast = 0, None
    with evaluation_mode(network):
        for images, labels in batches:
            part = share(len(labels)) if spread else slice(0, len(labels))
            first, number = number + part.start, number + len(labels)
            images, labels = images[part], labels[part]
            if len(labels) == 0:
                continue
            images = usable_images(images, (0.0, 1.0))
            labels = usable_labels(labels, images)
            if fast is None:
                with given_to_model(images):
                    fast = fast_copy(network, images)
            clean.append(is_right(fast, images, labels).cpu())
            progress(len(labels))
            right = torch.empty(len(labels), len(CORRUPTIONS), len(SEVERITIES), dtype=torch.bool)
            for column, name in enumerate(CORRUPTIONS):
                for severity in SEVERITIES:
                    corrupted = corrupt(images, name, severity, seed=seed, first=first)
                    right[:, column, severity - 1] = is_right(fast, corrupted, labels).cpu()
                    progress(len(labels))
            found.append(right)
    parts = [pair for pairs in gathered(list(zip(clean, found, strict=True))) for pair in pairs]
    if not parts:
        raise ValueError("corruptions need at least one image")
    return CorruptedAccuracy(Accuracy.of(torch.cat([c for c, _ in parts])), torch.cat([r for _, r in parts]), seed)


def _of(category: str) -> list[str]:
    return [name for name, kind in CORRUPTIONS.items() if kind.category == category]


def _percent(mean: tuple[float, tuple[float, float]]) -> str:
    value, (low, high) = mean
    return f"{100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})"
