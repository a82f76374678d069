"""What the evaluation attack does to a small and a large student: some images, and accuracy over radii.

Both are made anew for the page, on test images; nothing is chosen by them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from proard.attacks import Attack
from proard.common.device import resolve_device
from proard.evaluation.accuracy import Accuracy, evaluation_mode
from proard.evaluation.fast_copy import fast_copy
from proard.evaluation.transfer.curve import Cascade
from proard.export.student_directory import load_student
from proard.report.run_contents import RunContents
from proard.runs import components

SHOWN = 6  # images
LOOKED_AT = 4  # times as many are attacked, to find some that the attack breaks
RADII = (0.25, 0.5, 1.0, 1.5, 2.0)  # relative to the threat model's eps
MOST_IMAGES = 200  # per student, for the curve
BATCH = 8  # images, after each of which the time is looked at
SECONDS = 8.0  # for the shown images, and per student for the curve


@dataclass(frozen=True)
class Victim:
    """A network that is attacked.

    Attributes:
        name: for people.
        multiply_adds: per image.
        network: images (N, C, H, W) in [0, 1] to logits, in evaluation mode, on the run's device.
    """

    name: str
    multiply_adds: float
    network: nn.Module


@dataclass(frozen=True)
class ImageResult:
    """One student on one image.

    Attributes:
        adversarial: (C, H, W) in [0, 1].
        before: the class that it predicts for the clean image.
        after: the class that it predicts for the adversarial one.
    """

    adversarial: torch.Tensor
    before: int
    after: int


@dataclass(frozen=True)
class Shown:
    """An image (C, H, W) in [0, 1], its label, and what became of it for each victim."""

    image: torch.Tensor
    label: int
    outcomes: Sequence[ImageResult]

    @property
    def broken(self) -> bool:
        """Whether the attack made a victim wrong that was right."""
        return any(outcome.before == self.label != outcome.after for outcome in self.outcomes)


@dataclass(frozen=True)
class Curve:
    """Accuracies of a student by an attack's radius, ascending from 0, or by its steps.

    Attributes:
        name: of the student, for people.
        multiply_adds: of the student, per image.
        accuracies: by radius or steps.
    """

    name: str
    multiply_adds: float
    accuracies: dict[float, Accuracy]


class Attacked:
    """The two ends of a run, under its evaluation attack."""

    def __init__(self, contents: RunContents) -> None:
        self.contents = contents

    @cached_property
    def attack(self) -> Attack:
        """The attack of the run's ``evaluation``.

        Raises:
            UserError: it needs a package that is missing.
        """
        config = self.contents.config
        return components.attack(config.evaluation.attack, components.threat_model(config), "evaluation.attack")

    @cached_property
    def device(self) -> torch.device:
        """The device of the run.

        Raises:
            UserError: this machine has none like it.
        """
        return resolve_device(self.contents.config.device)

    @cached_property
    def victims(self) -> list[Victim]:
        """The smallest and the largest extracted student; where there are no two, the space's ends, cut out now.

        Of a run with one network, that one.

        Raises:
            UserError: neither students nor weights can be read.
        """
        extracted = [student for student in self.contents.students if not student.alone]
        found = {student.key: student for student in (*extracted[:1], *extracted[-1:])}
        if found and (len(found) > 1 or not self.contents.is_supernet):
            return [
                Victim(student.name, student.costs["multiply_adds"], load_student(student.folder).to(self.device))
                for student in found.values()
                if student.folder is not None
            ]
        trained = self.contents.trained
        space = trained.supernet.space
        ends = {"smallest of the space": space.smallest(), "largest of the space": space.largest()}
        if space.size == 1:
            ends = {"student": space.largest()}
        return [
            Victim(name, space.cost(end).multiply_adds, trained.supernet.extract(end, trained.calibration))
            for name, end in ends.items()
        ]

    def shown(self) -> list[Shown]:
        """Some test images, attacked for each victim by itself; up to half of them such that the attack broke.

        Raises:
            UserError: the images, or the networks, cannot be read.
        """
        start, seen = time.perf_counter(), list[Shown]()
        for images, labels in self._batches(SHOWN, LOOKED_AT * SHOWN):
            if seen and time.perf_counter() - start > SECONDS:
                break
            columns = [self._outcomes(victim, images, labels) for victim in self.victims]
            rows = zip(images.cpu(), labels.tolist(), *columns, strict=True)
            seen += [Shown(image, label, outcomes) for image, label, *outcomes in rows]
        broken, others = ([one for one in seen if one.broken == wanted] for wanted in (True, False))
        return [*broken[: SHOWN // 2], *others, *broken[SHOWN // 2 :]][:SHOWN]

    def _outcomes(self, victim: Victim, images: torch.Tensor, labels: torch.Tensor) -> list[ImageResult]:
        with evaluation_mode(victim.network):
            adversarial = self.attack(victim.network, images, labels)
            with torch.no_grad():
                before, after = (victim.network(x).argmax(1).tolist() for x in (images, adversarial))
        return [ImageResult(*row) for row in zip(adversarial.cpu(), before, after, strict=True)]

    def curves(self, seconds: float = SECONDS) -> list[Curve]:
        """Accuracy of each victim at 0 and at `RADII`, on as many test images as the time allows.

        Args:
            seconds: that a victim may take; the first `BATCH` images are attacked however long that takes.

        Raises:
            UserError: as for `shown`.
        """
        radii = [factor * self.attack.threat.eps for factor in RADII]
        curves = []
        for victim in self.victims:
            start = time.perf_counter()
            cascade = Cascade(self.attack, radii, self.contents.config.seed)
            network: nn.Module | None = None
            with evaluation_mode(victim.network):
                for images, labels in self._batches(BATCH, MOST_IMAGES):
                    spent = time.perf_counter() - start
                    if cascade.total and spent * (1 + len(labels) / cascade.total) > seconds:
                        break
                    if network is None:
                        network = fast_copy(victim.network, images)
                    cascade.add(network, images, labels)
            curves.append(Curve(victim.name, victim.multiply_adds, cascade.accuracies()))
        return curves

    def _batches(self, size: int, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """At most so many test images, stratified by class and in random order, in batches on the run's device."""
        seed = self.contents.config.seed
        images = self.contents.data.test.subset(most, seed)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        return images.batches(order.split(size), self.device)
