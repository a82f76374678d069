"""The guide to the families: its YAML builds, and costs what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proard.common.units import short
from proard.supernet import Supernet, build_supernet

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "families.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n# ([^\n]*) at (\d+)x(\d+)x(\d+)\n(.*?)```", GUIDE, re.DOTALL)
ROWS = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", GUIDE, re.MULTILINE)


def costs(net: Supernet) -> list[str]:
    """Multiply-adds and parameters, smallest and largest."""
    ends = [net.space.cost(architecture) for architecture in (net.space.smallest(), net.space.largest())]
    return [short(cost.multiply_adds) for cost in ends] + [short(cost.parameters) for cost in ends]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{index}" for index in range(len(BLOCKS))])
def test_a_block(block: tuple[str, ...]) -> None:
    said, *shape, text = block
    options: dict[str, Any] = yaml.safe_load(text)
    net = build_supernet(options.pop("family"), num_classes=10, input_shape=[int(n) for n in shape], **options)
    assert re.findall(r"[\d.]+[KMG]", said) == costs(net)


@pytest.mark.parametrize(("family", "said"), ROWS, ids=[family for family, _ in ROWS])
def test_a_default_space(family: str, said: str) -> None:
    net = build_supernet(family, num_classes=10, input_shape=(3, 32, 32))
    assert re.findall(r"[\d.]+[KMG]", said) == costs(net)


def test_the_guide_is_complete() -> None:
    assert GUIDE.count("```yaml") == len(BLOCKS) == 6
    assert {family for family, _ in ROWS} == {"resnet", "resnet50", "mobilenetv3", "proxyless", "mobilenetv2", "vit"}
