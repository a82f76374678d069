"""What README.md and the pages of docs/ show is run, or it is listed here why not: see the package `documented`."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from documented import parsing, shapes, world
from documented.pages import PAGES, ROOT, Fault, blocks, mentioned
from documented.playing import Player
from documented.shortening import short_work

pytestmark = pytest.mark.documentation


class NotRun(NamedTuple):
    """What is not run. What can be told without running it, is: options, configurations, scripts, syntax.

    Attributes:
        page: relative to the repository; ``*`` stands for anything.
        part: of the command or block.
        reason: why.
    """

    page: str
    part: str
    reason: str


NOT_RUN = (
    NotRun("*", "bash scripts/", "CI runs it, in an environment that it makes"),
    NotRun("*", "pip install", "changes the environment of whoever runs the tests"),
    NotRun("*", "proard/\n  commands/", "the rooms of the house; tests/test_docs.py compares them with the folders"),
    NotRun("docs/results/*", "python scripts/", "took hours"),
    NotRun("docs/guides/judged_by_others.md", "torchattacks", "not in dev; tests/test_judged_by_others.py runs it"),
    NotRun("docs/guides/judged_by_others.md", "from art.", "not in dev; tests/test_judged_by_others.py runs it"),
    NotRun("docs/guides/judged_by_others.md", "robustbench", "not in dev; tests/test_judged_by_others.py runs it"),
    NotRun("docs/guides/diagnostics.md", "abs(L_S(x + d)", "a formula"),
    NotRun("docs/guides/your_device.md", "latency(student) =", "a formula"),
    NotRun("docs/guides/trackers.md", "mode=online", "uploads, and needs an account"),
    NotRun("docs/guides/formats.md", "--push hub:", "uploads; tests/test_hub.py does, to a server of its own"),
    NotRun("docs/guides/formats.md", "hub:me/", "downloads; tests/test_named.py does, from a server of its own"),
)
NOT_PARSED = ()  # commands in running text
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
WITH_BLOCKS = [name for page, name in zip(PAGES, NAMES, strict=True) if blocks(page)]


def reason(page: str, text: str, table: tuple[NotRun, ...] = NOT_RUN) -> str | None:
    """Why a text on a page is not run; None if it is."""
    return next((entry.reason for entry in table if fnmatch(page, entry.page) and entry.part in text), None)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A world for all pages, not to be changed, and what was printed while it was made."""
    folder = tmp_path_factory.mktemp("documented") / "world"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, short_work():
        patch.chdir(folder)
        return folder, world.build(folder)


@pytest.fixture
def player(template: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Player]:
    """A reader in a world of its own."""
    folder = tmp_path / "reader"
    shutil.copytree(template[0], folder, symlinks=True)  # with the age of every file
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # where matplotlib keeps its list of fonts
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PROARD_DATA", raising=False)
    with short_work():
        yield Player(folder, template[1], lambda text: None)
    for module in [module for module, loaded in sys.modules.items() if _lies_in(loaded, folder)]:
        del sys.modules[module]  # so that a page may call its own by the same name


def _lies_in(module: object, folder: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(folder)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_of_a_page_do_what_they_show(name: str, player: Player) -> None:
    player.not_run = lambda text: reason(name, text)
    faults = [fault for block in blocks(ROOT / name) for fault in player.play(block)]
    if faults:
        pytest.fail("\n\n".join(faults), pytrace=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_in_the_text_of_a_page_are_commands(name: str) -> None:
    commands, faults = mentioned(ROOT / name), []
    scripts = sorted({script for command in commands for script in re.findall(r"\bscripts/\w+\.py\b", command.text)})
    for command in commands:
        if reason(name, command.text, NOT_PARSED):
            continue
        try:
            parsing.check(command.text, mention=not command.complete, scripts=scripts)
        except Fault as fault:
            faults.append(f"{command.place}: {fault}")
    if faults:
        pytest.fail("\n\n".join(faults), pytrace=False)


@pytest.mark.parametrize("name", NAMES)
def test_extras_that_are_named_exist(name: str) -> None:
    named = parsing.extras((ROOT / name).read_text(encoding="utf-8"))
    assert {extra for together in named for extra in together} <= parsing.project_extras()


@pytest.mark.parametrize("entry", [*NOT_RUN, *NOT_PARSED], ids=lambda entry: f"{entry.page}: {entry.part}")
def test_an_exception_is_still_needed(entry: NotRun) -> None:
    pages = [page for page, name in zip(PAGES, NAMES, strict=True) if fnmatch(name, entry.page)]
    if entry in NOT_PARSED:
        assert any(entry.part in command.text for page in pages for command in mentioned(page))
    else:
        assert any(entry.part in block.text for page in pages for block in blocks(page))


@pytest.mark.parametrize(
    "text",
    [
        "proard extarct",
        "proard extract --flopz 1M",
        "proard extract --flops 1 MB",
        "proard evaluate DIR --attack pdg20",
        "proard train --config cifar11",
        "proard train --config cifar10.yaml --set phases.1.epoch=2",
        "torchrun --nproc=2 -m proard train --config X",
        "torchrun --nproc-per-node=2 -m -- proard trian",
        "python scripts/bench_step.py --steeps 3",
        "python scripts/no_such.py",
        "bash scripts/no_such.sh",
        "proard report && proard report --run",
        "--set phases.1.epoch=2",
        "--frobnicate",
        "unknown program",
    ],
)
def test_a_wrong_command_is_a_fault(text: str) -> None:
    with pytest.raises(Fault):
        parsing.check(text)


@pytest.mark.parametrize(
    ("shown", "right"),
    [
        ("flops-2M  467K  98.9 (97.2-99.6)  359", True),
        ("flops-2M  ...  359", True),
        ("flops-2M  467K  98.9 (97.2-99.6)", False),
        ("params-2M  467K  98.9 (97.2-99.6)  359", False),
    ],
)
def test_numbers_are_free_in_a_shape(shown: str, right: bool) -> None:
    printed = "student  multiply-adds\nflops-500K   1.19M  8.1 (0.2-9)   20\n"
    with nullcontext() if right else pytest.raises(Fault):
        shapes.check_lines([shown], printed)


def test_nothing_is_done_where_a_command_is_only_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for option in ("--install-completion", "--version", "--help", "configs --schema > schema.json"):
        parsing.check(f"proard {option}")
    assert not list(tmp_path.iterdir())
