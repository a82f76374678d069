"""The site: it builds without a warning, all of its links lead somewhere, and it uses nothing from elsewhere."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.documentation
ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"^(\w+:|//)")
HYPERLINKS = ("http://", "https://", "mailto:")


@dataclass
class Page(HTMLParser):
    """What a page links to, fetches, and can be linked by."""

    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.links += [values["href"]] if "href" in values else []
        else:
            self.fetched += [values[name] for name in ("src", "href", "xlink:href", "data", "poster") if name in values]
            self.fetched += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    configuration = ROOT / "scripts" / "site" / "mkdocs.yml"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(configuration), "-d", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """All pages by their place in the site; that of a wrong address apart, whose links begin at the root."""
    found = {}
    for path in site.rglob("*.html"):
        if path.name == "404.html":
            continue
        page = found[path.relative_to(site).as_posix()] = Page()
        page.feed(path.read_text(encoding="utf-8"))
    return found


def target(page: str, link: str) -> tuple[str, str]:
    """Where a relative link leads: the file, and the anchor."""
    name, _, anchor = link.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(name))) if name else page
    return file, unquote(anchor)


def test_every_link_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    broken = []
    for name, page in pages.items():
        for link in {*page.links, *page.fetched}:
            if OUTSIDE.match(link):
                continue
            file, anchor = target(name, link)
            if not (site / file).is_file() or (anchor and file in pages and anchor not in pages[file].ids):
                broken.append(f"{name}: {link}")
    assert len(pages) > 50
    assert not broken, "\n".join(sorted(broken))


def test_every_page_can_be_reached(pages: dict[str, Page]) -> None:
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name not in reached and name in pages:
            reached.add(name)
            waiting += [target(name, link)[0] for link in pages[name].links if not OUTSIDE.match(link)]
    assert reached == set(pages)


def test_nothing_comes_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        # A picture that is written into the page is no address.
        addresses = [address for address in page.fetched if not address.startswith("data:image/")]
        assert not [address for address in addresses if OUTSIDE.match(address)], name
        assert all(link.startswith(HYPERLINKS) for link in page.links if OUTSIDE.match(link)), name
        assert 'class="mermaid"' not in (site / name).read_text(encoding="utf-8"), name  # its script would be fetched
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_references_are_in_the_site(pages: dict[str, Page]) -> None:
    assert "whole number, at least 1" in pages["reference/configuration.html"].text
    assert {"objective-kdiga", "data-augmentation", "attack-pgd"} <= pages["reference/configuration.html"].ids
    assert "proard extract [OPTIONS]" in pages["reference/commands.html"].text
    assert "proard.supernet.supernet.Supernet.accumulate" in pages["reference/python/supernet.html"].ids
    assert "class VisionTransformer" in pages["source/proard/supernet/families/vit.py.html"].text


def test_pictures_are_in_the_pages(site: Path) -> None:
    text = (site / "concepts.html").read_text(encoding="utf-8")
    names = re.findall(r'<title id="(\w+)-title">', text)
    assert names == ["slicing", "threat", "distillation", "step", "phases", "front"]
    assert not re.search(r"<img[^>]+\.svg", text.split("<article")[1])
