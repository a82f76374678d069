"""Student directories: what they hold runs elsewhere and agrees; what is damaged is refused."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import proard.export.student_directory
from proard import extract, load_student
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.export.student_directory import FORMATS, check_formats, describe, read_card, write_student
from proard.supernet import build_supernet


@pytest.fixture(scope="module")
def student_directory(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small student, extracted with all formats that can be written here."""
    folder = tmp_path_factory.mktemp("export")
    run = shutil.copytree(trained_run, folder / "run")
    try:
        check_formats(["onnx"])
        formats = ["onnx"]
    except UserError:
        formats = []
    (student,) = extract(flops="300K", run=run, out=folder / "students", formats=formats, quiet=True)
    return student.path


@pytest.fixture
def copy(student_directory: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(student_directory, tmp_path / "copy"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


def edit_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps({**card, **changes}))


def error_line(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_student(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


# ---------------------------------------------------------------------------------------------------------------------
# It runs elsewhere

RUN_PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "proard":
            raise ImportError("proard was imported")

sys.meta_path.insert(0, Blocker())
import torch

network = torch.export.load(sys.argv[1]).module()
images = torch.load(sys.argv[2], weights_only=True)
torch.save([network(images[:size]) for size in (1, 2, 7)], sys.argv[3])
assert "proard" not in sys.modules
"""


def test_the_program_needs_pytorch_alone(student_directory: Path, images: torch.Tensor, tmp_path: Path) -> None:
    program = shutil.copy(student_directory / "student.pt2", tmp_path)
    torch.save(images, tmp_path / "images.pt")
    arguments = [program, str(tmp_path / "images.pt"), str(tmp_path / "logits.pt")]
    result = subprocess.run(
        [sys.executable, "-c", RUN_PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    student = load_student(student_directory)
    for size, logits in zip((1, 2, 7), torch.load(tmp_path / "logits.pt", weights_only=True), strict=True):
        assert logits.shape == (size, 10)
        torch.testing.assert_close(logits, student(images[:size]).detach(), rtol=0, atol=1e-5)


def test_onnx(student_directory: Path, images: torch.Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if not (student_directory / "student.onnx").exists():
        pytest.skip("needs the extra onnx")
    assert sorted(path.name for path in student_directory.iterdir()) == [
        "README.md",
        "student.json",
        "student.onnx",
        "student.pt2",
        "student.safetensors",
    ]
    session = onnxruntime.InferenceSession(student_directory / "student.onnx", providers=["CPUExecutionProvider"])
    assert [entry.name for entry in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    student = load_student(student_directory)
    for size in (1, 5):
        (logits,) = session.run(["logits"], {"images": images[:size].numpy()})
        expected = student(images[:size]).detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
        assert logits.argmax(1).tolist() == expected.argmax(1).tolist()


def test_the_usage_in_the_model_card(
    student_directory: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippets for proard, PyTorch alone and onnxruntime alone run as they are printed, and agree."""
    blocks = (student_directory / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2 + (student_directory / "student.onnx").exists()
    monkeypatch.chdir(student_directory)
    logits = []
    for block in blocks:
        names: dict[str, Any] = {"images": images}
        exec(block.split("```")[0].replace("this directory", str(student_directory)), names)
        logits.append(torch.as_tensor(names["logits"]).detach())
    for found in logits[1:]:
        torch.testing.assert_close(found, logits[0], rtol=0, atol=1e-4)


def test_a_loaded_student_is_ready_to_use(student_directory: Path, images: torch.Tensor) -> None:
    student = load_student(str(student_directory))
    assert not any(module.training for module in student.modules())
    assert student.card == json.loads((student_directory / "student.json").read_text())
    assert torch.equal(student(images)[:3], student(images[:3]))  # no statistics of the batch
    assert all(parameter.device.type == "cpu" for parameter in student.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("name", ["student.safetensors", "student.pt2"])
def test_a_flipped_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    message = error_line(copy)
    assert name in message
    assert "damaged" in message


@pytest.mark.parametrize("name", ["student.safetensors", "student.pt2", "student.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in error_line(copy)


def test_no_directory(tmp_path: Path) -> None:
    assert "student.json" in error_line(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"format"', "{}", '{"format": 99}', '{"format": 1}', "\x00", '{"format": [1]}']
)
def test_a_card_that_is_none(copy: Path, text: str) -> None:
    (copy / "student.json").write_text(text)
    assert "student.json" in error_line(copy)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architecture": {}}, "missing"),
        ({"architecture": {"stem.width": 7}}, "stem.width"),
        ({"architecture": []}, "'architecture'"),
        ({"architecture": {"stem.width": "wide"}}, "stem.width"),
        ({"architecture": {"stem.width": [1]}}, "stem.width"),
        ({"family": "resnte"}, "did you mean 'resnet'"),
        ({"family": None}, "'family'"),
        ({"family_options": {"depth": 3}}, "'depth'"),
        ({"family_options": {"widths": "wide"}}, "'widths'"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 11}, "does not fit its card"),
        ({"input_shape": [3, 8, 8]}, "student"),
        ({"input_shape": [1]}, "input_shape"),
        ({"files": {}}, "student.safetensors"),
        ({"files": []}, "'files'"),
        ({"files": {"nothing": "0"}}, "student.safetensors"),
        ({"format": 2}, "format 2"),
    ],
)
def test_a_card_that_does_not_fit(copy: Path, changes: dict[str, Any], part: str) -> None:
    edit_card(copy, **changes)
    assert part in error_line(copy)


def test_another_architecture_does_not_fit_the_weights(copy: Path) -> None:
    card = read_card(copy)
    other = dict(card["architecture"])
    other["stage2.width"] = 1.0 if other["stage2.width"] == 0.5 else 0.5
    edit_card(copy, architecture=other)
    assert "does not fit its card" in error_line(copy)


def test_weights_are_never_unpickled(copy: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    (copy / "student.safetensors").write_bytes(pickle.dumps(Harm()))
    edit_card(copy, files={"student.safetensors": sha256(copy / "student.safetensors")})
    assert "does not fit its card" in error_line(copy)
    assert not (tmp_path / "harm").exists()


def test_weights_that_lack_a_tensor_or_have_one_more(copy: Path) -> None:
    tensors = load_file(copy / "student.safetensors")
    for changed in ({**tensors, "extra": torch.zeros(1)}, {k: v for k, v in tensors.items() if "classifier" not in k}):
        save_file(changed, copy / "student.safetensors")
        edit_card(copy, files={"student.safetensors": sha256(copy / "student.safetensors")})
        message = error_line(copy)
        assert "extra" in message or "classifier" in message


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def test_an_uncalibrated_student_is_refused(student_directory: Path, tmp_path: Path) -> None:
    card = read_card(student_directory)
    net = build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 16], blocks=[1, 1])
    with pytest.raises(UserError, match="no statistics"):
        write_student(tmp_path / "student", net.student(net.space.smallest()), card)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["resnet", "resnet50"])
def test_the_size_of_the_file_is_predicted(student_directory: Path, tmp_path: Path, family: str, fast: None) -> None:
    """The budget `size` rests on it: never more than predicted, and not much less."""
    net = build_supernet(family, num_classes=10, input_shape=(3, 16, 16), width_choices=[0.25, 0.5])
    rng = random.Random(0)
    for index, architecture in enumerate([net.space.smallest(), net.space.sample(rng), net.space.sample(rng)]):
        student = net.extract(architecture, [torch.rand(2, 3, 16, 16)])
        card = {**read_card(student_directory), **describe(net.family, architecture)}
        path = tmp_path / str(index)
        written = write_student(path, student, card)
        cost, size = net.space.cost(architecture), (path / "student.safetensors").stat().st_size
        assert (written["bytes"], written["parameters"]) == (size, cost.parameters)
        assert size <= cost.file_bytes
        assert cost.parameters > 100_000
        assert cost.file_bytes <= 1.03 * size + 4000
        x = torch.rand(3, 3, 16, 16)
        assert torch.equal(load_student(path)(x), student(x))  # what is loaded is what was written


def test_writing_leaves_the_student_as_it_was(student_directory: Path, tmp_path: Path, fast: None) -> None:
    net = build_supernet("resnet", num_classes=10, input_shape=(1, 8, 8), widths=[8, 16], blocks=[1, 1])
    student = net.extract(net.space.smallest(), [torch.rand(4, 1, 8, 8)])
    student.train().double().to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    card = {**read_card(student_directory), **describe(net.family, net.space.smallest())}
    write_student(tmp_path / "student", student, card)
    assert student.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert next(load_student(tmp_path / "student").parameters()).dtype == torch.float32


def test_a_student_is_readable_for_others(student_directory: Path) -> None:
    for path in student_directory.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path.name


def test_formats_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        check_formats(["pt2", "onxx"])
    monkeypatch.setattr(proard.export.student_directory, "find_spec", lambda name: None)
    check_formats(["pt2", "safetensors"])
    for name, package, extra in (
        ("onnx", "onnx", "onnx"),
        ("onnx-int8", "torchao", "int8"),
        ("pt2-int8", "torchao", "int8"),
        ("executorch", "executorch", "executorch"),
    ):
        with pytest.raises(UserError, match=rf"--format {name}: .*'{package}'.*proard\[{extra}\]"):
            check_formats([name])


def test_a_card_is_plain_json(student_directory: Path) -> None:
    """Nothing that only Python reads: no NaN, no infinity."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    card = json.loads((student_directory / "student.json").read_text(), parse_constant=refuse)
    assert card["bytes"] == (student_directory / "student.safetensors").stat().st_size
    assert all(math.isfinite(value) for value in (card["clean_accuracy"], card["robust_accuracy"]))
    digests = {path.name: sha256(path) for path in student_directory.iterdir()}
    digests.pop("README.md"), digests.pop("student.json")
    assert card["files"] == digests
