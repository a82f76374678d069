"""The JSON schema of a configuration, for editors: writes configs/schema.json. python scripts/site/schema.py

It accepts what `proard train` accepts where one key suffices to tell; what keys mean together is left to `proard`.
Names that are not registered here are accepted with any options, since `imports:` may bring them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components import REGISTRIES, Option, options, summary
from pydantic import PydanticUserError
from pydantic.json_schema import PydanticInvalidForJsonSchema

from proard.common.registry import adapter
from proard.config import Component, Config
from proard.config.schema import PGDOptions

FILE = Path(__file__).resolve().parents[2] / "configs" / "schema.json"
NUMBER = r"^\s*[-+._\deE]+(\s*/\s*[-+._\deE]+)?\s*$"  # text such as 8/255, or 1e-3, which is text in YAML 1.1
INTEGER = r"^\s*[-+]?[_\d]+(\.0*)?\s*$"
BOOLEAN = "^([Tt]([Rr][Uu][Ee])?|[Ff]([Aa][Ll][Ss][Ee])?|[Yy]([Ee][Ss])?|[Nn]([Oo])?|[Oo][Nn]|[Oo][Ff][Ff]|[01])$"
LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
SECTIONS = {kind: kind.capitalize() for kind in ("objective", "attack", "sampler", "crafting", "tracker")}


def schema() -> dict[str, Any]:
    """The schema, draft 7."""
    made = Config.model_json_schema()
    definitions = made["$defs"]
    for kind, name in SECTIONS.items():
        definitions[name] = component(kind)
    definitions["SupernetConfig"] = with_options(definitions["SupernetConfig"], "family", "family", "resnet")
    definitions["DataConfig"] = with_options(definitions["DataConfig"], "name", "set", None)
    phase = definitions["PhaseConfig"]["properties"]
    for kind in ("objective", "sampler", "crafting"):
        phase[kind]["$ref"] = reference(kind)
    definitions["TeacherConfig"]["properties"]["objective"]["anyOf"][0]["$ref"] = reference("objective")
    definitions["TeacherConfig"] = {"anyOf": [definitions["TeacherConfig"], {"type": "string"}]}
    listed = made["properties"]["trackers"]  # names, some with options
    listed["items"] = {"anyOf": [known(REGISTRIES["tracker"].names(), "Which."), {"$ref": reference("tracker")}]}
    plain = accept_text(made)
    text = json.dumps(plain).replace("#/$defs/AttackConfig", reference("attack"))
    plain = json.loads(text)
    for unused in ("AttackConfig", "Component"):
        del plain["$defs"][unused]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of proard",
        **{key: value for key, value in plain.items() if key != "title"},
    }


def reference(kind: str) -> str:
    """Where the definition of a kind of component is."""
    return f"#/$defs/{SECTIONS[kind]}"


def component(kind: str) -> dict[str, Any]:
    """``{name: ..., option: ...}``; without a name, where there is a default."""
    names = REGISTRIES[kind].names()
    fallback = "pgd" if kind == "attack" else None
    made: dict[str, Any] = {
        "type": "object",
        "description": (Component.__doc__ or "").strip(),
        "properties": {"name": known(names, f"Which {kind}.")},
        "allOf": [branch("name", name, of_name(kind, name), {"name": True}, fallback) for name in names],
    }
    return made if fallback else {**made, "required": ["name"]}


def with_options(section: dict[str, Any], key: str, kind: str, fallback: str | None) -> dict[str, Any]:
    """A section whose further keys are the options of what it names, by ``key``: the network's family, the data set."""
    names = REGISTRIES[kind].names()
    own = {**section["properties"], key: known(names, f"Which {'data set' if kind == 'set' else kind}.")}
    branches = [branch(key, name, of_name(kind, name), dict.fromkeys(own, True), fallback) for name in names]
    return {**section, "properties": own, "allOf": branches}


def known(names: list[str], text: str) -> dict[str, Any]:
    """A name: an editor offers these, and accepts others."""
    return {"anyOf": [{"enum": names}, {"type": "string"}], "description": text}


def branch(key: str, name: str, then: dict[str, Any], own: dict[str, Any], fallback: str | None) -> dict[str, Any]:
    """The options of one name, and no others."""
    condition: dict[str, Any] = {"properties": {key: {"const": name}}}
    if name != fallback:
        condition["required"] = [key]
    then = {**then, "properties": {**own, **then["properties"]}, "additionalProperties": False}
    return {"if": condition, "then": then}


def of_name(kind: str, name: str) -> dict[str, Any]:
    """The schema of the options of one registered class."""
    if (kind, name) == ("attack", "pgd"):  # which the configuration itself checks
        return {"properties": PGDOptions.model_json_schema()["properties"]}
    text = summary(REGISTRIES[kind].entry(name))
    return {"description": text, "properties": {option.name: of_option(kind, option) for option in options(kind, name)}}


def of_option(kind: str, option: Option) -> dict[str, Any]:
    """The schema of one option."""
    made: dict[str, Any]
    if option.hint is Component:
        made = {"$ref": reference(kind), "default": option.default.model_dump()}
        return {**made, "description": option.text}
    try:
        made = adapter(option.hint).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):  # a Python object: by name, or with options
        made = {"anyOf": [{"type": "string"}, {"$ref": reference(kind)}]}
    return {**made, "default": option.default, "description": option.text}


def accept_text(node: Any) -> Any:
    """Numbers and booleans may be text that reads as one; limits by their names in JSON Schema; no titles."""
    if isinstance(node, list):
        return [accept_text(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    made = {LIMITS.get(key, key): accept_text(value) for key, value in node.items()}
    if isinstance(made.get("title"), str):
        del made["title"]
    if made.get("type") == "number":
        made |= {"type": ["number", "string"], "pattern": NUMBER}
    elif made.get("type") == "integer":
        made |= {"type": ["integer", "string"], "pattern": INTEGER}
    elif made.get("type") == "boolean":
        made |= {"type": ["boolean", "integer", "string"], "minimum": 0, "maximum": 1, "pattern": BOOLEAN}
    return made


def text() -> str:
    """The file's content."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
