"""The parts of a configuration that are chosen by name (objectives, attacks, samplers ...), and the options of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import griffe

from proard.attacks import attacks
from proard.common.registry import Registry
from proard.data import data_sets
from proard.objectives import craftings, objectives
from proard.runs.trackers import trackers
from proard.samplers import samplers
from proard.supernet import families

REGISTRIES: dict[str, Registry[Any]] = {
    "set": data_sets,
    "objective": objectives,
    "attack": attacks,
    "sampler": samplers,
    "crafting": craftings,
    "family": families,
    "tracker": trackers,
}
# What is given by the run, and not by a user's options (see proard/runs/components.py).
GIVEN = {
    "set": {"config", "given", "known"},
    "objective": {"attack"},
    "attack": {"threat", "seed", "targeted"},
    "sampler": {"space", "seed", "steps_per_epoch", "steps"},
    "crafting": set(),
    "tracker": set(),
    "family": {"num_classes", "input_shape"},
}


@dataclass(frozen=True)
class Option:
    """One key beside ``name``: its type hint, its default, and what its docstring says."""

    name: str
    hint: Any
    default: Any
    text: str


def options(kind: str, name: str) -> list[Option]:
    """The options of a registered class, in the order of its constructor."""
    registry = REGISTRIES[kind]
    texts = described(registry.entry(name))
    return [
        Option(option, parameter.annotation, default(registry.entry(name), parameter), texts.get(option, ""))
        for option, parameter in registry.parameters(name).items()
        if option not in GIVEN[kind]
    ]


def default(entry: Any, parameter: inspect.Parameter) -> Any:
    """A parameter's default; a dataclass's may come from a factory."""
    if is_dataclass(entry):
        (field,) = [field for field in fields(entry) if field.name == parameter.name]
        if field.default_factory is not MISSING:
            return field.default_factory()
    return parameter.default


def described(entry: Any) -> dict[str, str]:
    """What the docstrings of a class and of those it inherits from, or of a function, say of their arguments."""
    texts: dict[str, str] = {}
    for base in reversed(inspect.getmro(entry)) if inspect.isclass(entry) else [entry]:
        for section in sections(base):
            if section.kind in (griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters):
                texts |= {item.name: " ".join(item.description.split()) for item in section.value}
    return texts


def summary(entry: Any) -> str:
    """The first sentence or formula of a class's docstring."""
    return " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())


def sections(entry: Any) -> Iterator[Any]:
    """The parsed sections of a class's own docstring, or a function's."""
    text = inspect.cleandoc((entry.__dict__.get("__doc__") if inspect.isclass(entry) else entry.__doc__) or "")
    yield from griffe.Docstring(text).parse("google", warnings=False)
