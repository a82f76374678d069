"""Private copies: tensors that groups of students have each for themselves, where all students share the others.

Students that share every weight pull it in different directions. Two small parts of a network may be kept apart: the
classifier, one for each bin of multiply-adds (SOLAR, arXiv 2509.16833), and the weight and bias of every batch norm, a
pair for each width (slimmable networks, arXiv 1812.08928, keep whole batch norms apart).

The students of the highest key (the last bin, the full width) use the shared tensor itself. A copy begins as a slice of
the shared tensor when students that use it first train; until then they are cut from the shared tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

import torch
from torch import nn

from proard.common.errors import UserError
from proard.supernet.architecture import Architecture
from proard.supernet.cost_bins import CostBins
from proard.supernet.family import Family
from proard.supernet.space import SearchSpace
from proard.supernet.widths import batch_norm_widths

BatchNorms = Literal["shared", "per_width"]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Copy:
    """One private copy.

    Attributes:
        name: of the shared tensor.
        key: which students use the copy: a bin of multiply-adds, or a width.
        size: leading entries of the shared tensor that the copy has.
        ways: sets of kinds of decision; students with this key exist where all kinds of one of the sets vary.
    """

    name: str
    key: int
    size: int
    ways: frozenset[frozenset[str]]

    @property
    def parameter(self) -> str:
        """The copy's own name; names of parameters cannot hold dots."""
        return f"{self.name}/{self.key}".replace(".", "/")


class CopySet(nn.Module):
    """Parameters that stand for shared tensors in some of the students.

    Args:
        shared: the supernet's tensors.
        copies: which of them have copies, and for whom.
        shared_keys: of each tensor, the key whose students use the shared one.
    """

    begun: torch.Tensor

    def __init__(self, shared: Tensors, copies: Iterable[Copy], shared_keys: Mapping[str, int]) -> None:
        super().__init__()
        self._copies = {(copy.name, copy.key): copy for copy in copies}
        self._shared_keys = dict(shared_keys)
        for copy in self._copies.values():
            tensor = shared[copy.name].detach()[: copy.size].clone()
            self.register_parameter(copy.parameter, nn.Parameter(tensor))
        self.register_buffer("begun", torch.zeros(len(self._copies), dtype=torch.bool))
        self._in_use: set[tuple[str, int]] = set()  # what ``begun`` says, without waiting for a device

    def find(self, name: str, key: int) -> nn.Parameter | None:
        """The copy of a tensor for the students of a key; None if they use the shared one.

        Raises:
            RuntimeError: a key whose students nobody foresaw.
        """
        if self._shared_keys.get(name, key) == key:
            return None
        if (name, key) in self._in_use:
            return self.get_parameter(self._copies[name, key].parameter)
        if (name, key) not in self._copies:
            raise RuntimeError(f"{name} has no private copy for {key}: no change of decisions showed that it is needed")
        return None

    def begin(self, shared: Tensors, kinds: Collection[str]) -> None:
        """Copies that students use from now on become slices of the shared tensors; those in use stay as they are.

        Args:
            shared: the supernet's tensors.
            kinds: kinds of decision that vary from now on.
        """
        with torch.no_grad():
            for index, (key, copy) in enumerate(self._copies.items()):
                if key not in self._in_use and any(way <= set(kinds) for way in copy.ways):
                    self.get_parameter(copy.parameter).copy_(shared[copy.name][: copy.size])
                    self.begun[index] = True
                    self._in_use.add(key)

    def reorder(self, name: str, dimension: int, order: torch.Tensor) -> None:
        """Follow the shared tensor, whose entries along a dimension change places.

        A copy with fewer entries has other channels from now on, so it has to begin again.
        """
        with torch.no_grad():
            for index, (key, copy) in enumerate(self._copies.items()):
                if copy.name != name:
                    continue
                parameter = self.get_parameter(copy.parameter)
                if parameter.shape[dimension] == len(order):
                    parameter.copy_(parameter.index_select(dimension, order))
                else:
                    self.begun[index] = False
                    self._in_use.discard(key)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._in_use = {key for key, begun in zip(self._copies, self.begun.tolist(), strict=True) if begun}


class PrivateCopies(nn.ModuleDict):
    """All private copies of a supernet: none, those of the ``classifiers``, those of the ``batch_norms``, or both.

    Args:
        family: of the supernet.
        space: of the supernet; one of a single architecture has nothing to keep apart.
        classifiers: number of classifiers, each for one of as many `CostBins`.
        batch_norms: whether all widths of a batch norm share its weight and bias, or have them ``per_width``.
        shared: the supernet's tensors.

    Raises:
        UserError: classifiers or batch_norms out of range, or not there in this family.
    """

    def __init__(
        self, family: Family, space: SearchSpace, classifiers: int, batch_norms: BatchNorms, shared: Tensors
    ) -> None:
        super().__init__()
        if isinstance(classifiers, bool) or not isinstance(classifiers, int) or classifiers < 1:
            raise UserError(f"classifiers must be a whole number of at least 1, got {classifiers!r}")
        if batch_norms not in get_args(BatchNorms):
            raise UserError(f"batch_norms must be shared or per_width, got {batch_norms!r}")
        self._bins = CostBins(space, classifiers) if classifiers > 1 and space.size > 1 else ()
        self._bin_of: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # of students that have been cut
        if len(self._bins) > 1:
            self["classifiers"] = _classifiers(family, space, len(self._bins) - 1, shared)
        if batch_norms == "per_width" and space.size > 1:
            self["batch_norms"] = _batch_norms(family, space, shared)

    def bin(self, architecture: Architecture) -> int:
        """Whose classifier the students of an architecture have; 0 where there is one for all."""
        return self._bins.index(architecture) if isinstance(self._bins, CostBins) else 0

    def remember(self, student: nn.Module, cost_bin: int) -> None:
        """Note the bin of a student that has been cut."""
        if "classifiers" in self:
            self._bin_of[student] = cost_bin

    def recall(self, student: nn.Module) -> int:
        """The bin that was noted.

        Raises:
            ValueError: none was, and it matters.
        """
        if "classifiers" in self and student not in self._bin_of:
            raise ValueError("which classifier a student has is known only of modules that supernet.student returned")
        return self._bin_of.get(student, 0)

    def find(self, name: str, shape: torch.Size, cost_bin: int) -> nn.Parameter | None:
        """The copy that a student's tensor is cut from; None if it is the shared tensor.

        Args:
            name: of the tensor.
            shape: that it has in the student.
            cost_bin: of the student.
        """
        for kind, copies in self.items():
            key = cost_bin if kind == "classifiers" else next(iter(shape), 0)
            if (copy := cast(CopySet, copies).find(name, key)) is not None:
                return copy
        return None

    def begin(self, shared: Tensors, kinds: Collection[str]) -> None:
        """See `CopySet.begin`."""
        for copies in self.values():
            cast(CopySet, copies).begin(shared, kinds)

    def reorder(self, name: str, dimension: int, order: torch.Tensor) -> None:
        """See `CopySet.reorder`."""
        for copies in self.values():
            cast(CopySet, copies).reorder(name, dimension, order)


def _classifiers(family: Family, space: SearchSpace, copies: int, shared: Tensors) -> CopySet:
    """A classifier for every bin but the last, which has the shared one."""
    names = family.classifier_names()
    if not names or not set(names) <= shared.keys():
        problem = f"has no parameters {sorted(set(names) - shared.keys())}" if names else "names no classifier"
        raise UserError(
            f"classifiers: {type(family).__name__} {problem}; its classifier_names() must name the "
            "parameters of its classifier"
        )
    ways = frozenset(frozenset({kind}) for kind in space.kinds)  # students become cheaper by any kind
    found = [Copy(name, key, len(shared[name]), ways) for key in range(copies) for name in names]
    return CopySet(shared, found, dict.fromkeys(names, copies))


def _batch_norms(family: Family, space: SearchSpace, shared: Tensors) -> CopySet:
    """Weight and bias of every batch norm for every width but the full one, which has the shared ones."""
    norms = batch_norm_widths(family, space).values()
    if not norms:
        raise UserError(f"batch_norms: the networks of {type(family).__name__} have no batch norm; leave it at shared")
    copies = [
        Copy(name, width, width, frozenset(ways))
        for norm in norms
        for width, ways in sorted(norm.narrower.items())
        for name in norm.parameters
    ]
    return CopySet(shared, copies, {name: norm.full for norm in norms for name in norm.parameters})
