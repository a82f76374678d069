"""The JSON schema that editors use is current, and no stricter than what reads configurations; so is the reference."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from proard.common.errors import UserError
from proard.config import Component, Config, parse_config, schema_file
from proard.runs.components import attack, threat_model
from proard.supernet import SearchSpace, build_supernet
from proard.training.phases import build_phases

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts" / "site"))

import components  # noqa: E402
import configuration  # noqa: E402
import schema  # noqa: E402

EDITOR = jsonschema.Draft7Validator(json.loads(schema_file().read_text(encoding="utf-8")))
PHASE = {"name": "a", "epochs": 1, "learning_rate": 0.1}
WHOLE: dict[str, Any] = {  # every section
    "data": {"name": "digits", "augmentation": {"flip": True}},
    "supernet": {"family": "resnet", "widths": [8, 16], "blocks": [1, 1]},
    "threat": {"eps": "8/255"},
    "attack": {"steps": 2},
    "student": {},
    "teacher": {"mode": "joint"},
    "phases": [{**PHASE, "objective": {"name": "trades"}, "attack": {"name": "nfgsm"}}],
    "optimizer": {"name": "sgd"},
    "validation": {"images": 10},
    "search": {"images": 10},
    "evaluation": {"attack": {"name": "pgd"}},
    "energy": {"enabled": False},
    "trackers": ["tensorboard", {"name": "wandb", "mode": "offline"}],
}
# Not `true`: that it is read as the number 1 is nothing that an editor should let pass.
VALUES = (0, 1, 3, 0.5, -1, "3", "8/255", "1e-3", " 0.5 ", "yes", "off", None, "a", "all", [], [2], ["a"], [0.5], {})


def problems(values: Any) -> list[str]:
    return [error.message for error in EDITOR.iter_errors(values)]


def reads(values: dict[str, Any]) -> bool:
    try:
        parse_config(values)
    except UserError:
        return False
    return True


def test_the_schema_is_current() -> None:
    assert json.loads(schema_file().read_text(encoding="utf-8")) == schema.schema(), (
        "the configuration has changed: run python scripts/site/schema.py"
    )
    jsonschema.Draft7Validator.check_schema(EDITOR.schema)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_packaged_configurations_are_valid(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert problems(values) == []
    assert problems(yaml.safe_load(parse_config(values).to_yaml())) == []  # a run's config.yaml, too


def places(model: type[BaseModel], place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key of every section."""
    for name, field in model.model_fields.items():
        yield (*place, name)
        inside = configuration.section(field.annotation)
        if inside is not None and not issubclass(inside, Component):
            yield from places(inside, (*place, name, *([0] if name == "phases" else [])))


def test_what_is_read_is_accepted() -> None:
    """Every key is set to every kind of value: whatever the reader takes, the editor must not mark."""
    accepted = 0
    for place in places(Config):
        for value in VALUES:
            values = json.loads(json.dumps(WHOLE))
            at: Any = values
            for part in place[:-1]:
                at = at[part] if isinstance(at, list) else at.setdefault(part, {})
            at[place[-1]] = value
            if reads(values):
                accepted += 1
                assert problems(values) == [], f"{'.'.join(map(str, place))}: {value!r}"
    assert accepted > 200


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("dta",), {}),
        (("data", "flip"), True),
        (("threat", "eps"), 0),
        (("threat", "eps"), "eight"),
        (("batch_size",), 0.5),
        (("attack", "stps"), 3),
        (("supernet", "width"), [3]),
        (("phases", 0, "objective"), {"name": "trades", "bta": 3}),
        (("phases", 0, "objective"), {"name": "trades", "beta": [3]}),
        (("phases", 0, "sampler"), {"students": 3}),
        (("phases",), []),
        (("trackers",), [{"name": "wandb", "mde": "online"}]),
    ],
)
def test_mistakes_are_marked(place: tuple[str | int, ...], value: Any) -> None:
    values = json.loads(json.dumps(WHOLE))
    assert problems(values) == []
    at: Any = values
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    assert problems(values)


def test_names_of_ones_own_are_accepted() -> None:
    phase = {**PHASE, "objective": {"name": "mine", "anything": 1}, "sampler": {"name": "ends", "sides": 2}}
    values = {
        **WHOLE,
        "data": {"name": "mine"},
        "phases": [phase],
        "supernet": {"family": "tower", "width": 24},
        "imports": ["mine"],
        "trackers": ["mine", {"name": "mine", "colour": "red"}],
    }
    assert problems(values) == []


# What a reference says of components


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 16], blocks=[1, 1]).space


def built(kind: str, name: str, given: dict[str, Any], space: SearchSpace) -> Any:
    """A component with the given options, as a configuration builds it."""
    norm = "l2" if name == "fgm" else "linf"
    phase = {**PHASE, **({kind: {"name": name, **given}} if kind in ("objective", "sampler", "crafting") else {})}
    config = parse_config(
        {"data": {"name": "digits"}, "threat": {"norm": norm, "eps": 0.1}, "phases": [phase], "teacher": "joint"}
    )
    if kind == "attack":
        return attack(parse_config({**WHOLE, "attack": {"name": name, **given}}).attack, threat_model(config))
    (built,) = build_phases(config, space)
    return {"objective": built.objective, "crafting": built.crafting, "sampler": built.sampler()}[kind]


COMPONENTS = [(kind, name) for kind, registry in components.REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=lambda part: part)
def test_options_are_those_that_a_configuration_takes(kind: str, name: str, space: SearchSpace) -> None:
    """Every option has a text, and may be given; its default changes nothing."""
    if name == "timm":
        pytest.importorskip("timm")
    listed = components.options(kind, name)
    assert all(option.text for option in listed), [option.name for option in listed if not option.text]
    if kind == "tracker":
        registry = components.REGISTRIES[kind]
        assert vars(registry.build(name, {option.name: option.default for option in listed})) == vars(
            registry.build(name, {})
        )
        return
    if kind == "family":  # big networks: their constructor alone
        fixed = {"num_classes": 10, "input_shape": (3, 32, 32)}
        given = {option.name: option.default for option in listed}
        registry = components.REGISTRIES[kind]
        assert registry.build(name, given, **fixed) == registry.build(name, {}, **fixed)
        return
    if kind == "set":
        values = {**WHOLE, "data": {"name": name, "root": ".", "image_size": 8, **{o.name: o.default for o in listed}}}
        assert problems(values) == []
        assert parse_config(values).data.options.keys() == {option.name for option in listed}
        assert problems({**WHOLE, "data": {"name": name, "root": ".", "none": 1}})
        return
    plain = {
        option.name: option.default.model_dump() if isinstance(option.default, Component) else option.default
        for option in listed
    }
    if (kind, name) == ("attack", "pgd"):  # whose defaults in a configuration are its own
        del plain["steps"]
    given, usual = built(kind, name, plain, space), built(kind, name, {}, space)
    assert given == usual or vars(given).keys() == vars(usual).keys()


def test_every_key_says_what_it_means() -> None:
    silent = []
    for place in places(Config):
        model: Any = Config
        for part in (part for part in place[:-1] if isinstance(part, str)):
            model = configuration.section(model.model_fields[part].annotation)
        if not model.model_fields[place[-1]].description:
            silent.append(".".join(map(str, place)))
    assert silent == []


def test_the_reference_has_every_key_option_and_command() -> None:
    import commands

    page = configuration.page()
    for place in places(Config):
        assert re.search(rf"^\| `{place[-1]}` \|", page, re.MULTILINE), place
    for kind, name in COMPONENTS:
        part = page.split(f"{{#{kind}-{name}}}")[1].split("\n#")[0]
        assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == [o.name for o in components.options(kind, name)]
    import typer

    from proard.commands.cli import app

    group: Any = typer.main.get_command(app)
    page = commands.page()
    for name, command in group.commands.items():
        part = page.split(f"\n## {name}\n" if name != "train" else "## train\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert f"| `{parameter.opts[0]}` |" in part
