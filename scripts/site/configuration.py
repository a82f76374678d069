"""The reference of a configuration's keys, from the pydantic models and the classes that are chosen by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from components import REGISTRIES, options, summary
from markup import plain, table_row
from pydantic import BaseModel, TypeAdapter

from proard.common.registry import adapter, is_model
from proard.config import AttackConfig, Component, Config
from proard.config.schema import PGDOptions

NAMED = {  # kinds of components: the heading of their options, and how the type of a key that takes one is written
    "set": ("Data sets: further keys of `data`", "a [data set](#sets)"),
    "family": ("Families: keys of `supernet`", "a [family](#families)"),
    "objective": ("Objectives", "an [objective](#objectives)"),
    "attack": ("Attacks", "an [attack](#attacks)"),
    "sampler": ("Samplers", "a [sampler](#samplers)"),
    "crafting": ("Crafting", "a [crafting](#craftings)"),
    "tracker": ("Trackers", "a [tracker](#trackers)"),
}
ANCHORS = {"family": "families", "objective": "objectives", "attack": "attacks", "sampler": "samplers"}
LIMITS = {
    "gt": "greater than",
    "exclusiveMinimum": "greater than",
    "ge": "at least",
    "minimum": "at least",
    "lt": "less than",
    "exclusiveMaximum": "less than",
    "le": "at most",
    "maximum": "at most",
}
HEAD = "| key | type | default | meaning |\n|---|---|---|---|\n"


def page() -> str:
    """The reference, as Markdown."""
    return "\n\n".join([*sections(Config, "", ""), *components()])


def sections(model: type[BaseModel], place: str, text: str) -> Iterator[str]:
    """The tables of a section and of those inside it.

    Args:
        model: of the section.
        place: its dotted place, such as ``data.augmentation``; empty for the whole configuration.
        text: what the key that holds it says.
    """
    if place:
        yield f"{'#' * (2 + place.count('.'))} `{place}` {{#{anchor(place)}}}\n\n{paragraphs(model) or text}"
    inside = {name: section(field.annotation) for name, field in model.model_fields.items()}
    properties = model.model_json_schema(ref_template="{model}")["properties"]
    rows = [
        row(name, kind(properties[name], name, place, inside[name]), shown(model, name), field.description or "")
        for name, field in model.model_fields.items()
    ]
    if model is AttackConfig:
        return
    yield HEAD + "\n".join(rows)
    for name, nested in inside.items():
        if nested is not None and not issubclass(nested, Component):
            within = ".".join(filter(None, (place, name))) + (".N" if name == "phases" else "")
            yield from sections(nested, within, model.model_fields[name].description or "")


def paragraphs(model: type[BaseModel]) -> str:
    """A model's docstring."""
    return "\n\n".join(plain(" ".join(part.split())) for part in (model.__doc__ or "").split("\n\n"))


def section(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation, if there is one: of a section, an optional one, or a list of them."""
    if is_model(annotation):
        return annotation
    return next(filter(None, map(section, get_args(annotation))), None)


def anchor(place: str) -> str:
    """The name under which a section is linked."""
    return place.replace(".", "-").lower()


def row(name: str, of_kind: str, default: str, meaning: str) -> str:
    """A row of a table."""
    return table_row(f"`{name}`", of_kind, default, plain(meaning))


def kind(schema: dict[str, Any], name: str, place: str, inside: type[BaseModel] | None) -> str:
    """A key's type and range in words."""
    if inside is not None:
        if issubclass(inside, AttackConfig):
            return NAMED["attack"][1]
        if issubclass(inside, Component):
            return "list of [trackers](#trackers), or their names" if name == "trackers" else NAMED[name][1]
        within = ".".join(filter(None, (place, name))) + (".N" if name == "phases" else "")
        link = f"[section](#{anchor(within)})"
        return f"list of [sections](#{anchor(within)})" if name == "phases" else link
    if name == "family":
        return NAMED["family"][1]
    if (place, name) == ("data", "name"):
        return f"{NAMED['set'][1]}, or one of your own"
    return words(schema)


def words(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(words(option) for option in schema["anyOf"] if option.get("type") != "null"))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    of_kind = schema.get("type", "")
    if of_kind == "array":
        return f"list of {words(schema.get('items', {}))}".replace("list of list of", "list of lists of")
    limits = [f"{phrase} {schema[key]:g}" for key, phrase in LIMITS.items() if key in schema]
    plain = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "object": "keys and values",
        "string": "path" if schema.get("format") == "path" else "text",
    }.get(of_kind, "any")
    return ", ".join([plain, *limits])


def shown(model: type[BaseModel], name: str) -> str:
    """A field's default."""
    field = model.model_fields[name]
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    nested = section(field.annotation)
    if nested is not None and not issubclass(nested, Component) and value is not None:
        return ""
    return literal(value)


def literal(value: Any) -> str:
    """A value as YAML would have it, in code quotes; nothing for none."""
    if value is None or value in ((), {}, []):
        return ""
    if isinstance(value, Component):
        plain = {key: entry for key, entry in value.model_dump().items() if entry is not None}
        return f"`{{{', '.join(f'{key}: {number(entry)}' for key, entry in plain.items())}}}`"
    return f"`{number(value)}`"


def number(value: Any) -> str:
    """Numbers short, lists in brackets, booleans in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "8/255" if value == 8 / 255 else "5/6" if value == 5 / 6 else f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(number, value))}]"
    return str(value)


def components() -> Iterable[str]:
    """The options of everything that is chosen by name."""
    for of_kind, (heading, _) in NAMED.items():
        yield f"## {heading} {{#{ANCHORS.get(of_kind, of_kind + 's')}}}"
        for name in REGISTRIES[of_kind].names():
            yield f"### `{name}` {{#{of_kind}-{name}}}\n\n{plain(summary(REGISTRIES[of_kind].entry(name)))}"
            if rows := list(option_rows(of_kind, name)):
                yield HEAD.replace("key", "option") + "\n".join(rows)


def option_rows(of_kind: str, name: str) -> Iterator[str]:
    """A row for every option."""
    if (of_kind, name) == ("attack", "pgd"):
        properties = TypeAdapter(PGDOptions).json_schema()["properties"]
        for option, field in PGDOptions.model_fields.items():
            default = "" if field.is_required() else shown(PGDOptions, option)  # the steps: each section's own
            yield row(option, words(properties[option]), default, field.description or "")
        return
    for made in options(of_kind, name):
        if made.hint is Component:
            of_option = NAMED[of_kind][1]
        elif made.name == "base":
            of_option = f"{NAMED['objective'][1]}, or its name"
        else:
            of_option = words(adapter(made.hint).json_schema())
        yield row(made.name, of_option, literal(made.default), made.text)
