"""Students that come with the package: made from a run, listed, loaded, evaluated, taught from and begun with."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import command
from safetensors.torch import load_file

import proard
from proard import evaluate, extract, load_student, train
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.export import named
from proard.export.student_directory import WEIGHTS, read_card
from proard.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
import zoo as script  # noqa: E402

Capture = pytest.CaptureFixture[str]
SHIPPED = named.zoo()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy squares of three shades."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 14)):
        for label, name in enumerate(("dark", "grey", "light")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(60 + 70 * label, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index:02}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A short training on them, and two students."""
    config: dict[str, Any] = {
        "data": {"name": "image_folder", "root": str(images), "image_size": 8},
        "supernet": {"family": "resnet", "widths": [16, 24], "blocks": [1, 1], "width_choices": [0.5, 1.0]},
        "attack": {"steps": 1},
        "batch_size": 16,
        "phases": [
            {"name": "all", "epochs": 2, "learning_rate": 0.1, "elastic": ["all"], "objective": {"name": "sat"}}
        ],
        "validation": {"students": 0, "images": 6, "attack": {"steps": 1}},
        "search": {"candidates": 1, "mutations": 0, "images": 6, "attack": {"steps": 1}},
        "evaluation": {"attack": {"steps": 2}},
        "energy": {"enabled": False},
    }
    path = train(config, run=tmp_path_factory.mktemp("runs") / "squares", quiet=True)
    extract([("flops", "200K"), ("flops", "10M")], run=path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run: Path, images: Path) -> Path:
    """A zoo with one set, made as the real one is."""
    place = tmp_path_factory.mktemp("zoo")
    for student in run.glob("students/*"):  # AutoAttack takes its time, however few the images
        strong = 3 if student.name == "flops-200K" else 0
        script.add_student(student, place / "squares" / student.name, images, autoattack=strong)
    script.add_images(images, place / "squares" / "images")
    (place / "squares" / "supernet.txt").write_text("train it with\n'proard train --config squares.yaml'\n")
    return place


@pytest.fixture(autouse=True)
def zoo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That zoo in place of the package's own, but for the tests of what is shipped."""
    if "shipped" not in request.node.name:
        monkeypatch.setattr(named, "ZOO_FOLDER", request.getfixturevalue("made"))


def test_weights_are_the_students_rounded_to_float16(run: Path) -> None:
    network, original = load_student("zoo:squares/flops-10M"), load_student(run / "students" / "flops-10M")
    stored = load_file(named.student_folder("zoo:squares/flops-10M") / WEIGHTS)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    for (name, ours), theirs in zip(network.state_dict().items(), original.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs.half().to(theirs.dtype)), name
    batch = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(network(batch), original(batch), atol=0.05, rtol=0.02)


def test_a_card_has_what_is_measured_with_the_rounded_weights(images: Path) -> None:
    card = read_card("zoo:squares/flops-200K")
    assert list(card["files"]) == [WEIGHTS]
    (again,) = evaluate("zoo:squares/flops-200K", data_root=images)
    assert again.measurement.clean.as_dict() == card["evaluation"]["clean"]
    ((_, robust),) = again.measurement.robust.items()
    assert card["evaluation"]["robust"][0] == {**card["evaluation"]["robust"][0], **robust.as_dict()}
    (further,) = card["evaluation"]["further"]
    (strong,) = evaluate("zoo:squares/flops-200K", ["autoattack"], limit=3, data_root=images)
    assert (further["correct"], further["images"], further["limit"]) == (strong.measurement.worst.correct, 3, 3)


def test_one_that_loses_by_rounding_is_refused(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "students" / "flops-200K", tmp_path / "student")
    card = json.loads((tmp_path / "student" / "student.json").read_text())
    card["evaluation"]["clean"]["accuracy"] += 0.1
    (tmp_path / "student" / "student.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit, match="float16"):
        script.add_student(tmp_path / "student", tmp_path / "set" / "student", images, autoattack=0)
    assert not (tmp_path / "set" / "student").exists()


def test_evaluated_at_once_on_the_images_that_come_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (result,) = evaluate("zoo:squares/flops-10M")
    assert result.measurement.clean.total == 30  # ten of each class
    folder = named.student_folder("zoo:squares/flops-10M")
    (by_path,) = evaluate(folder)
    assert by_path.accuracies == result.accuracies


def test_the_list(capsys: Capture) -> None:
    assert command("zoo") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("zoo:")]
    assert [row.split()[0] for row in rows[:2]] == ["zoo:squares/flops-200K", "zoo:squares/flops-10M"]
    card = read_card("zoo:squares/flops-10M")
    assert f"{100 * card['clean_accuracy']:.1f} (" in rows[1]
    assert "autoattack %" in "".join(lines)
    assert "images:  autoattack is on 3 of 42 test images" in lines
    assert lines[-1] == 'next:    proard evaluate zoo:squares/flops-10M, or load_student("zoo:squares/flops-10M")'
    assert command("zoo", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == [row.split()[0] for row in rows[:2]]
    assert [student.name for student in proard.zoo()] == [entry["name"] for entry in found]
    assert "zoo:squares/flops-10M" in proard.zoo()._repr_html_()


def test_an_empty_zoo(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "ZOO_FOLDER", tmp_path)
    assert command("zoo") == 0
    assert capsys.readouterr().out


def test_taught_by_one_and_begun_with_one(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "zoo:squares/flops-10M"
    config: dict[str, Any] = {
        "data": {"name": "image_folder", "root": str(images), "image_size": 8},
        "mode": "student",
        "student": {"directory": name},
        "teacher": {"source": name},
        "attack": {"steps": 1},
        "phases": [{"name": "more", "epochs": 1, "learning_rate": 1e-8, "objective": {"name": "rslad"}}],
        "optimizer": {"weight_decay": 0},
        "validation": {"images": 6, "attack": {"steps": 1}},
        "energy": {"enabled": False},
    }
    path = train(config, run="more", quiet=True)
    assert (Run(path).config().teacher.source, str(Run(path).config().student.weights)) == (name, name)
    (cut,) = extract(run=path)
    before, after = load_student(name), load_student(cut.path)
    for key, value in before.named_parameters():
        torch.testing.assert_close(after.get_parameter(key), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "zoo:squares/flops-10N"], ["did you mean 'zoo:squares/flops-10M'?", "proard zoo"]),
        (["evaluate", "zoo:squares"], ["no such student in the zoo"]),
        (["evaluate", "zoo:../squares/flops-10M"], ["no such student in the zoo"]),
        (["extract", "--flops", "1M", "--run", "zoo:squares"], ["train it with 'proard train --config squares.yaml'"]),
        (["extract", "--flops", "1M", "--run", "zoo:sqares"], ["no such set", "did you mean 'zoo:squares'?"]),
        (["search", "--run", "zoo:squares"], ["students come with the package"]),
    ],
)
def test_one_line_for_a_wrong_name(capsys: Capture, arguments: list[str], words: list[str]) -> None:
    assert command(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


def test_a_damaged_one(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path / "zoo")
    monkeypatch.setattr(named, "ZOO_FOLDER", tmp_path / "zoo")
    file = tmp_path / "zoo" / "squares" / "flops-10M" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        load_student("zoo:squares/flops-10M")


# What is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name: str) -> None:
    folder, card = SHIPPED[name], read_card(name)
    assert sha256(folder / WEIGHTS) == card["files"][WEIGHTS]
    student = load_student(name)
    assert sum(parameter.numel() for parameter in student.parameters()) == card["parameters"]
    (result,) = evaluate(name)  # on the few images that come with it, which are among those of the card
    for kind, few in result.accuracies.items():
        all_of_them = {
            "clean": card["evaluation"]["clean"],
            **{r["attack"]["name"]: r for r in card["evaluation"]["robust"]},
        }
        stated = all_of_them[kind]["accuracy"]
        assert abs(few.value - stated) < 3.5 * (stated * (1 - stated) / few.total) ** 0.5


def test_shipped_size() -> None:
    files = [path for path in (ROOT / "proard" / "export" / "zoo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
