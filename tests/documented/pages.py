"""The pages of the documentation, taken apart into blocks and commands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READER = MarkdownIt("commonmark").enable("table")
MENTIONED = re.compile(r"(proard|python|bash|torchrun|pip) |--[a-z]")
SUFFIXES = {"python": ".py", "yaml": ".yaml", "bash": ".sh", "json": ".json"}
SAVED_AS = re.compile(r"\bsave (?:it|this|them) as `([\w./-]+)`")


class Fault(Exception):
    """What a page shows does not hold; the message says what, the place is added by who knows it."""


@dataclass(frozen=True)
class Place:
    """A line of a page.

    Attributes:
        page: relative to the repository.
        line: counted from 1.
    """

    page: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        place: of its first line; in running text, of the paragraph.
        text: as a shell takes it.
        shown: lines that the page says it prints; empty if it shows none.
        complete: False in running text, where a command may be named with some of its options alone.
    """

    place: Place
    text: str
    shown: tuple[tuple[Place, str], ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        place: of its first line of code.
        language: the first word after the fence; empty if there is none.
        text: the code.
        saved_as: the file that the text just before tells the reader to save it as.
    """

    place: Place
    language: str
    text: str
    saved_as: str | None = None

    def commands(self) -> list[Command]:
        """Of a ``console`` block: lines that begin with ``$ ``, and those a backslash joins to them."""
        found: list[Command] = []
        joined = False
        for number, line in enumerate(self.text.splitlines()):
            place = Place(self.place.page, self.place.line + number)
            if joined:
                found[-1] = Command(found[-1].place, f"{found[-1].text}\n{line}")
            elif line.startswith("$ "):
                found.append(Command(place, line.removeprefix("$ ")))
            elif not found:
                raise Fault(f"a console block begins with '$ ' and a command, not with '{line}'")
            else:
                found[-1] = Command(found[-1].place, found[-1].text, (*found[-1].shown, (place, line)))
                continue
            joined = line.endswith("\\")
        return found


def blocks(page: Path) -> list[Block]:
    """All blocks of code of a page, in order."""
    name = page.relative_to(ROOT).as_posix()
    return list(_blocks(page.read_text(encoding="utf-8"), name, 1))


def mentioned(page: Path) -> list[Command]:
    """Commands in running text: code that begins with a program and a space, or with an option; by paragraph."""
    name = page.relative_to(ROOT).as_posix()
    found = []
    for token in READER.parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and MENTIONED.match(child.content):
                assert token.map is not None
                recorded = token.content.startswith(f"Command: `{child.content}`")  # of a result: as it was called
                found.append(Command(Place(name, token.map[0] + 1), child.content, complete=recorded))
    return found


def _blocks(text: str, page: str, first_line: int) -> Iterator[Block]:
    before = ""
    for token in READER.parse(text):
        if token.type == "inline":
            before = token.content
        elif token.type == "fence":
            yield _fence(token, page, first_line, before)
            before = ""
        elif token.type == "code_block":
            assert token.map is not None
            inner, line = textwrap.dedent(token.content), first_line + token.map[0]
            if re.search(r"^(```|~~~)", inner, re.MULTILINE):  # the body of an admonition, or of a tab
                yield from _blocks(inner, page, line)
            else:
                yield Block(Place(page, line), "", inner)


def _fence(token: Token, page: str, first_line: int, before: str) -> Block:
    assert token.map is not None
    language = (token.info.split() or [""])[0]
    named = SAVED_AS.search(" ".join(before.split()))
    saved_as = named[1] if named and Path(named[1]).suffix == SUFFIXES.get(language) else None
    return Block(Place(page, first_line + token.map[0] + 1), language, token.content, saved_as)
