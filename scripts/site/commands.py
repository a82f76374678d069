"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from markup import plain, table_row

from proard.commands.cli import app


def page() -> str:
    """The reference, as Markdown."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(part for name, command in group.commands.items() for part in parts(name, command))


def parts(name: str, command: Any) -> Iterator[str]:
    """Heading, usage, help and options of one command."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    listed = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join(["proard", name, "[OPTIONS]", *(placeholder(argument) for argument in arguments)])
    yield f"## {name}\n\n```text\n{usage}\n```\n\n{plain(inspect.cleandoc(command.help or ''))}"
    rows = [row(parameter) for parameter in (*arguments, *listed) if not getattr(parameter, "hidden", False)]
    yield "| option | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)


def placeholder(argument: Any) -> str:
    """How a usage line shows an argument."""
    name = (argument.metavar or argument.name.upper()).strip("[]")
    return name if argument.required else f"[{name}]"


def row(parameter: Any) -> str:
    """A row of the table of options."""
    if parameter.param_type_name == "argument":
        names, value = f"`{placeholder(parameter)}`", ""
    else:
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        value = "" if parameter.is_flag else f"`{parameter.metavar or parameter.name.upper()}`"
    default = parameter.default
    shown = "" if default in (None, False, (), []) or callable(default) else f"`{default}`"
    return table_row(names, value, shown, plain(parameter.help or ""))
