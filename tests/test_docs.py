"""Pages link to what is there, and are found in the navigation; test_site.py builds the site itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import proard
from proard.config import parse_config
from proard.supernet import build_supernet
from proard.training.phases import build_phases, training_attack

ROOT = Path(__file__).parent.parent
SITE = ROOT / "scripts" / "site"
AT_HOME = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*AT_HOME, *sorted((ROOT / "docs").rglob("*.md"))]


def generated(text: str) -> str:
    """A page with the references that the site puts into it; see scripts/site/hooks.py."""
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    import commands
    import configuration

    for name, module in {"configuration": configuration, "commands": commands}.items():
        if (marker := f"<!-- generated: {name} -->") in text:
            text = text.replace(marker, module.page())
    return text


def anchors(page: Path) -> set[str]:
    """What headings of a page may be linked by."""
    headings = re.findall(r"^#+ (.*)$", generated(page.read_text(encoding="utf-8")), re.MULTILINE)
    named = {name for heading in headings for name in re.findall(r"\{#([\w-]+)\}$", heading)}
    return named | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
    build_phases(config, build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8)).space)
    assert [training_attack(config, index).name for index in range(3)] == ["pgd10", "nfgsm", "pgd5"]


def test_the_rooms_are_those_of_the_house() -> None:
    trees = [re.findall(r"```text\n(proard/\n.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in AT_HOME]
    assert trees[0] == trees[1] != []
    rooms = {path.parent.name for path in (ROOT / "proard").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", trees[0][0], re.MULTILINE)) == rooms


def in_nav(entry: Any) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from in_nav(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = sorted(in_nav(yaml.safe_load((SITE / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    pages += [path.relative_to(docs).with_suffix(".md").as_posix() for path in docs.rglob("*.ipynb")]
    from_the_root = ["changelog.md", "contributing.md"]  # see scripts/site/hooks.py
    assert listed == sorted([*pages, *from_the_root])


def test_pictures_are_as_drawn(tmp_path: Path) -> None:
    generated("")
    from pictures import FOLDER, PICTURES

    drawn = {f"{picture.name}.svg": picture.svg() for picture in (draw() for draw in PICTURES)}
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == drawn
    shown = re.findall(r"\]\(pictures/(\S+)\)", "".join(page.read_text(encoding="utf-8") for page in PAGES))
    assert set(shown) == set(drawn)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == proard.__version__
    assert {reference["url"] for reference in citation["references"]} == {
        "https://arxiv.org/abs/2506.07666",
        "https://arxiv.org/abs/2110.12072",
    }
