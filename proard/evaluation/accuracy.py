"""Clean and robust accuracy of a network, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proard.attacks import Attack, check_result
from proard.attacks.given import check_logits, given_to_model, usable_images, usable_labels
from proard.attacks.presets import UNION
from proard.common.distributed import gathered, rank, share
from proard.common.errors import UserError
from proard.evaluation.fast_copy import fast_copy
from proard.supernet import require_calibrated

Z_95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """A number of correctly classified images out of a total."""

    correct: int
    total: int

    @classmethod
    def of(cls, correct: torch.Tensor) -> Accuracy:
        """Of one truth value per image (N,)."""
        return Accuracy(int(correct.sum()), len(correct))

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

    @property
    def with_interval(self) -> str:
        """The value in per cent and its 95 % interval, such as ``70.0 (60.4-78.1)``."""
        low, high = self.interval
        return f"{self} ({100 * low:.1f}-{100 * high:.1f})"

    def as_dict(self) -> dict[str, Any]:
        """Value, images and interval, for JSON."""
        low, high = self.interval
        return {"accuracy": self.value, "correct": self.correct, "images": self.total, "interval_95": [low, high]}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}"


@dataclass(frozen=True)
class RobustAccuracy(Accuracy):
    """Accuracy after an attack of a cascade: correct on the image, and on what this and every attack before made of it.

    Attributes:
        attacked: the images that it was given: those that were still classified correctly.
    """

    attacked: int

    @property
    def broken(self) -> int:
        """The images among them that it changed the class of."""
        return self.attacked - self.correct

    def as_dict(self) -> dict[str, Any]:
        """Value, images and interval, and what the attack did, for JSON."""
        return {**super().as_dict(), "attacked": self.attacked, "broken": self.broken}


@dataclass(frozen=True)
class Measurement:
    """Clean accuracy, and robust accuracy after each attack of a cascade (by name, in their order)."""

    clean: Accuracy
    robust: Mapping[str, RobustAccuracy]

    @property
    def worst(self) -> Accuracy:
        """Accuracy under all attacks together: that after the last one."""
        return list(self.robust.values())[-1] if self.robust else self.clean


def measure(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    attacks: Mapping[str, Attack],
    *,
    seed: int = 0,
    spread: bool = False,
    own: bool = True,
    union: bool = False,
    progress: Callable[[float], Any] = lambda _: None,
) -> Measurement:
    """Evaluate a calibrated network in float32 and evaluation mode, through a `fast_copy`; its modes are put back.

    The attacks are a cascade: each one sees only the images that are still classified correctly when its turn comes, so
    the order decides what each one breaks, and the accuracy after the last is that under all of them.

    Args:
        network: images (N, C, H, W) in [0, 1] to logits.
        batches: pairs of images and labels, on the network's device.
        attacks: by the name to report.
        seed: of the attacks' random draws.
        spread: every process of a job measures its share of each batch, and all get the result for all images.
        own: whether it is a student of ours, whose batch norm must be calibrated.
        union: no cascade: each attack sees all images that are classified correctly, and ``union`` is the accuracy
            under all of them.
        progress: called with amounts that add up to `work` for the images that this process measures.

    Raises:
        UserError: the network has batch norm that was never calibrated, or answers that are not finite.
        ValueError: images that are not finite and in [0, 1], labels that are no classes of the network.
        AttackError: an attack returned images that are not admissible.
    """
    if own:
        require_calibrated(network)
    total, clean = 0, 0
    rank_seed = 1_000_003 * rank() if spread else 0
    names = [*attacks, *([UNION] if union else [])]
    attacked, correct = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    generators: dict[str, torch.Generator] = {}
    fast: nn.Module | None = None
    with evaluation_mode(network):
        for images, labels in batches:
            if spread:
                images, labels = images[share(len(labels))], labels[share(len(labels))]
            count = len(labels)
            total += count
            if count == 0:
                continue
            images = usable_images(images, (0.0, 1.0))
            labels = usable_labels(labels, images)
            if fast is None:
                with given_to_model(images):
                    fast = fast_copy(network, images)
            if fast is not network:
                images = images.contiguous(memory_format=torch.channels_last)
            images, labels = _correct(fast, images, images, labels)
            clean += len(labels)
            progress(count)
            withstood = torch.ones_like(labels, dtype=torch.bool)
            for name, attack in attacks.items():
                with counted(fast, count * attack.passes, progress):
                    if len(labels) == 0:
                        continue
                    attacked[name] += len(labels)
                    generator = generators.setdefault(
                        name, torch.Generator(images.device).manual_seed(seed + rank_seed)
                    )
                    adversarial = attack.until_fooled(fast, images, labels, generator)
                    check_result(attack, adversarial, images)
                    right = is_right(fast, adversarial, labels)
                    correct[name] += int(right.sum())
                    if union:
                        withstood &= right
                    else:
                        images, labels = images[right], labels[right]
            if union:
                attacked[UNION] += len(labels)
                correct[UNION] += int(withstood.sum())
    if spread:
        counts = [total, clean, *attacked.values(), *correct.values()]
        total, clean, *counts = [sum(column) for column in zip(*gathered(counts), strict=True)]
        attacked = dict(zip(names, counts[: len(names)], strict=True))
        correct = dict(zip(names, counts[len(names) :], strict=True))
    robust = {name: RobustAccuracy(correct[name], total, attacked[name]) for name in names}
    return Measurement(Accuracy(clean, total), robust)


def work(images: int, attacks: Iterable[Attack]) -> int:
    """How much `measure` does, in images that go through the network, where all of them withstand the attacks."""
    return images * (1 + sum(attack.passes for attack in attacks))


@contextmanager
def counted(network: nn.Module, expected: float, progress: Callable[[float], Any]) -> Iterator[None]:
    """Report progress inside of an attack: amounts that add up to ``expected``, as images go through the network.

    An attack that stops earlier, or goes on, is as good. All that changes about the network is that it is listened to.
    """
    done = 0.0

    def seen(_: nn.Module, inputs: tuple[Any, ...], __: Any) -> None:
        nonlocal done
        amount = min(float(len(inputs[0])), expected - done)
        if amount > 0:
            done += amount
            progress(amount)

    hook = network.register_forward_hook(seen)
    try:
        yield
    finally:
        hook.remove()
    if expected > done:
        progress(expected - done)


def _correct(
    network: nn.Module, seen: torch.Tensor, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, and labels, for which the network is right about what it sees."""
    right = is_right(network, seen, labels)
    return images[right], labels[right]


def is_right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the class of the largest logit is the label, per image (N,).

    Raises:
        UserError: answers that are not finite.
        ValueError: no logits (N, K), or labels that are no classes of the network.
    """
    with torch.no_grad(), given_to_model(images):
        logits = network(images)
    check_logits(logits, images, int(labels.max()) + 1)
    if broken := int((~logits.isfinite().all(1)).sum()):
        raise UserError(
            f"the network's answers are not finite on {broken} of {len(labels)} images, so it has no accuracy; look "
            "for infinite or NaN weights"
        )
    return logits.argmax(1) == labels


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode is put back, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
