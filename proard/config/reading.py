"""Reading a configuration: where files are found, overrides, and one line for every mistake.

An unknown key is an error that names the key, the file and line, and the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from proard.common.errors import UserError, nearest
from proard.common.paths import path_of
from proard.common.registry import is_model
from proard.config.schema import Config
from proard.config.values import AMBIGUOUS

Path_ = tuple[str | int, ...]
PLAIN_MESSAGES = {  # of pydantic, which speaks of Python types
    "model_type": "should be a section of keys and values",
    "tuple_type": "should be a list",
    "too_short": "should have at least one entry",
}


def packaged_configs() -> dict[str, Path]:
    """Name to path of the configurations that ship with proard: in the package, or beside it in a source checkout."""
    return {path.name: path for path in sorted(_configs_folder().glob("*.yaml"))}


def schema_file() -> Path:
    """The JSON schema of a configuration, which ships with them; ``scripts/site/schema.py`` makes it."""
    return _configs_folder() / "schema.json"


def _configs_folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path) -> Path:
    """The file that ``--config`` means: first a path, then the name of a packaged one, with or without ``.yaml``."""
    path = path_of(name)
    if path.is_file():
        return path
    packaged = packaged_configs()
    for candidate in (str(name), f"{name}.yaml"):
        if candidate in packaged:
            return packaged[candidate]
    raise UserError(f"config {name}: no such file, and no packaged config of that name{nearest(str(name), packaged)}")


def load_config(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply ``KEY=VALUE`` overrides.

    Args:
        name: a path, or the name of a packaged configuration.
        overrides: such as ``phases.1.epochs=2``; values are YAML, so ``8/255``, ``[1, 2]`` and ``null`` work.

    Raises:
        UserError: missing file, broken YAML, unknown key, bad value; one line.
    """
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        places = _places(tree, path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"config {path}: not valid YAML ({' '.join(str(error).split())})") from error
    except RecursionError:
        raise UserError(f"config {path}: not a configuration (nested too deeply, or an alias of itself)") from None
    if doubt := _doubt(tree):
        place, problem = doubt
        raise UserError(f"{places.get(place, path)}: {'.'.join(map(str, place))}: {problem}")
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected keys and values, such as 'data:' and 'phases:'")
    for override in overrides:
        changed = _apply_override(values, override)
        places = {place: where for place, where in places.items() if place[: len(changed)] != changed}
        places[changed] = f"--set {override}"
    return parse_config(values, str(path), places)


def parse_config(values: dict[str, Any], source: str = "config", places: dict[Path_, str] | None = None) -> Config:
    """Check plain values against the schema; ``source`` and ``places`` say in an error where they came from."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, source, places or {})) from None


def _places(node: yaml.Node | None, path: Path, at: Path_ = ()) -> dict[Path_, str]:
    """Where each key stands, as ``file:line``, found on the parsed tree; also refuses a key that is written twice."""
    places: dict[Path_, str] = {}
    entries: list[tuple[str | int, yaml.Node, yaml.Node]] = []  # name, where it is written, and what it stands for
    if isinstance(node, yaml.MappingNode):
        entries = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        entries = [(index, value, value) for index, value in enumerate(node.value)]
    for name, written, value in entries:
        place, line = (*at, name), written.start_mark.line + 1
        if place in places:
            raise yaml.YAMLError(f"key '{'.'.join(map(str, place))}' is written twice, line {line}")
        places[place] = f"{path}:{line}"
        places.update(_places(value, path, place))
    return places


def _doubt(node: yaml.Node | None, at: Path_ = ()) -> tuple[Path_, str] | None:
    """Where the first number is that YAML 1.1 and people read differently, and what is wrong with it."""
    if isinstance(node, yaml.MappingNode):
        found = (_doubt(value, (*at, str(key.value))) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        found = (_doubt(value, (*at, index)) for index, value in enumerate(node.value))
    elif not isinstance(node, yaml.ScalarNode) or node.style in ("'", '"') or not AMBIGUOUS.fullmatch(node.value):
        return None
    else:
        base = "'010' is 8" if ":" not in node.value else "'1:30' is 90"
        right = "write a plain decimal number, or quotes around a text"
        return at, f"{node.value} is not what it looks like: to YAML, {base}; {right}"
    return next(filter(None, found), None)


def _apply_override(values: dict[str, Any], override: str) -> Path_:
    """Set one ``a.b.0.c=value`` in place, and say which place; sections that the file leaves out are made."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override}: expected KEY=VALUE, such as phases.1.epochs=2")
    try:
        value, doubt = yaml.safe_load(text), _doubt(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"--set {override}: '{text}' is not a valid YAML value") from None
    if doubt:
        raise UserError(f"--set {override}: {doubt[1]}")
    at: Any = values
    place: Path_ = ()
    for depth, part in enumerate(parts):
        here = ".".join(map(str, place)) or "the config"
        index: Any = part
        if isinstance(at, list):
            if not part.isdecimal() or int(part) >= len(at):
                has = f"entries 0 to {len(at) - 1}" if at else "no entries"
                raise UserError(f"--set {override}: {here} has {has}, there is no '{part}'")
            index = int(part)
        elif not isinstance(at, dict):
            raise UserError(f"--set {override}: {here} is a single value, it has no '{part}'")
        place = (*place, index)
        if depth == len(parts) - 1:
            at[index] = value
        else:
            inside = at[index] if isinstance(at, list) else at.get(index)
            # A copy: through an alias, the same section may stand in another place too.
            at[index] = {} if inside is None else copy(inside)
            at = at[index]
    return place


def _explain(error: ValidationError, source: str, places: dict[Path_, str]) -> str:
    """One line for the first problem that pydantic found."""
    errors = error.errors()
    # A typo explains what it leaves missing, so it comes first.
    first = min(errors, key=lambda problem: problem["type"] != "extra_forbidden")
    place: Path_ = tuple(part for part in first["loc"] if part not in ("function-after", "function-before"))
    inside = [at for at in places if place and at[: len(place)] == place]  # --set may make a section
    around = [place[:end] for end in range(len(place), 0, -1)]
    where = next((places[at] for at in [*around[:1], *inside, *around[1:]] if at in places), source)
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        parent = ".".join(map(str, place[:-1])) or "the config"
        return f"{where}: unknown key '{key}' in {parent}{nearest(str(place[-1]), _valid_keys(place[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: '{key}' is missing"
    if first["type"] == "invalid_key":
        return f"{where}: keys must be text, got {place[0] if len(place) == 1 else first['input']!r}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = PLAIN_MESSAGES.get(first["type"], message)
    got = "" if isinstance(first["input"], dict | BaseModel) else f", got {first['input']!r}"
    return f"{where}: {key}: {message}{got}" if key else f"{where}: {message}"


def _valid_keys(place: Path_) -> list[str]:
    """The field names of the section at ``place``."""
    model: Any = Config
    for part in place:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(filter(is_model, (annotation, *get_args(annotation))), None)
        if model is None:
            return []
    return [*model.model_fields, *getattr(model, "option_names", ())]
