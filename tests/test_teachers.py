"""Teachers from elsewhere: what is read and how, what is refused before training, and what a resumed run requires."""

from __future__ import annotations

import argparse
import gzip
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from safetensors.torch import save_file
from test_training import final_state, same
from torch import nn
from torch.nn import functional

from proard import evaluate, extract, load_student, train
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.config import TeacherConfig, load_config, parse_config
from proard.data import load_data
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run
from proard.supernet import build_supernet
from proard.training.interruption import Interrupted
from proard.training.teachers import BatchTeacher, ExternalTeacher, load_teacher, robustbench
from proard.training.trainer import Trainer

timm = pytest.importorskip("timm", reason="needs timm, of the extra timm")

DIGITS = tuple(str(digit) for digit in range(10))
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def student(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student directory for the digits."""
    (extracted,) = extract(flops="1G", run=trained_run, out=tmp_path_factory.mktemp("students"), quiet=True)
    return extracted.path


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small model of timm with random weights and batch-norm statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model.eval()


def load(teacher: Any, classes: tuple[str, ...] = DIGITS, shape: tuple[int, int, int] = SHAPE, **told: Any) -> Any:
    return load_teacher(TeacherConfig.model_validate(teacher), classes, shape, **told)


def images(count: int = 6, size: int = 8, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(2))


def refused(teacher: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(teacher, **options)
    message = str(caught.value)
    assert message == " ".join(message.split())
    return message


# ---------------------------------------------------------------------------------------------------------------------
# What is read


def test_a_student_directory_and_its_program_are_the_student(student: Path) -> None:
    x = images()
    expected = load_student(student)(x)
    teacher = load(str(student))
    torch.testing.assert_close(teacher(x), expected, rtol=0, atol=0)
    assert teacher.sha256 == sha256(student / "student.safetensors")
    program = load({"source": str(student / "student.pt2"), "trusted": True})
    torch.testing.assert_close(program(x), expected, rtol=1e-5, atol=1e-5)
    darker = load({"source": str(student / "student.pt2"), "trusted": True, "mean": [0.25], "std": [0.5]})
    torch.testing.assert_close(darker(x), program((x - 0.25) / 0.5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["plain.pt", "nested.pth", "parallel.pt", "tensors.safetensors"])
def test_a_file_of_weights_is_the_model_behind_its_normalisation(model: nn.Module, tmp_path: Path, layout: str) -> None:
    path, state = tmp_path / layout, model.state_dict()
    if layout == "tensors.safetensors":
        save_file(state, path)
    else:
        parallel = {f"module.{name}": tensor for name, tensor in state.items()}
        contents = {"plain.pt": state, "nested.pth": {"epoch": 3, "state_dict": parallel}, "parallel.pt": parallel}
        torch.save(contents[layout], path)
    x = images()
    stated = timm.get_pretrained_cfg("test_resnet")
    mean, std = sum(stated.mean) / 3, sum(stated.std) / 3  # the digits have one channel
    with torch.no_grad():
        default, given = model((x - mean) / std), model((x - 0.2) / 0.7)
    weights = {"source": str(path), "architecture": "test_resnet"}
    torch.testing.assert_close(load(weights)(x), default, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load({**weights, "mean": [0.2], "std": [0.7]})(x), given, rtol=1e-5, atol=1e-5)
    named = load({"source": "timm:test_resnet", "file": str(path), "sha256": sha256(path).upper()})
    torch.testing.assert_close(named(x), default, rtol=1e-5, atol=1e-5)
    assert named.sha256 == sha256(path)


def test_images_are_resized_for_the_teacher(model: nn.Module, student: Path, tmp_path: Path) -> None:
    vit = timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=32).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    weights = {"source": str(tmp_path / "vit.pt"), "architecture": "test_vit", "architecture_options": {"img_size": 32}}
    x = images()
    larger = functional.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = vit((larger - 0.5) / 0.5)
    torch.testing.assert_close(load({**weights, "image_size": 32})(x), expected, rtol=1e-5, atol=1e-5)
    assert "teacher.image_size" in refused(weights)
    assert "takes images of 1 x 8 x 8, not 1 x 28 x 28" in refused(str(student), shape=(1, 28, 28))
    fitting = load({"source": str(student), "image_size": 8}, shape=(1, 28, 28))
    assert fitting(images(size=28)).shape == (6, 10)


def test_published_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for only with `pretrained`, and only fit the classes and the size that they were made for."""
    create, asked = timm.create_model, []
    published = create("test_resnet", num_classes=1000).eval()

    def fetch(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append(pretrained)
        made = create(name, **options)
        if pretrained:
            made.load_state_dict(published.state_dict())
        return made

    monkeypatch.setattr(timm, "create_model", fetch)
    thousand = tuple(map(str, range(1000)))
    wanted = {"source": "timm:test_resnet", "pretrained": True}
    assert "for 1000 classes, the data has 10" in refused(wanted)
    assert "160 x 160, the data has 32 x 32" in refused(wanted, classes=thousand, shape=(3, 32, 32))
    assert not any(asked)
    teacher = load({**wanted, "image_size": 160}, classes=thousand, shape=(3, 32, 32))
    assert sum(asked) == 1
    x = functional.interpolate(images(2, 32, 3), size=(160, 160), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = published((x - 0.5) / 0.5)
    torch.testing.assert_close(teacher(images(2, 32, 3)), expected, rtol=1e-5, atol=1e-5)
    assert teacher.sha256 is None


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", "/nowhere")
    thousand = tuple(map(str, range(1000)))
    wanted = {"source": "timm:test_resnet", "pretrained": True, "image_size": 160}
    assert "published weights cannot be loaded (give a file" in refused(wanted, classes=thousand, shape=(3, 32, 32))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setitem(sys.modules, "robustbench", None)
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    wanted = {"source": "robustbench:cifar10/Linf/Standard", "file": str(tmp_path / "w.pt")}
    assert "needs the package 'robustbench'; pip install 'proard[robustbench]'" in refused(wanted)
    monkeypatch.setitem(sys.modules, "timm", None)
    wanted = {"source": str(tmp_path / "w.pt"), "architecture": "resnet18"}
    assert "needs the package 'timm'; pip install 'proard[timm]'" in refused(wanted)


# ---------------------------------------------------------------------------------------------------------------------
# RobustBench, through a stand-in that keeps its files and reads them as it does


class FakeBench:
    """`robustbench.utils.load_model`: reads MODEL_DIR/DATASET/THREAT/NAME.pt, and downloads it where it is missing."""

    def __init__(self) -> None:
        self.downloads = 0
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.9))

    def load_model(self, model_name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        path = Path(model_dir) / dataset / threat_model / f"{model_name}.pt"
        if model_name == "Unknown":
            raise KeyError(model_name)
        if not path.is_file():
            self.downloads += 1
            path.parent.mkdir(parents=True)
            torch.save(self.network.state_dict(), path)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.9))
        network.load_state_dict(torch.load(path, weights_only=False))
        return network


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBench:
    fake = FakeBench()
    utils = types.ModuleType("robustbench.utils")
    utils.load_model = fake.load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return fake


def test_robustbench_finds_autoattack_under_its_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyautoattack")
    (tmp_path / "robustbench").mkdir()
    imports = "from autoattack import AutoAttack\nfrom autoattack.state import EvaluationState\n"  # as in 1.1.1
    (tmp_path / "robustbench" / "__init__.py").write_text(imports)
    (tmp_path / "robustbench" / "utils.py").write_text("load_model = 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with mock.patch.dict(sys.modules):
        assert robustbench._import_load_model() == "found"
        del sys.modules["robustbench"], sys.modules["robustbench.utils"]
        (tmp_path / "robustbench" / "__init__.py").write_text("import a_package_that_is_missing")
        importlib.invalidate_caches()
        with pytest.raises(UserError, match=r"\(No module named 'a_package_that_is_missing'\)"):
            robustbench._import_load_model()


def test_robustbench_takes_a_local_file_first(bench: FakeBench, tmp_path: Path) -> None:
    x = images()
    expected = bench.network.eval()(x)
    file = tmp_path / "models" / "cifar10" / "Linf" / "Wong2020Fast.pt"
    file.parent.mkdir(parents=True)
    torch.save(bench.network.state_dict(), file)
    other = Path(file.rename(tmp_path / "renamed.pt"))
    from_file = load({"source": "robustbench:Wong2020Fast", "file": str(other)}, data_name="cifar10")
    torch.testing.assert_close(from_file(x), expected)
    assert from_file.sha256 == sha256(other)
    other.rename(file)
    folder = {"source": "robustbench:Wong2020Fast", "file": str(tmp_path / "models"), "sha256": sha256(file)}
    torch.testing.assert_close(load(folder, data_name="cifar10", norm="linf")(x), expected)
    elsewhere = {**folder, "source": "robustbench:cifar10/Linf/Wong2020Fast"}
    torch.testing.assert_close(load(elsewhere, data_name="digits", norm="l2")(x), expected)
    assert bench.downloads == 0


def test_robustbench_downloads_only_on_request(bench: FakeBench, tmp_path: Path) -> None:
    wanted = {"source": "robustbench:cifar10/L2/Standard"}
    message = refused(wanted)
    assert "home/.cache/proard/robustbench/cifar10/L2/Standard.pt" in message
    assert "pretrained: true" in message
    assert bench.downloads == 0
    teacher = load({**wanted, "pretrained": True})
    kept = tmp_path / "home/.cache/proard/robustbench/cifar10/L2/Standard.pt"
    assert teacher.sha256 == sha256(kept)
    load(wanted)  # is there now
    assert bench.downloads == 1
    assert "teacher.sha256 is 00" in refused({**wanted, "sha256": "0" * 64})


def test_robustbench_refuses(bench: FakeBench, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(bench.network.state_dict(), file)
    given = {"file": str(file)}
    assert "robustbench:cifar10/Linf/Standard" in refused({"source": "robustbench:Standard", **given})
    assert "no model 'Unknown'" in refused({"source": "robustbench:cifar10/Linf/Unknown", **given})
    assert "no file" in refused({"source": "robustbench:cifar10/Linf/A", "file": str(tmp_path / "nothing")})
    registered = "robustbench:cifar10/Linf/Debenedetti-XCiT"
    timm.models.register_model(_named("debenedetti_xcit_cifar10_linf"))
    assert "always fetches" in refused({"source": registered, **given})


def _named(name: str) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **_: Any) -> nn.Module:
        raise AssertionError("must not be made")

    make.__name__ = make.__qualname__ = name
    make.__module__ = __name__
    return make


# ---------------------------------------------------------------------------------------------------------------------
# Files that others made


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_nothing_in_a_file_is_executed(bench: FakeBench, student: Path, tmp_path: Path) -> None:
    place, file = tmp_path / "executed", tmp_path / "evil.pt"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "evil": Evil(place)}, file)
    for teacher in (
        {"source": str(file), "architecture": "test_resnet"},
        {"source": "timm:test_resnet", "file": str(file)},
        {"source": "robustbench:cifar10/Linf/Standard", "file": str(file)},
    ):
        assert "cannot be" in refused(teacher)
    with zipfile.ZipFile(student / "student.pt2") as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
        pickled = io.BytesIO()
        torch.save((Evil(place), {}), pickled)
        for name in old.namelist():
            new.writestr(name, pickled.getvalue() if name.endswith("sample_inputs/model.pt") else old.read(name))
    assert "not a torch.export program" in refused({"source": str(tmp_path / "evil.pt2"), "trusted": True})
    assert not place.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_cannot_be_read_is_one_line(model: nn.Module, student: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({**model.state_dict(), "extra": torch.zeros(1)}, tmp_path / "extra.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt2").write_text("text")
    resnet = {"architecture": "test_resnet"}
    weights = {"source": str(tmp_path / "weights.pt"), **resnet}
    for teacher, part in (
        (str(tmp_path / "nowhere"), "no such directory; a teacher is frozen, joint"),
        (str(tmp_path), "no student.json there"),
        ({"source": str(tmp_path / "no.pt"), **resnet}, "no file"),
        ({"source": "timm:test_resnet", "file": str(tmp_path / "no.pt")}, "no file"),
        ({"source": str(tmp_path / "empty.pt"), **resnet}, "cannot be read as weights"),
        ({"source": str(tmp_path / "list.pt"), **resnet}, "holds no state dict"),
        ({"source": str(tmp_path / "extra.pt"), **resnet}, "have also model.extra"),
        ({**weights, "architecture": "test_efficientnet"}, "lack"),
        ({**weights, "architecture": "test_resnt"}, "did you mean 'test_resnet'?"),
        ({**weights, "architecture": "resnet18.a9"}, "no weights of that tag"),
        ({**weights, "architecture_options": {"depth": 3}}, "cannot be made with options {'depth': 3}"),
        ({**weights, "architecture_options": {"pretrained": True}}, "option 'pretrained'"),
        ({**weights, "mean": [0.1, 0.2], "std": [1, 1]}, "mean needs 1 or 1 values"),
        ({**weights, "sha256": "0" * 64}, f"has sha256 {sha256(tmp_path / 'weights.pt')}"),
        ({"source": str(tmp_path / "text.pt2"), "trusted": True}, "not a torch.export program"),
    ):
        assert part in refused(teacher)
    assert "are of another shape: model.conv1.0.weight is [16, 1, 3, 3]" in refused(weights, shape=(3, 8, 8))
    (tmp_path / "damaged").mkdir()
    for file in student.iterdir():
        (tmp_path / "damaged" / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "damaged" / "student.safetensors").open("r+b") as damaged:
        damaged.seek(-1, 2)
        damaged.write(b"x")
    assert "is damaged" in refused(str(tmp_path / "damaged"))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}, "epoch": 3},
        lambda state: {"state_dict": {f"net.{n}": t for n, t in state.items()}, "hyper_parameters": {"lr": 0.1}},
        lambda state: {f"_orig_mod.{n}": t for n, t in state.items()},
        lambda state: {f"module._orig_mod.{n}": t for n, t in state.items()},
        lambda state: {"model": {f"_orig_mod.module.{n}": t for n, t in state.items()}},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1, data=Path("x"))},
        lambda state: OrderedDict(state),
        lambda state: {"net": state, "acc": 91.2, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"state_dict_ema": {f"module.{n}": t for n, t in state.items()}},
    ],
)
def test_weights_as_trainers_save_them(model: nn.Module, tmp_path: Path, wrapped: Callable[..., Any]) -> None:
    torch.save(wrapped(model.state_dict()), tmp_path / "weights.pt")
    teacher = {"source": str(tmp_path / "weights.pt"), "architecture": "test_resnet", "mean": [0], "std": [1]}
    x = images()
    torch.testing.assert_close(load(teacher)(x), model(x))


def test_the_content_says_how_a_file_is_read(model: nn.Module, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "weights.pt")
    torch.save(model.state_dict(), tmp_path / "zip")
    torch.save(model.state_dict(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "zip").rename(tmp_path / "weights.safetensors")
    # A header of 0x3c20 bytes: the file begins with a space and "<", as a web page may
    content = (tmp_path / "weights.pt").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].ljust(0x3C20)
    (tmp_path / "page.bin").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    x = images()
    for name in ("weights.pt", "weights.safetensors", "old.ckpt", "page.bin"):
        teacher = {"source": "timm:test_resnet", "file": str(tmp_path / name), "mean": [0], "std": [1]}
        torch.testing.assert_close(load(teacher)(x), model(x))


def zipped(name: str) -> bytes:
    """A zip archive with one file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


def test_what_is_no_weights_is_named(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    web_page, pointer = b"\n<!DOCTYPE html><html>404", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
    for content, words in (
        (web_page, "is a web page"),
        (pointer, "a pointer of Git LFS"),
        (b'{"error": "not found"}', "a text file in JSON"),
        (b"", "it is empty"),
        (gzip.compress(b"weights"), "packed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (zipped("arrays.npy"), "arrays of NumPy"),
        (zipped("readme.txt"), "a zip archive of something else"),
        (zipped("program/constants.pkl"), "a TorchScript program"),
        (b"PK\x03\x04 but no more", "or is damaged"),
    ):
        for name in ("weights.pt", "weights.pth", "weights.safetensors"):
            (tmp_path / name).write_bytes(content)
            message = refused({"source": str(tmp_path / name), "architecture": "test_resnet"})
            assert words in message or (name.endswith("safetensors") and "damaged" in words)
            assert "weights_only" not in message
            assert "\x1b" not in message
    torch.save(model, file)
    message = refused({"source": str(file), "architecture": "test_resnet"})
    assert re.search(r"more than tensors \(an object of timm\S+\)", message)
    assert "weights_only" not in message
    torch.save({name: t * float("nan") for name, t in model.state_dict().items()}, file)
    assert "weights are not finite" in refused({"source": str(file), "architecture": "test_resnet"})
    torch.save({"epoch": 3, "net": {"inner": 1}}, file)
    assert "it has 'epoch, net ...'" in refused({"source": str(file), "architecture": "test_resnet"})


def test_what_does_not_fit_the_data_is_refused(student: Path, model: nn.Module, tmp_path: Path) -> None:
    assert "it has 10 classes, the data has 3" in refused(str(student), classes=("a", "b", "c"))
    assert "other classes" in refused(str(student), classes=tuple("abcdefghij"))
    program = {"source": str(student / "student.pt2"), "trusted": True}
    assert "it has 10 classes, the data has 3" in refused(program, classes=("a", "b", "c"))
    assert "does not take 2 images of 3 x 8 x 8" in refused(program, shape=(3, 8, 8))
    export = torch.export.export(load_student(student), (torch.zeros(2, 1, 8, 8),))
    torch.export.save(export, tmp_path / "two.pt2")
    assert "does not take 3 images" in refused({"source": str(tmp_path / "two.pt2"), "trusted": True})
    broken = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken["fc.bias"][3] = float("nan")
    torch.save(broken, tmp_path / "broken.pt")
    assert "not finite" in refused({"source": str(tmp_path / "broken.pt"), "architecture": "test_resnet"})
    features = torch.export.export(
        nn.Flatten(0), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(features, tmp_path / "features.pt2")
    assert "one row of logits" in refused({"source": str(tmp_path / "features.pt2"), "trusted": True})


# ---------------------------------------------------------------------------------------------------------------------
# How it behaves


def test_a_teacher_stays_in_evaluation_mode_and_is_differentiable_by_its_input(
    student: Path, model: nn.Module, tmp_path: Path
) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    weights = {"source": str(tmp_path / "weights.pt"), "architecture": "test_resnet"}
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.9))
    wrapped = ExternalTeacher(network.eval(), source="test")
    state = torch.get_rng_state()
    program = {"source": str(student / "student.pt2"), "trusted": True}
    teachers = [wrapped, load(str(student)), load(program), load(weights)]
    assert torch.equal(torch.get_rng_state(), state)
    for teacher in teachers:
        x = images().requires_grad_()
        before = teacher(x)
        teacher.train()
        torch.testing.assert_close(teacher(x), before, rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(before.square().sum(), x)
        assert gradient.abs().sum() > 0
        assert list(teacher.parameters())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_each_batch_is_shown_to_the_teacher_once(tiny: dict[str, Any], student: Path, tmp_path: Path) -> None:
    tiny["phases"] = [{**tiny["phases"][2], "objective": {"name": "rslad"}}]  # the first phase, with many students
    tiny["teacher"] = str(student)
    trainer = make_trainer(tiny, tmp_path)
    seen: list[torch.Tensor] = []
    assert trainer.answering is not None
    trainer.answering.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = next(trainer.train_images.batches(trainer._batches(), trainer.device))
    assert len(trainer.sampler.sample(0)) >= 3
    trainer._step(*batch)
    assert len(seen) == 1
    assert torch.equal(seen[0], batch[0])


def make_trainer(values: dict[str, Any], tmp_path: Path) -> Trainer:
    config = parse_config(values)
    (tmp_path / "run").mkdir(exist_ok=True)
    return Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


@pytest.fixture
def distilling(tiny: dict[str, Any], student: Path) -> dict[str, Any]:
    """A run whose first phase distils from a student directory."""
    tiny["phases"] = [{**tiny["phases"][1], "epochs": 2}]
    tiny["teacher"] = {"source": str(student)}
    return tiny


def stop_after(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send this process SIGTERM in the middle of these steps of training, once each."""
    left, original = list(steps), Trainer._step

    def step(self: Trainer, *batch: Any) -> None:
        original(self, *batch)
        if left and self.position.step + 1 == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step)


def test_a_run_resumes_bit_for_bit_and_does_not_keep_its_teacher(
    distilling: dict[str, Any], student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(distilling, run=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(distilling, run=tmp_path / "stopped", quiet=True)
    torch.rand(7)  # whatever the process did before must not matter
    train(run=tmp_path / "stopped", resume=True, quiet=True)
    assert same(final_state(tmp_path / "stopped"), final_state(whole))
    state = load_checkpoint(whole / "checkpoint.pt")
    assert state["teacher"] is None
    assert state["teacher_file"] == {"source": str(student), "sha256": sha256(student / "student.safetensors")}


def test_a_changed_teacher_is_refused(
    tiny: dict[str, Any], model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / "teacher.pt"
    torch.save(model.state_dict(), file)
    tiny["phases"] = [tiny["phases"][1]]
    tiny["teacher"] = {"source": str(file), "architecture": "test_resnet", "trust": True}
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(tiny, run=tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    original = file.read_bytes()
    torch.save({name: 2 * tensor for name, tensor in model.state_dict().items()}, file)
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["train", "--resume", "--run", str(tmp_path / "run")])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"teacher {file} has changed" in line
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    file.write_bytes(original)
    train(run=tmp_path / "run", resume=True, quiet=True)


def test_the_configuration_of_a_run_means_the_same_from_any_folder(
    distilling: dict[str, Any], student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(student.parent)
    run = train({**distilling, "teacher": student.name}, run=tmp_path / "run", quiet=True)
    monkeypatch.chdir(tmp_path)
    assert load_config(run / "config.yaml").teacher.source == str(student)
    again = train(run / "config.yaml", run=tmp_path / "again", quiet=True)
    assert same(final_state(again), final_state(run))


def test_a_phase_can_freeze_its_teacher_anew(tiny: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """ce, then hat helped by the ce network, then rslad from the hat network; the same after an interruption."""
    shared = {"epochs": 1, "learning_rate": 0.05}
    tiny["phases"] = [
        {"name": "clean", **shared, "objective": {"name": "ce"}},
        {"name": "helped", **shared, "objective": {"name": "hat"}},
        {"name": "students", **shared, "elastic": ["width"], "objective": {"name": "rslad"}, "refresh_teacher": True},
    ]
    teachers: list[tuple[str, dict[str, torch.Tensor]]] = []
    bests: dict[str, dict[str, torch.Tensor]] = {}
    original_begin, original_end = Trainer._begin_phase, Trainer._end_phase

    def begin(self: Trainer) -> None:
        original_begin(self)
        if self.teacher is not None:
            teachers.append((self.phase.name, {n: t.clone() for n, t in self.teacher.state_dict().items()}))

    def end(self: Trainer) -> None:
        assert self.best is not None
        bests[self.phase.name] = self.best["weights"]
        original_end(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_begin_phase", begin)
        patch.setattr(Trainer, "_end_phase", end)
        run = train({**tiny, "sort_channels": False}, run=tmp_path / "run", quiet=True)
    assert [name for name, _ in teachers] == ["helped", "students"]
    for (_, teacher), trained in zip(teachers, ("clean", "helped"), strict=True):
        assert all(torch.equal(teacher[name], tensor) for name, tensor in bests[trained].items() if name in teacher)
    with monkeypatch.context() as patch:
        stop_after(patch, 13)  # in the third phase
        with pytest.raises(Interrupted):
            train({**tiny, "sort_channels": False}, run=tmp_path / "stopped", quiet=True)
    train(run=tmp_path / "stopped", resume=True, quiet=True)
    assert same(final_state(tmp_path / "stopped"), final_state(run))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"teacher": "joint", "phases.1": {"refresh_teacher": True}}, "phases.1.refresh_teacher: the teacher is joint"),
        ({"teacher": "elsewhere", "phases.1": {"refresh_teacher": True}}, "the teacher is from elsewhere"),
        ({"phases.0": {"refresh_teacher": True}}, "nothing is trained before"),
        ({"teacher": {"source": "x", "mode": "joint"}}, "mode joint trains the largest student"),
        ({"teacher": {"source": "x", "objective": {"name": "trades"}}}, "objective is for mode joint"),
        ({"teacher": "weights.pt"}, "teacher.architecture"),
        ({"teacher": "program.pt2"}, "trusted: true"),
        ({"teacher": "timm:resnet18"}, "either teacher.file, or pretrained: true"),
        (
            {"teacher": {"source": "timm:a", "pretrained": True, "file": "b"}},
            "either teacher.file, or pretrained: true",
        ),
        ({"teacher": "timm:"}, "a name is missing"),
        ({"teacher": {"image_size": 8}}, "image_size does not go with the largest student"),
        ({"teacher": {"source": "folder", "mean": [0.5], "std": [1]}}, "mean does not go with a student directory"),
        ({"teacher": {"source": "robustbench:A", "architecture": "b"}}, "it takes trust, pretrained, file"),
        ({"teacher": {"source": "a.pt", "architecture": "b", "std": [1]}}, "mean and std go together"),
        ({"teacher": {"source": "a.pt", "architecture": "b", "sha256": "123"}}, "teacher.sha256"),
        ({"teacher": {"sorce": "a"}}, "did you mean 'source'?"),
    ],
)
def test_mistakes_in_the_configuration(tiny: dict[str, Any], change: dict[str, Any], part: str) -> None:
    for key, value in change.items():
        if key.startswith("phases."):
            tiny["phases"][int(key[-1])] |= value
        else:
            tiny[key] = value
    with pytest.raises(UserError) as caught:
        parse_config(tiny)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_does_not_fit_leaves_no_run(distilling: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "run"
    for change, part in (
        ({"teacher": str(tmp_path)}, "no student.json"),
        ({"teacher": "frozn"}, "a teacher is frozen, joint"),
        ({"teacher": "frozen"}, "or give a teacher from elsewhere"),
    ):
        with pytest.raises(UserError, match=part):
            train({**distilling, **change}, run=path, quiet=True)
        assert not path.exists()


def test_plain_words_stand_for_modes() -> None:
    for word in ("frozen", "joint"):
        assert TeacherConfig.model_validate(word) == TeacherConfig(mode=word)  # type: ignore[arg-type]
    assert TeacherConfig.model_validate("some/folder").source == "some/folder"


def test_a_batch_teacher_answers_from_memory() -> None:
    network = build_supernet("resnet", num_classes=3, input_shape=(1, 8, 8), widths=(8,), blocks=(1,))
    student = network.student(network.space.largest())
    calls: list[int] = []
    student.register_forward_hook(lambda *_: calls.append(1))
    x = images(4)
    teacher = BatchTeacher(student, x)
    assert torch.equal(teacher(x), teacher(x))
    assert len(calls) == 1
    assert not teacher(x).requires_grad
    assert teacher(x.clone()).requires_grad
    assert len(calls) == 2


def test_a_teacher_is_measured_before_it_teaches(
    tiny: dict[str, Any], model: nn.Module, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose classes are in another order, or who expects other pixel values, is refused before anything is made."""

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 16, 3, padding=1)
            self.head = nn.Linear(16 * 64, 10)
            self.order = nn.Parameter(torch.eye(10))
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x - self.mean).relu().flatten(1)) @ self.order

    digits = load_data(parse_config({"data": {"name": "digits"}}).data)
    x, y = next(digits.train.batches([torch.arange(len(digits.train))], "cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Teacher()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    files = {}
    for name in ("good", "shifted", "other pixels", "nearly"):
        if name == "shifted":
            network.order.data = network.order.data.roll(1, 1)
        if name == "other pixels":
            network.order.data = network.order.data.roll(-1, 1)
            network.mean.fill_(-300.0)
        program = torch.export.export(network.eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        files[name] = tmp_path / f"{name}.pt2"
        torch.export.save(program, files[name])
    tiny["phases"] = [tiny["phases"][1]]
    for name in ("shifted", "other pixels"):
        teacher = {"source": str(files[name]), "trusted": True}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tiny, "teacher": teacher}))
        with pytest.raises(SystemExit) as left:
            main(["train", "--config", str(tmp_path / "c.yaml"), "--run", str(tmp_path / name)])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(r"right on [\d.]+ % of 20 validation images, hardly more than by guessing \(10 %\)", line)
        assert "order" in line
        assert "teacher.mean" in line
        assert "teacher.trust: true" in line
        assert not (tmp_path / name).exists()
    train({**tiny, "teacher": {**teacher, "trust": True}}, run=tmp_path / "trusted", quiet=True)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tiny, "teacher": {**teacher, "source": str(files["good"])}}))
    with pytest.raises(SystemExit) as left:
        main(["train", "--config", str(tmp_path / "c.yaml"), "--run", str(tmp_path / "good")])
    assert left.value.code == 0
    said = "".join(capsys.readouterr().out.split())
    assert re.search(r"teacher:.*good.pt2;\d+\.\d%,[\d.]+%underpgd2,on20validationimages", said)


# ---------------------------------------------------------------------------------------------------------------------
# The guide

GUIDE = (Path(__file__).parent.parent / "docs/guides/teachers_and_students.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]


@pytest.fixture
def guide_folder(student: Path, model: nn.Module, bench: FakeBench, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with the files that the guide names; the working directory."""
    shutil.copytree(student, tmp_path / "runs/teacher/students/student")
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(model.state_dict(), weights / "resnet.pt")
    torch.save(model.state_dict(), weights / "mine.pt")
    save_file(
        timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=32).state_dict(), weights / "vit.safetensors"
    )
    shutil.copy(student / "student.pt2", weights / "teacher.pt2")
    torch.save(bench.network.state_dict(), weights / "linear.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(block: dict[str, Any], tiny: dict[str, Any]) -> dict[str, Any]:
    """A block of the guide as a whole configuration on a few digits."""
    values = {**tiny, **block}
    source = TeacherConfig.model_validate(block["teacher"]) if "teacher" in block else None
    if source is not None and source.kind not in ("own", "directory"):  # the weights here are random
        values["teacher"] = {**block["teacher"], "trust": True}
    if block.get("mode") == "student":
        for key in ("phases", "supernet"):
            if key not in block:
                values.pop(key)
    elif "phases" not in block:
        values["phases"] = [tiny["phases"][1]]
    return values


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_a_block_of_the_guide_trains(tiny: dict[str, Any], guide_folder: Path, index: int) -> None:
    run = train(completed(BLOCKS[index], tiny), run="runs/run", scale_epochs=0.01, quiet=True)
    config = load_config(run / "config.yaml")
    assert config.mode == BLOCKS[index].get("mode", "supernet")
    assert (config.teacher.source is not None) == ("teacher" in BLOCKS[index])


def test_the_guide_shows_every_kind_of_source() -> None:
    kinds = {TeacherConfig.model_validate(block["teacher"]).kind for block in BLOCKS if "teacher" in block}
    assert kinds == {"directory", "program", "weights", "timm", "robustbench"}
    students = {key for block in BLOCKS if "student" in block for key in block["student"]}
    assert {"architecture", "directory", "timm", "weights"} <= students


@pytest.mark.slow
def test_from_a_checkpoint_of_timm_to_robust_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two entries of the guide, with a teacher that falls to the attack which its students withstand."""
    monkeypatch.chdir(tmp_path)
    data = load_data(parse_config({"data": {"name": "digits"}}).data)
    ((images, labels),) = data.train.batches([torch.arange(len(data.train))], "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        for batch in [part for _ in range(15) for part in torch.randperm(len(images)).split(64)]:
            optimizer.zero_grad()
            functional.cross_entropy(network((images[batch] - 0.5) / 0.25), labels[batch]).backward()
            optimizer.step()
    (tmp_path / "weights").mkdir()
    torch.save(network.state_dict(), "weights/mine.pt")
    entries = next(block for block in BLOCKS if "mine.pt" in str(block))
    values = {
        "data": {"name": "digits"},
        "supernet": {"family": "resnet", "widths": [16, 32], "blocks": [1, 1]},
        "threat": {"eps": 0.1},
        "validation": {"every": 100, "images": 64},
        "evaluation": {"attack": {"steps": 10}},
    }
    run = train({**values, **entries}, run="run", quiet=True)
    (student,) = extract(flops="1G", run=run, quiet=True)
    Path("digits.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (teacher,) = evaluate(json.dumps(entries["teacher"]), ["pgd10"], config="digits.yaml")
    taught, alone = student.accuracies, teacher.accuracies
    assert min(taught["clean"].value, alone["clean"].value) > 0.93
    assert taught["pgd10"].value > alone["pgd10"].value + 0.3
