"""Pages link to what is there, and their configurations are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from proard.build import check_phases, training_attack
from proard.config import parse_config
from proard.supernet import build_supernet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """What headings of a page may be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_configuration_of_the_guide_to_speed_is_valid() -> None:
    text = (ROOT / "docs" / "guides" / "speed.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = parse_config({"data": {"name": "digits"}, **yaml.safe_load(written)})
    check_phases(config, build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8)).space)
    assert [training_attack(config, index).name for index in range(3)] == ["pgd10", "nfgsm", "pgd10"]
