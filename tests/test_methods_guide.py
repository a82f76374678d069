"""The guide to the methods names every one of them, and its configuration is one."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from proard.attacks import attacks
from proard.config import parse_config
from proard.objectives import IGDM, AdaAD, objectives
from proard.supernet import build_supernet
from proard.training.phases import build_phases

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "methods.md").read_text(encoding="utf-8")


def named(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    table = GUIDE.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }


def test_every_objective_and_attack_is_named() -> None:
    assert named("objective") == set(objectives.names())
    assert named("attack") == set(attacks.names())


def test_the_configuration() -> None:
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])
    config = parse_config({**values, "data": {"name": "digits"}})
    net = build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 16], blocks=[1, 1])
    build_phases(config, net.space)
    component = config.phases[1].objective
    objective = objectives.build(component.name, component.options)
    assert isinstance(objective, IGDM)
    assert objective.base == AdaAD(adversarial_weight=5 / 6)
