"""Commands that are not run: everything that can be told without running them is checked by the real parsers."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from documented.pages import ROOT, Fault
from proard.attacks import ThreatModel
from proard.attacks.presets import UNION, named_attack
from proard.commands.cli import app
from proard.common.errors import UserError
from proard.config import load_config, packaged_configs
from proard.supernet.budgets import KINDS, Budget

PLACEHOLDER = re.compile(r"[A-Z_]+|.*\.\.\..*")  # of a value: FILE, N, path/...
ANY_CONFIGURATION = "quickstart.yaml"  # where a command names one that is not packaged
PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # of this environment first


class _OrPlaceholder(tuple[Any, ...]):
    """Choices of which running text may take any: ``--families FAMILY``."""

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or PLACEHOLDER.fullmatch(str(value)) is not None


class Parsed(Exception):
    """Raised in the place of the work, with the values of the options."""


def check(command: str, mention: bool = False, scripts: Sequence[str] = ()) -> None:
    """Parse a command line, without running anything.

    Args:
        command: as a shell takes it; `&&`, `|` and the like separate commands.
        mention: it is in running text, where arguments that must be given may be left out, as in ``proard extract``,
            and where options may stand by themselves.
        scripts: to which such options may belong, if not to a command of proard.

    Raises:
        Fault: an unknown program, script, option, configuration, key, attack or budget.
    """
    try:
        for words in _simple_commands(command):
            if words[0].startswith("--"):
                _check_options(words, scripts)
            else:
                _check_words(words, mention)
    except UserError as error:
        raise Fault(f"'{command}': {error}") from None


def check_script(text: str) -> None:
    """A shell script: its syntax, and the commands of proard in it.

    Raises:
        Fault: see `check`.
    """
    _check_syntax("-c", text)
    joined = re.sub(r"(^|\s)#.*", "", text).replace("\\\n", " ")
    for found in re.findall(r"(?:torchrun [^\n]*?-m (?:-- )?)?\bproard [a-z][^\n|;&)]*", joined):
        check(found.split("$(")[0])


def extras(text: str) -> list[list[str]]:
    """The extras that a text asks pip for at once: ``proard[report,onnx]``, ``-e '.[dev]'``."""
    return [names.split(",") for names in re.findall(r"(?:\bproard|['\" ]\.)\[([\w,-]+)\]", text)]


def project_extras() -> set[str]:
    """The extras that pyproject.toml defines."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]  # tomllib needs Python 3.11
    return set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))


def _simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each command; redirections, variables before it, and comments left out."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if redirected or set(word) <= set("<>"):
            redirected = not redirected
            continue
        if not set(word) <= set(";&|()"):
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


def _check_words(words: Sequence[str], mention: bool) -> None:
    program, *rest = words
    if program == "proard":
        _check_proard(rest, mention)
    elif program == "torchrun":
        _check_torchrun(rest, mention)
    elif program == "python" and rest[:1] and rest[0].endswith(".py"):
        _check_python_script(rest[0], rest[1:], mention)
    elif program == "python" and rest[:2] == ["-m", "proard"]:
        _check_proard(rest[2:], mention)
    elif program == "bash" and rest[:1] and rest[0].endswith(".sh"):
        _check_exists(rest[0])
        _check_syntax(str(ROOT / rest[0]))
    elif program == "pip" and rest[:1] == ["install"]:
        pass  # extras are checked wherever they are named
    elif mention or shutil.which(program, path=PROGRAMS) is None:
        raise Fault(f"'{shlex.join(words)}': nothing is known about '{program}' that could be checked")


def _check_exists(script: str) -> None:
    if not (ROOT / script).is_file():
        raise Fault(f"there is no {script}")


def _check_syntax(*script: str) -> None:
    done = subprocess.run(["bash", "-n", *script], capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"not valid bash: {done.stderr.strip()}")


def _check_options(words: Sequence[str], scripts: Sequence[str]) -> None:
    """Options by themselves: some command must take them all."""
    takers = [partial(_check_proard, [name, *words], mention=True) for name in _group().commands]
    takers += [partial(_check_python_script, script, words, mention=True) for script in scripts]
    refusals = [refusal for refusal in map(_refusal, takers) if refusal is not None]
    if len(refusals) == len(takers):
        likely = [refusal for refusal in refusals if "No such option" not in refusal and "unrecognized" not in refusal]
        raise Fault((likely or [f"no command of proard takes '{shlex.join(words)}'"])[0])


def _refusal(take: Callable[[], None]) -> str | None:
    try:
        take()
    except (Fault, UserError) as refusal:
        return str(refusal)
    return None


@cache
def _group() -> Any:
    """The command line, with commands and options that raise what they were called with, in place of doing it."""
    group: Any = typer.main.get_command(app)

    def instead(**values: Any) -> None:
        raise Parsed(values)

    def instead_of_option(context: Any, parameter: Any, value: Any) -> Any:
        if value:
            raise Parsed({})
        return value

    for command in group.commands.values():
        command.callback = instead
    for parameter in group.params:  # --version, --install-completion
        parameter.callback = instead_of_option
    return group


def _check_proard(words: Sequence[str], mention: bool) -> None:
    words = [word for word in words if word != "..."]  # further arguments
    try:
        _group()(args=list(words) or ["--help"], prog_name="proard", standalone_mode=False)
    except Parsed as parsed:
        _check_values(parsed.args[0])
    except Exception as error:  # typer has its own copies of click's errors
        if mention and type(error).__name__ in ("MissingParameter", "BadOptionUsage"):  # no argument, or no value
            return
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        raise Fault(f"'proard {shlex.join(words)}': {message}") from None


def _check_values(values: dict[str, Any]) -> None:
    """What the options of a command name: configurations and their keys, attacks, budgets."""
    config, overrides = values.get("config"), values.get("set_") or ()
    known = [override for override in overrides if not PLACEHOLDER.fullmatch(override.partition("=")[0])]
    if known or (config and _is_packaged(config)):
        load_config(config if config and _is_packaged(config) else ANY_CONFIGURATION, known)
    for name in values.get("attack") or ():
        if not PLACEHOLDER.fullmatch(name) and name != UNION:
            named_attack(name, ThreatModel("l2" if name == "fgm" else "linf", 0.1))
    for kind in KINDS:
        given = values.get(kind.replace("-", "_")) or ()
        for text in [given] if isinstance(given, str) else given:
            if not PLACEHOLDER.fullmatch(text):
                Budget.parse(kind, text)


def _is_packaged(config: str) -> bool:
    if config in packaged_configs() or f"{config}.yaml" in packaged_configs():
        return True
    if not config.endswith(".yaml") and not PLACEHOLDER.fullmatch(config):
        raise Fault(f"--config {config}: no packaged configuration has that name")
    return False


def _check_torchrun(words: Sequence[str], mention: bool) -> None:
    from torch.distributed.run import get_args_parser

    known = _parsed(lambda: get_args_parser().parse_args(list(words)), "torchrun")
    if known.module and known.training_script == "--":
        program, *rest = known.training_script_args
    else:
        program, rest = known.training_script, known.training_script_args
    _check_words([program, *rest], mention)


def _check_python_script(script: str, words: Sequence[str], mention: bool) -> None:
    """The script is run up to where it has parsed its options."""
    _check_exists(script)
    path = ROOT / script

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        for action in parser._actions if mention else ():
            action.required = False
            action.choices = action.choices and _OrPlaceholder(action.choices)
        raise Parsed(parse(parser, *arguments))

    parse = argparse.ArgumentParser.parse_args
    modules = set(sys.modules)
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
            mock.patch.object(sys, "argv", [script, *words]),
            mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        ):
            parsed = _parsed(lambda: runpy.run_path(str(path), run_name="__main__"), script, mention)
    finally:
        for name in set(sys.modules) - modules:  # those beside the script, which another script may not mean
            if getattr(sys.modules[name], "__file__", None) and sys.modules[name].__file__.startswith(str(path.parent)):
                del sys.modules[name]
    if parsed is not None:
        values = vars(parsed)
        overrides = values.get("overrides") or (values.get("set") if isinstance(values.get("set"), list) else None)
        _check_values({"config": values.get("config"), "set_": overrides})


def _parsed(parse: Callable[[], Any], program: str, mention: bool = False) -> Any:
    """What argparse makes of the words, or a fault with what it said; None where a mention leaves out a value."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return parse()
    except Parsed as parsed:
        return parsed.args[0]
    except SystemExit as left:
        message = said.getvalue().strip().splitlines()[-1:] or [f"left with {left.code}"]
        if left.code == 0 or (mention and re.search(r": expected .*argument", message[0])):  # 0: --help
            return None
        raise Fault(f"{program}: {message[0]}") from None
