"""Further training images, such as generated ones, of which every batch has a share.

An epoch is one pass over the set's own images; the further ones of an epoch are drawn anew for each, without one twice
before all were there once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proard.common.errors import UserError, located
from proard.common.paths import path_of
from proard.config.schema import ExtraConfig
from proard.data.arrays import ArrayFile, renumbered
from proard.data.batches import epoch_batches
from proard.data.images import ImageSet
from proard.data.splits import DataSplits, digest_images


@dataclass(frozen=True)
class TrainingImages:
    """What an epoch goes over: a set's training images, alone or mixed with others.

    Attributes:
        images: all of them; the set's own come first.
        own: how many are its own.
        fraction: of a batch, that are others; 0 without.
        fingerprint: of the others.
    """

    images: ImageSet | MixedImages
    own: int
    fraction: float = 0.0
    fingerprint: str | None = None

    def others_in(self, batch_size: int) -> int:
        """How many images of a batch are not the set's own.

        Raises:
            UserError: the batch has no room for one of each kind.
        """
        if not self.fraction:
            return 0
        if batch_size < 2:
            raise UserError("batch_size: data.extra needs 2 or more, one of the set's own")
        return min(max(round(self.fraction * batch_size), 1), batch_size - 1)

    def chances(self, batch_size: int) -> Tensor:
        """How often each image is in batches, for once of one of the set's own (N,)."""
        others, chances = self.others_in(batch_size), torch.ones(len(self.images), dtype=torch.float64)
        if others:
            chances[self.own :] = others / (len(chances) - self.own) * self.own / (batch_size - others)
        return chances

    def batches(self, batch_size: int, seed: tuple[int, ...]) -> list[Tensor]:
        """The order of an epoch, a function of ``seed``: as `epoch_batches`, each mixed if there are other images."""
        count = self.others_in(batch_size)
        own = epoch_batches(self.own, batch_size - count, seed)
        if not count:
            return own
        generator = np.random.default_rng((*seed, 1))
        there, wanted = len(self.images) - self.own, count * len(own)
        rounds = [generator.permutation(there) for _ in range(wanted // there)]
        rest = generator.choice(there, wanted % there, replace=False)
        others = torch.from_numpy(np.concatenate([*rounds, rest]) + self.own).split(count)
        mixed = (torch.cat(pair) for pair in zip(own, others, strict=True))
        # In random places, so that every process has its share of both
        return [batch[torch.from_numpy(generator.permutation(len(batch)))] for batch in mixed]


def training_images(data: DataSplits, extra: ExtraConfig | None, memory_limit: float) -> TrainingImages:
    """The training images of a set, with those of ``data.extra`` if the configuration names some.

    Raises:
        UserError: the file cannot be read, or its images or labels are not like the set's own.
    """
    if extra is None:
        return TrainingImages(data.train, len(data.train))
    with located("data.extra.file"):
        file = ArrayFile(path_of(extra.file))
        others = renumbered(file.images(("train",), memory_limit), file.class_names(), data.class_names, "its")
        ((image, _),) = others.batches([torch.zeros(1, dtype=torch.int64)], "cpu")
        shapes = ["x".join(map(str, shape)) for shape in (image.shape[1:], data.input_shape)]
        if shapes[0] != shapes[1]:
            raise UserError(f"its images are {shapes[0]}, and those of the set are {shapes[1]}; give some of that size")
    digest = hashlib.sha256()
    digest_images(digest, others)
    mixed = MixedImages(data.train, others)
    return TrainingImages(mixed, len(data.train), extra.fraction, digest.hexdigest())


class MixedImages:
    """Two sets, read as one: the images of the second are numbered on."""

    def __init__(self, first: ImageSet, second: ImageSet) -> None:
        self.labels = torch.cat([first.labels, second.labels])
        self._parts = first, second

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> MixedImages:
        """The same with its parts on ``device``, where they fit."""
        first, second = (part.to(device) for part in self._parts)
        return MixedImages(first, second)

    def batches(
        self, batches_of_indices: Iterable[Tensor], device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the images in the given order; as `ImageSet.batches`."""
        orders, bound = list(batches_of_indices), len(self._parts[0])
        first = self._parts[0].batches([_one_or_more(o[o < bound]) for o in orders], device)
        second = self._parts[1].batches([_one_or_more(o[o >= bound] - bound) for o in orders], device)
        for order, one, other in zip(orders, first, second, strict=True):
            place = torch.cat([torch.where(order < bound)[0], torch.where(order >= bound)[0]]).argsort().to(device)
            counts = int((order < bound).sum()), int((order >= bound).sum())
            images, labels = (
                torch.cat([a[: counts[0]], b[: counts[1]]])[place] for a, b in zip(one, other, strict=True)
            )
            yield images, labels


def _one_or_more(indices: Tensor) -> Tensor:
    """A set gives no batch of no images; the one that stands in for it is dropped."""
    return indices if len(indices) else torch.zeros(1, dtype=torch.int64)
