"""Which widths the batch norms of a family's students have, and by which decisions they come about."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.nn.modules.batchnorm import _BatchNorm

from proard.supernet.architecture import Architecture
from proard.supernet.family import Family
from proard.supernet.space import SearchSpace


@dataclass
class NormWidths:
    """The widths of one batch norm.

    Attributes:
        full: channels in the largest student.
        parameters: names of its weight and bias.
        narrower: every other width, with sets of kinds of decision; students of that width exist where all kinds of one
            of its sets vary.
    """

    full: int
    parameters: tuple[str, ...]
    narrower: dict[int, set[frozenset[str]]] = field(default_factory=dict)


def batch_norm_widths(family: Family, space: SearchSpace) -> dict[str, NormWidths]:
    """The widths of every batch norm with parameters, by its name.

    What a width depends on is found by changing one decision of the largest student at a time; then all combinations of
    those decisions are looked at.

    Args:
        family: of the networks, whose structure alone is built.
        space: of the architectures.
    """
    decisions = {decision.name: decision for decision in space.decisions}
    largest = {name: decision.choices[-1] for name, decision in decisions.items()}
    known: dict[Architecture, dict[str, _BatchNorm]] = {}

    def norms(changes: Mapping[str, float]) -> dict[str, _BatchNorm]:
        architecture = space.canonical({**largest, **changes})
        if architecture not in known:
            modules = family.skeleton(family.plan(architecture)).named_modules()
            known[architecture] = {name: norm for name, norm in modules if isinstance(norm, _BatchNorm) and norm.affine}
        return known[architecture]

    found = {
        name: NormWidths(norm.num_features, tuple(f"{name}.{parameter}" for parameter, _ in norm.named_parameters()))
        for name, norm in norms({}).items()
    }
    deciding: dict[str, list[str]] = {name: [] for name in found}
    for decision in space.decisions:
        changed = [norms({decision.name: choice}) for choice in decision.distinct]
        for name, widths in found.items():
            if any(name in others and others[name].num_features != widths.full for others in changed):
                deciding[name].append(decision.name)
    for name, widths in found.items():
        for choices in itertools.product(*(decisions[decision].distinct for decision in deciding[name])):
            changes = dict(zip(deciding[name], choices, strict=True))
            norm = norms(changes).get(name)
            if norm is not None and norm.num_features < widths.full:
                kinds = frozenset(decisions[d].kind for d, choice in changes.items() if choice != largest[d])
                widths.narrower.setdefault(norm.num_features, set()).add(kinds)
    return found
