"""Things chosen by name in a configuration: objectives, samplers, families. One lookup, one set of error messages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from proard.common.errors import UserError, nearest

T = TypeVar("T")


def import_modules(names: Iterable[str], where: str = "imports") -> None:
    """Import Python modules for what they register, also from the working directory.

    Raises:
        UserError: a module that cannot be imported.
    """
    for name in names:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        try:
            import_module(name)
        except Exception as error:
            raise UserError(f"{where}: cannot import '{name}' ({type(error).__name__}: {error})") from error


class Registry(Generic[T]):
    """Names for classes whose constructor arguments are the options that a user may set.

    Args:
        kind: what the entries are, for error messages, such as ``"objective"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Class decorator: make the class available under ``name``.

        The same class defined again, as by a notebook's cell that is run twice, takes the place of the old one.

        Raises:
            ValueError: another class has this name.
        """

        def add(entry: Any) -> Any:
            if name in self._entries and _definition(self._entries[name]) != _definition(entry):
                raise ValueError(f"{self.kind} '{name}' is registered already")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries)

    def name_of(self, thing: T) -> str:
        """The name under which the class of ``thing`` is registered; the class's own where it is not."""
        wanted = _definition(type(thing))
        return next((n for n, entry in self._entries.items() if _definition(entry) == wanted), wanted[1])

    def entry(self, name: str) -> Callable[..., T]:
        """The class that is registered under a name; KeyError for another name."""
        return self._entries[name]

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """What the class of a registered name is constructed with, each with its resolved type hint and default."""
        entry = self.entry(name)
        # A dataclass knows where each inherited field was annotated; its generated __init__ does not. Not by
        # typing.get_type_hints, which in Python 3.10 refuses the line `_: KW_ONLY`.
        annotated = (
            reversed(inspect.getmro(entry))
            if is_dataclass(entry)
            else [entry.__init__ if inspect.isclass(entry) else entry]
        )
        hints = {name: hint for one in annotated for name, hint in inspect.get_annotations(one, eval_str=True).items()}
        return {
            parameter: details.replace(annotation=hints.get(parameter, Any))
            for parameter, details in inspect.signature(entry).parameters.items()
            if not parameter.startswith("_")
        }

    def build(self, name: str, options: Mapping[str, Any], *, where: str = "", **fixed: Any) -> T:
        """Construct the entry called ``name``.

        Args:
            name: a registered name.
            options: what the user set; names and types are checked against the constructor's signature.
            where: the place in the configuration, for error messages.
            fixed: arguments that are not the user's to set; given to the entries that take them.

        Raises:
            UserError: unknown name, unknown option, or a value that the constructor refuses.
        """
        at = f"{where}: " if where else ""
        if name not in self._entries:
            raise UserError(f"{at}unknown {self.kind} '{name}'{nearest(name, self.names())}")
        entry = self.entry(name)
        parameters = self.parameters(name)
        valid = [parameter for parameter in parameters if parameter not in fixed]
        arguments = {parameter: value for parameter, value in fixed.items() if parameter in parameters}
        for option, value in options.items():
            if option not in valid:
                raise UserError(f"{at}{self.kind} '{name}' has no option '{option}'{nearest(option, valid)}")
            try:
                arguments[option] = adapter(parameters[option].annotation).validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"].replace("Input should be", "should be")
                raise UserError(f"{at}option '{option}' of {self.kind} '{name}' {message}, got {value!r}") from None
        try:
            return entry(**arguments)
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"{at}{self.kind} '{name}': {error}") from error


def _definition(entry: Any) -> tuple[str, str]:
    """The module and the name that an entry is defined under: what makes two entries the same."""
    return entry.__module__, entry.__qualname__


def is_model(hint: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a type hint is one of pydantic's models; in Python 3.10 ``list[int]``, too, says that it is a class."""
    return isinstance(hint, type(BaseModel))


def adapter(hint: Any) -> TypeAdapter[Any]:
    """The pydantic adapter that checks a value against a type hint; pydantic's models bring their own rules."""
    if is_model(hint):
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
