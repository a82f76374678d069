"""Configurations: the packaged files, overrides, and the one line that every mistake gets."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proard.attacks import APGDCE, MIFGSM, NFGSM, PGD, Attack, ThreatModel
from proard.common.errors import UserError
from proard.config import Config, find_config, load_config, packaged_configs, parse_config
from proard.config.schema import PGDOptions
from proard.runs.components import attack, threat_model
from proard.supernet import build_supernet
from proard.training.phases import build_phases, training_attack

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").rglob("*.yaml"))
SHAPES = {  # of the known sets: image shape and number of classes
    "digits": ((1, 8, 8), 10),
    "digit_pairs": ((1, 8, 16), 100),
    "fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "svhn": ((3, 32, 32), 10),
}

MINIMAL = """\
seed: 3
data:
  name: digits
threat: {norm: linf, eps: 8/255}
attack: {steps: 5}
phases:
  - name: first
    epochs: 10
    learning_rate: 0.1
    objective: {name: trades}
  - {name: second, epochs: 4, learning_rate: 1e-2, elastic: [width]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return path


def error_line(config: str | Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(config, overrides)
    message = str(caught.value)
    assert message == " ".join(message.split())
    return message


def error_of(text: str, tmp_path: Path) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    return error_line(path)


# ---------------------------------------------------------------------------------------------------------------------
# The files that ship


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_packaged_file_is_complete(path: Path) -> None:
    """It parses, and every phase builds against a supernet for the images that it names."""
    config = load_config(path)
    size = config.data.image_size
    shape, classes = SHAPES[config.data.name] if size is None else ((3, size, size), 7)
    supernet = build_supernet(
        config.supernet.family, num_classes=classes, input_shape=shape, seed=0, **config.supernet.options
    )
    build_phases(config, supernet.space)
    smallest = supernet.space.cost(supernet.space.smallest()).multiply_adds
    largest = supernet.space.cost(supernet.space.largest()).multiply_adds
    assert smallest < largest
    command, comment, *_ = path.read_text().splitlines()
    assert command == f"# proard train --config {path.name}"
    assert comment.startswith("#")


def test_there_are_packaged_files() -> None:
    assert {path.name for path in CONFIGS} == set(packaged_configs())
    assert "quickstart.yaml" in packaged_configs()


def test_a_path_comes_before_a_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart.yaml") == packaged_configs()["quickstart.yaml"]
    assert find_config("quickstart") == packaged_configs()["quickstart.yaml"]
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    assert find_config("quickstart.yaml") == Path("quickstart.yaml")
    assert load_config("quickstart.yaml").seed == 3
    message = error_line("quikstart")
    assert "quikstart" in message
    assert "did you mean 'quickstart.yaml'?" in message


# ---------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("1e-3", 1e-3), ("'1 / 4'", 0.25), ("0.5", 0.5), ("1", 1.0)]
)
def test_numbers(file: Path, text: str, value: float) -> None:
    assert load_config(file, [f"threat.eps={text}"]).threat.eps == value


def test_fractions_in_the_options_of_components(file: Path) -> None:
    config = load_config(file, ["phases.0.objective={name: trades, beta: 12/2}"])
    assert config.phases[0].objective.options == {"beta": 6.0}


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch here')",
        "2*3",
        "8/0",
        "8/255/2",
        "1/2 if True else 3",
        ".nan",
        ".inf",
        "-1",
        "0",
        "[1]",
        "{a: 1}",
        "null",
        "",
    ],
)
def test_what_is_no_positive_number_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = error_line(file, f"threat.eps={value}")
    assert "threat.eps" in message
    assert f"--set threat.eps={value}" in message
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [here]", "!!python/name:os.system", "!!python/none"])
def test_python_tags_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrong.yaml" in error_of(MINIMAL + f"device: {tag}\n", tmp_path)
    assert "--set" in error_line(file, f"device={tag}")
    assert not (tmp_path / "here").exists()


def test_linf_radius_beyond_the_images(file: Path) -> None:
    assert "write 8/255" in error_line(file, "threat.eps=8")
    assert load_config(file, ["threat={norm: l2, eps: 8}"]).threat.eps == 8


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


def plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("phases.1.epochs=2", ("phases", 1, "epochs"), 2),
        ("phases.1.elastic=[width, depth]", ("phases", 1, "elastic"), ["width", "depth"]),
        ("optimizer.name=adamw", ("optimizer", "name"), "adamw"),  # a section that the file does not have
        ("validation.attack.steps=3", ("validation", "attack", "steps"), 3),
        ("ema_decay=0.9", ("ema_decay",), 0.9),
        ("attack.step_size=2/255", ("attack", "step_size"), 2 / 255),
        ("attack.step_size=null", ("attack", "step_size"), None),
        ("supernet.widths=[8, 16]", ("supernet", "widths"), [8, 16]),
        ("data.root=a=b", ("data", "root"), "a=b"),
        (" seed = 7", ("seed",), 7),
    ],
)
def test_an_override_changes_one_value(file: Path, override: str, place: tuple[Any, ...], value: Any) -> None:
    changed, expected = plain(load_config(file, [override])), plain(load_config(file))
    section = expected
    for part in place[:-1]:
        section = section[part]
    section[place[-1]] = value
    assert changed == expected


def test_a_whole_list_can_be_replaced_and_the_last_override_wins(file: Path) -> None:
    phase = "phases=[{name: only, epochs: 3, learning_rate: 0.5}]"
    config = load_config(file, [phase, "phases.0.epochs=5", "phases.0.epochs=6"])
    assert [(phase.name, phase.epochs) for phase in config.phases] == [("only", 6)]


def test_an_override_does_not_reach_through_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "alias.yaml"
    path.write_text(MINIMAL.replace("attack: {", "attack: &one {") + "validation: {attack: *one}\n")
    config = load_config(path, ["attack.steps=9"])
    assert (config.attack.steps, config.validation.attack.steps) == (9, 5)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("phases.0.epoch=1", ["unknown key 'phases.0.epoch'", "did you mean 'epochs'?"]),
        ("sead=1", ["unknown key 'sead'", "did you mean 'seed'?"]),
        ("data.augmentaton.flip=true", ["unknown key 'data.augmentaton'", "did you mean 'augmentation'?"]),
        ("optimiser.name=adamw", ["unknown key 'optimiser'", "did you mean 'optimizer'?"]),
        ("validation.attack.step=3", ["unknown key 'validation.attack.step'", "did you mean 'steps'?"]),
        ("phases.2.epochs=1", ["phases has entries 0 to 1", "no '2'"]),
        ("phases.-1.epochs=1", ["phases has entries 0 to 1", "no '-1'"]),
        ("phases.first.epochs=1", ["phases has entries 0 to 1", "no 'first'"]),
        ("seed.x=1", ["seed is a single value", "'x'"]),
        ("seed", ["expected KEY=VALUE"]),
        ("=3", ["expected KEY=VALUE"]),
        ("data..name=digits", ["expected KEY=VALUE"]),
        ("seed=[1", ["not a valid YAML value"]),
        ("seed=2020-13-45", ["not a valid YAML value"]),
        ("seed=1.5", ["seed", "integer", "1.5"]),
        ("phases.0.epochs=0", ["phases.0.epochs", "greater than or equal to 1", "got 0"]),
        ("device=gpu", ["device", "'gpu'"]),
        ("phases=[]", ["phases", "at least one"]),
        ("data=digits", ["data", "section", "'digits'"]),
        ("phases.0.elastic=width", ["phases.0.elastic", "list", "'width'"]),
    ],
)
def test_a_wrong_override_names_itself_and_what_would_be_right(file: Path, override: str, parts: list[str]) -> None:
    message = error_line(file, "batch_size=16", override)
    assert f"--set {override}" in message
    for part in parts:
        assert part in message


# ---------------------------------------------------------------------------------------------------------------------
# Wrong files


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("seed: 3", "sead: 3", [":1:", "unknown key 'sead'", "did you mean 'seed'?"]),
        ("    epochs: 10", "    epoch: 10", [":8:", "'phases.0.epoch'", "did you mean 'epochs'?"]),
        ("norm: linf, eps", "norm: linf, epz", [":4:", "'threat.epz'", "did you mean 'eps'?"]),
        ("  name: digits", "  nmae: digits", [":3:", "'data.nmae'", "did you mean 'name'?"]),
        ("seed: 3\n", "seed: 3\nseed: 4\n", ["'seed'", "twice", "line 2"]),
        ("    epochs: 10\n", "    epochs: 10\n    epochs: 9\n", ["'phases.0.epochs'", "twice", "line 9"]),
        ("    learning_rate: 0.1\n", "", [":7:", "'phases.0.learning_rate' is missing"]),
        ("data:\n  name: digits\n", "", ["'data' is missing"]),
        ("epochs: 10", "epochs: ten", [":8:", "phases.0.epochs", "integer", "'ten'"]),
        ("learning_rate: 0.1", "learning_rate: -0.1", [":9:", "greater than 0", "-0.1"]),
        ("eps: 8/255", "eps: 8", [":4:", "write 8/255"]),
        ("    objective: {name: trades}", "    recipe: weak", [":10:", "phases.0.recipe", "'strong'", "'weak'"]),
        ("    objective: {name: trades}", "    recipe: [strong]", ["phases.0.recipe", "'strong'"]),
        ("name: second", "name: first", ["phases", "names must differ"]),
        ("name: first", "name: first\n    elastic: [depth]", ["'second' locks depth again", "'first'"]),
        ("data:\n  name: digits", "data: digits", [":2:", "data", "section"]),
        ("name: digits", "name: image_folder", [":2:", "data.root"]),
        ("seed: 3", "3: 3", ["keys must be text", "3"]),
        ("seed: 3", "seed: 3\n\tbatch_size: 4", ["not valid YAML", "line 2"]),
        ("seed: 3", "seed: [3", ["not valid YAML"]),
        ("seed: 3", "seed: 2020-13-45", ["not valid YAML"]),
        ("seed: 3", "seed: &loop [*loop]", ["alias of itself"]),
    ],
)
def test_a_wrong_file_gets_a_line_with_its_name(tmp_path: Path, before: str, after: str, parts: list[str]) -> None:
    assert MINIMAL.count(before) >= 1
    message = error_of(MINIMAL.replace(before, after, 1), tmp_path)
    for part in ["wrong.yaml", *parts]:
        assert part in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "- data\n- threat\n", "word", "3", "null"])
def test_a_file_without_keys(tmp_path: Path, text: str) -> None:
    message = error_of(text, tmp_path)
    assert "wrong.yaml" in message
    assert "expected keys and values" in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"seed: \xff\xfe")
    assert "cannot be read" in error_line(path)
    path.write_text("a: " + "[" * 5000)
    assert "nested too deeply" in error_line(path)
    assert str(tmp_path) in error_line(tmp_path)  # a folder
    assert "no such file" in error_line(tmp_path / "nowhere.yaml")


def test_every_mistake_of_a_key_is_found_anywhere(file: Path) -> None:
    """A typo in any section of the schema, wherever it is nested, names itself and its nearest neighbour."""
    count = 0

    def visit(values: Any, at: str) -> None:
        nonlocal count
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            place = f"{at}.{key}" if at else str(key)
            open_ended = re.search(
                r"(objective|sampler|crafting|supernet)", place
            )  # checked against classes, by their options
            if isinstance(key, str) and not open_ended:
                assert f"unknown key '{place}x'" in error_line(file, f"{place}x=1"), place
                count += 1
            if isinstance(value, dict | list) and not open_ended:
                visit(value, place)

    visit(plain(load_config(file)), "")
    assert count > 50


# ---------------------------------------------------------------------------------------------------------------------
# Attacks


def test_the_defaults_of_pgd_are_those_of_its_class(file: Path) -> None:
    """But for the steps, which each section has its own number of, also where it sets another option."""
    own = {field.name: field.default for field in dataclasses.fields(PGD)}
    options = {name: field for name, field in PGDOptions.model_fields.items() if name != "steps"}
    assert {name: field.default for name, field in options.items()} == {name: own[name] for name in options}
    config = load_config(
        file, ["attack={restarts: 2}", "search.attack={restarts: 2}", "evaluation.attack={restarts: 2}"]
    )
    steps = [section.steps for section in (config.attack, config.search.attack, config.evaluation.attack)]
    assert steps == [10, 10, 20]
    assert load_config(file, ["phases.1.attack={start: gaussian}"]).phases[1].attack.steps == 10


def test_an_attack_without_a_name_is_pgd(file: Path, tmp_path: Path) -> None:
    """As in files from before attacks had names, and with the same numbers."""
    config = load_config(file, ["validation.attack={step_size: 0.01}", "search={candidates: 2}"])
    threat = threat_model(config)
    assert attack(config.attack, threat) == PGD(threat, steps=5)
    assert attack(config.validation.attack, threat) == PGD(threat, steps=10, step_size=0.01)
    assert attack(config.search.attack, threat) == PGD(threat, steps=10)
    assert attack(config.evaluation.attack, threat) == PGD(threat, steps=20)
    older = {"steps": 5, "step_size": None, "start": "uniform", "restarts": 1}
    resolved = {**plain(config), "attack": older}
    assert parse_config(resolved) == config
    assert plain(config)["attack"] == {"name": "pgd", **older}


@pytest.mark.parametrize(
    ("override", "built"),
    [
        ("attack={name: pgd, steps: 10, step_size: 2/255}", PGD(ThreatModel(), steps=10, step_size=2 / 255)),
        ("attack={name: nfgsm, noise: 3/2, clip: true}", NFGSM(ThreatModel(), noise=1.5, clip=True)),
        ("attack={name: mifgsm}", MIFGSM(ThreatModel())),
        ("attack={name: apgd-ce, steps: 20}", APGDCE(ThreatModel(), steps=20)),
    ],
)
def test_an_attack_by_name_with_its_options(file: Path, tmp_path: Path, override: str, built: Attack) -> None:
    config = load_config(file, [override])
    assert training_attack(config, 0) == built
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(resolved) == config


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("attack={name: pdg}", ["attack: unknown attack 'pdg'", "did you mean 'pgd'?"]),
        ("attack={name: mifgsm, step: 3}", ["attack: attack 'mifgsm' has no option 'step'", "did you mean 'steps'?"]),
        ("attack={name: mifgsm, decay: high}", ["attack: option 'decay' of attack 'mifgsm'", "got 'high'"]),
        ("attack={name: mifgsm, decay: -1}", ["attack: attack 'mifgsm': decay must be at least 0"]),
        ("attack={name: cw, targeted: true}", ["attack: attack 'cw' has no option 'targeted'"]),
        ("attack={name: fgsm, seed: 3}", ["attack: attack 'fgsm' has no option 'seed'"]),
        ("attack={name: fgm}", ["attack: attack 'fgm': FGM is for norm l2, got linf"]),
        ("attack={name: square}", ["attack: 'square' is for evaluation", "pgd"]),
        ("phases.1.attack={name: square}", ["phases.1.attack: 'square' is for evaluation", "pgd"]),
        ("attack={name: deepfool}", ["attack: 'deepfool' is for evaluation", "pgd"]),
        ("attack={restarts: 2, start: clean}", ["attack: attack 'pgd': restarts from clean images"]),
        ("evaluation.attack={name: squar}", ["evaluation.attack: unknown attack 'squar'", "did you mean 'square'?"]),
        (
            "search.attack={name: square, query: 3}",
            ["search.attack: attack 'square' has no", "did you mean 'queries'?"],
        ),
    ],
)
def test_a_wrong_attack_is_refused_before_training(file: Path, override: str, parts: list[str]) -> None:
    config = load_config(file, [override])
    space = build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 8], blocks=[1, 1]).space
    with pytest.raises(UserError) as caught:
        build_phases(config, space)
    message = str(caught.value)
    assert message == " ".join(message.split())
    for part in parts:
        assert part in message


def test_a_wrong_option_of_pgd_names_its_line(tmp_path: Path) -> None:
    for text, part in (
        ("{stps: 5}", "unknown key 'attack.stps' in attack; did you mean 'steps'?"),
        ("{name: pgd, nme: 1}", "unknown key 'attack.nme' in attack; did you mean 'name'?"),
        ("{steps: 0}", "attack.steps: should be greater than or equal to 1, got 0"),
        ("{name: 3}", "attack.name: should be a valid string, got 3"),
    ):
        message = error_of(MINIMAL.replace("{steps: 5}", text), tmp_path)
        assert message == f"{tmp_path / 'wrong.yaml'}:5: {part}"


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"objective": {"name": "trades", "beta": 3}},
        {"attack": {"steps": 2}, "sampler": {"name": "uniform", "students": 2}},
        {"attack": None},
    ],
    ids=lambda own: ", ".join(own) or "alone",
)
def test_a_recipe_is_the_keys_that_it_stands_for(file: Path, tmp_path: Path, own: dict[str, Any]) -> None:
    """Those that the phase has itself go before, each as a whole, and other phases do not change."""
    written = yaml.safe_load(file.read_text())
    short = yaml.safe_load(file.read_text())
    short["phases"][1] |= {"recipe": "strong", **own}
    written["phases"][1] |= {
        "objective": {"name": "sat", "label_smoothing": 0.1},
        "sampler": {"name": "robustness"},
        "attack": {"name": "nfgsm"},
        **own,
    }
    dumped = [yaml.safe_load(parse_config(values).to_yaml()) for values in (short, written)]
    assert [phase.pop("recipe") for phase in dumped[0]["phases"]] == [None, "strong"]
    assert [phase.pop("recipe") for phase in dumped[1]["phases"]] == [None, None]
    assert dumped[0] == dumped[1]
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(parse_config(short).to_yaml(), encoding="utf-8")
    assert load_config(resolved) == parse_config(short)


# ---------------------------------------------------------------------------------------------------------------------
# Round trips and scaling


@pytest.mark.parametrize("source", ["minimal", *(path.name for path in CONFIGS)])
def test_the_resolved_file_gives_an_equal_configuration(file: Path, tmp_path: Path, source: str) -> None:
    config = load_config(file if source == "minimal" else source, ["attack.step_size=2/255", "data.root=/ä b"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(resolved) == config
    assert parse_config(yaml.safe_load(config.to_yaml())) == config
    assert load_config(resolved).to_yaml() == config.to_yaml()


def test_a_run_can_be_shortened(file: Path) -> None:
    config = load_config(file)
    assert [phase.epochs for phase in config.scaled(0.1).phases] == [1, 1]
    assert [phase.epochs for phase in config.scaled(0.5).phases] == [5, 2]
    assert [phase.epochs for phase in config.scaled(2).phases] == [20, 8]
    assert config.scaled(1) == config
    rest = [{**plain(c), "phases": None} for c in (config, config.scaled(0.5))]
    assert rest[0] == rest[1]


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_run_cannot_be_scaled_by_nonsense(file: Path, factor: float) -> None:
    with pytest.raises(UserError, match="--scale-epochs"):
        load_config(file).scaled(factor)


def test_a_configuration_cannot_be_changed(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(file).seed = 4


@pytest.mark.parametrize("number", ["010", "08", "-007", "00.5", "01e3", "1:30", "1_0:30", "1:30.5"])
def test_a_number_that_yaml_reads_otherwise_than_people(tmp_path: Path, number: str) -> None:
    (tmp_path / "c.yaml").write_text(f"data: {{name: digits}}\nthreat:\n  eps: {number}\n")
    with pytest.raises(UserError, match=r"c.yaml:3: threat.eps: .*decimal") as raised:
        load_config(tmp_path / "c.yaml")
    assert number in str(raised.value)
    for key, value in (("seed", number), ("supernet.widths", f"[16, {number}]"), ("threat", f"{{eps: {number}}}")):
        with pytest.raises(UserError, match="decimal") as raised:
            load_config("quickstart.yaml", [f"{key}={value}"])
        assert f"--set {key}=" in str(raised.value)


def test_numbers_that_mean_one_thing() -> None:
    for text, value in (("0", 0), ("10", 10), ("1_000", 1000), ("0x10", 16), ("'010'", 10)):
        assert load_config("quickstart.yaml", [f"seed={text}"]).seed == value
    for text, value in (("0.5", 0.5), ("8/255", 8 / 255), ("1e-3", 1e-3), (".5", 0.5)):
        assert load_config("quickstart.yaml", [f"threat.eps={text}"]).threat.eps == value


def test_texts_that_look_like_such_numbers_are_written_so_that_they_can_be_read(file: Path, tmp_path: Path) -> None:
    for name in ("08", "010", "1:30", "00.5"):
        config = load_config(file, [f"phases.0.name='{name}'"])
        (tmp_path / "again.yaml").write_text(config.to_yaml())
        assert load_config(tmp_path / "again.yaml") == config
