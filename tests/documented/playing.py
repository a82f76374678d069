"""Runs the blocks of one page, in order, as a reader would."""

from __future__ import annotations

import glob
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml

from documented import parsing, shapes, world
from documented.pages import ROOT, Block, Command, Fault
from documented.world import captured
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.config import Config, SupernetConfig, packaged_configs, parse_config
from proard.runs.components import supernet_for
from proard.supernet import build_supernet
from proard.training.phases import build_phases

SHELL = re.compile(r"[|&;<>`$]|^\w+=")  # only a shell understands these
PROCESSES = re.compile(r"(--nproc[-_]per[-_]node[ =])\d+")
MOST_PROCESSES = "2"
TIME_OUT = 300  # seconds
SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28)}  # others: three channels, 32 pixels
BIN = Path(__file__).parent / "bin"


class Player:
    """One page's reader: a folder, which is the working directory, a Python session, and what was printed so far.

    Args:
        folder: where commands run.
        printed: by commands before the page.
        not_run: the reason why a text (of a command, or of a block) is not run; None if it is.
    """

    def __init__(self, folder: Path, printed: Sequence[str], not_run: Callable[[str], str | None]) -> None:
        self.folder, self.printed, self.not_run = folder, list(printed), not_run
        self.names: dict[str, Any] = {}
        self.configuration: str | None = None
        self.exit_code = 0

    def play(self, block: Block) -> list[str]:
        """Hold one block to what its language promises; the faults, each with its page and line."""
        if block.language == "console":
            try:
                commands = block.commands()
            except Fault as fault:
                return [f"{block.place}: {fault}"]
            return [fault for c in commands for fault in _faults(c.place, partial(self._command, c))]
        kinds = {
            "python": self._python,
            "yaml": self._yaml,
            "json": self._json,
            "text": self._text,
            "bash": self._bash,
        }
        if block.language not in kinds:
            if self.not_run(block.text):
                return []
            what = f"a block of '{block.language}'" if block.language else "a block without a language"
            return [f"{block.place}: {what}: nothing checks it; fence it as {', '.join(['console', *kinds])}"]
        return _faults(block.place, partial(kinds[block.language], block))

    # -----------------------------------------------------------------------------------------------------------------
    # Commands

    def _command(self, command: Command) -> None:
        if self.not_run(command.text):
            parsing.check(command.text)
            return
        self._write_configuration(command.text)
        text = PROCESSES.sub(rf"\g<1>{MOST_PROCESSES}", command.text)
        code, printed = self._run(text)
        self.exit_code = code
        self.printed.append(printed)
        shown = [line for _, line in command.shown]
        expected = 2 if any(line.startswith("proard: ") for line in shown) else 0
        if code != expected:
            raise Fault(f"$ {command.text}\nleft with exit code {code}, not {expected}:\n{_end(printed)}")
        for place, line in command.shown:
            shapes.check_lines([line], printed, f"$ {command.text}\n{place} ")

    def _write_configuration(self, text: str) -> None:
        """The file that --config names is the nearest block of YAML before, unless there is one of that name."""
        for name in re.findall(r"--config[ =](\S+)", text):
            if self.configuration is None or Path(name).exists() or name in packaged_configs():
                continue
            values = {**world.BASE, **yaml.safe_load(self.configuration)}
            Path(name).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def _run(self, text: str) -> tuple[int, str]:
        """Exit code, and what was printed; in this process, unless it takes a shell or other programs."""
        words = [] if SHELL.search(text.split(" #")[0]) else shlex.split(text.replace("\\\n", " "), comments=True)
        words = [path for word in words for path in (sorted(glob.glob(word)) or [word])]
        if words[:1] == ["proard"]:
            return captured(lambda: main(words[1:]))
        if words[:1] == ["python"] and len(words) > 1 and words[1].startswith("scripts/"):
            return captured(lambda: _run_script(words[1:]))
        path = os.pathsep.join([str(BIN), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", f"(exit {self.exit_code})\n{text}"],
            env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(BIN), str(ROOT)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_OUT,
        )
        return done.returncode, done.stdout

    # -----------------------------------------------------------------------------------------------------------------
    # Other blocks

    def _python(self, block: Block) -> None:
        if self.not_run(block.text):
            compile(block.text, str(block.place), "exec")
            return
        if not self.names:
            self.names = world.names()
        if block.saved_as is not None:
            Path(block.saved_as).write_text(block.text, encoding="utf-8")
            importlib.import_module(Path(block.saved_as).stem)
            return
        padded = "\n" * (block.place.line - 1) + block.text  # so that a traceback has the line of the page
        code, printed = captured(lambda: exec(compile(padded, block.place.page, "exec"), self.names))
        self.printed.append(printed)
        if code:
            raise Fault(f"left with exit code {code}")

    def _yaml(self, block: Block) -> None:
        if self.not_run(block.text):
            yaml.safe_load(block.text)
            return
        values = yaml.safe_load(block.text)
        if not isinstance(values, dict):
            raise Fault("not a configuration: keys and values are expected")
        if block.saved_as is not None:
            Path(block.saved_as).write_text(block.text, encoding="utf-8")
        if "family" in values:  # a section `supernet:`
            build_section(values, block.text)
            return
        self.configuration = block.text
        build_configuration(parse_config({**world.BASE, **values}, str(block.place)))

    def _json(self, block: Block) -> None:
        shapes.check_json(block.text, self.folder)

    def _text(self, block: Block) -> None:
        """Some command of the page printed it, or of the quickstart."""
        if self.not_run(block.text):
            return
        lines = block.text.splitlines()
        for printed in self.printed:
            with suppress(Fault):
                shapes.check_lines(lines, printed)
                return
        shapes.check_lines(lines, self.printed[-1])

    def _bash(self, block: Block) -> None:
        parsing.check_script(block.text)


def build_section(values: dict[str, Any], text: str) -> None:
    """Build the supernet of a section ``supernet:``; a comment such as ``at 3x224x224`` says for which images."""
    said = re.search(r"\bat (\d+)x(\d+)x(\d+)\b", text)
    shape = tuple(map(int, said.groups())) if said else (3, 32, 32)
    config = SupernetConfig.model_validate(values)
    build_supernet(config.family, num_classes=10, input_shape=shape, **config.options)


def build_configuration(config: Config) -> None:
    """Build the network, objectives, samplers and attacks of a configuration, for images of its shape."""
    shape = SHAPES.get(config.data.name, (3, config.data.image_size or 32, config.data.image_size or 32))
    data: Any = SimpleNamespace(num_classes=10, input_shape=shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
    build_phases(config, supernet_for(config, data).space)


def _faults(place: Any, check: Callable[[], None]) -> list[str]:
    try:
        check()
    except Fault as fault:
        return [f"{place}: {fault}"]
    except UserError as error:
        return [f"{place}: {error}"]
    except Exception as error:
        return [f"{place}: {type(error).__name__}: {error}{_line_of(error, place.page)}"]
    return []


def _line_of(error: BaseException, page: str) -> str:
    """Where in a page's Python it happened."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == page:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" (at {page}:{lines[-1]})" if lines else ""


def _run_script(words: Sequence[str]) -> None:
    folder = str(ROOT / "scripts")
    with mock.patch.object(sys, "argv", list(words)), mock.patch.object(sys, "path", [folder, *sys.path]):
        runpy.run_path(words[0], run_name="__main__")


def _end(printed: str) -> str:
    return "\n".join(printed.rstrip().splitlines()[-8:])
