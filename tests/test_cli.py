"""The command line: exit codes, one line per mistake, and the public names behind the commands."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import proard
from proard.commands.cli import app, main
from proard.common.budget_kinds import KINDS, PLAIN
from proard.config import packaged_configs
from proard.export.student_directory import FORMATS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, the only one in runs/."""
    return Path(shutil.copytree(trained_run, tmp_path / "runs" / "tiny")).relative_to(tmp_path)


@pytest.fixture
def config(tiny: dict[str, Any], tmp_path: Path) -> str:
    tiny["phases"] = [{**tiny["phases"][0], "epochs": 1}]
    tiny["data"]["limit"] = 60
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    return "tiny.yaml"


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    code = left.value.code
    assert isinstance(code, int)
    return code


def error_line(capsys: Capture, *arguments: str, code: int = 2) -> str:
    """The one line of standard error of a command that fails."""
    capsys.readouterr()
    assert exit_code(*arguments) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("proard: ")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1, errors
    return errors


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["trian"]),
        (["--bogus"], ["--bogus"]),
        (["train"], ["--config"]),
        (["train", "--bogus"], ["--bogus"]),
        (["train", "--config"], ["--config"]),
        (["train", "--config", "quikstart"], ["quikstart", "did you mean 'quickstart.yaml'?"]),
        (["train", "--config", "missing/file.yaml"], ["missing/file.yaml", "no such file"]),
        (["train", "--config", "tiny.yaml", "--set", "sede=1"], ["--set sede=1", "did you mean 'seed'?"]),
        (["train", "--config", "tiny.yaml", "--set", "seed"], ["--set seed", "KEY=VALUE"]),
        (["train", "--config", "tiny.yaml", "--set", "phases.0.objective.name=tradse"], ["tradse", "'trades'"]),
        (["train", "--config", "tiny.yaml", "--set", "phases.0.elastic=[depht]"], ["depht", "'depth'"]),
        (["train", "--config", "tiny.yaml", "--set", "supernet.family=resnt"], ["resnt", "'resnet'"]),
        (["train", "--config", "tiny.yaml", "--set", "supernet.widht=[8]"], ["supernet: ", "did you mean 'widths'?"]),
        (["train", "--config", "tiny.yaml", "--set", "supernet.widths=[8]"], ["supernet: ", "one entry per stage"]),
        (["train", "--config", "tiny.yaml", "--set", "supernet.num_classes=3"], ["supernet.num_classes", "images"]),
        (["train", "--config", "tiny.yaml", "--set", "supernet.seed=3"], ["supernet.seed", "top-level"]),
        (["train", "--config", "tiny.yaml", "--set", "data.limit=3"], ["data.limit 3", "at least 20"]),
        (["train", "--config", "tiny.yaml", "--set", "device=cuda:77"], ["cuda:77", "cpu"]),
        (["train", "--config", "tiny.yaml", "--scale-epochs", "0"], ["--scale-epochs 0"]),
        (["train", "--config", "tiny.yaml", "--scale-epochs", "inf"], ["--scale-epochs inf"]),
        (["train", "--config", "tiny.yaml", "--scale-epochs", "half"], ["--scale-epochs"]),
        (["train", "--config", "tiny.yaml", "--run", "tiny.yaml"], ["tiny.yaml", "is a file"]),
        (["train", "--config", "tiny.yaml", "--run", "tiny.yaml/inside"], ["tiny.yaml/inside"]),
        (["train", "--resume"], ["runs/", "proard train --config"]),
        (["train", "--resume", "--run", "nowhere"], ["nowhere"]),
        (["extract"], ["runs/", "proard train --config"]),
        (["extract", "--flops", "1M"], ["runs/", "proard train --config"]),
        (["extract", "--flops", "1M", "--run", "nowhere"], ["nowhere"]),
        (["extract", "--flops", "ten"], ["--flops ten", "100M"]),
        (["extract", "--flops", "-1M"], ["--flops -1M", "positive"]),
        (["extract", "--memory", "1M"], ["--memory 1M", "KB"]),
        (["extract", "--flops", "1M", "--prefer", "robst"], ["--prefer robst", "'robust'"]),
        (["evaluate"], ["STUDENT_DIR"]),
        (["evaluate", "nowhere"], ["nowhere", "student.json"]),
        (["evaluate", "."], ["student.json"]),
        (["evaluate", "tiny.yaml"], ["tiny.yaml", "student.json"]),
        (["evaluate", ".", "--limit", "0"], ["--limit 0", "at least 1"]),
        (["evaluate", ".", "--limit", "few"], ["--limit"]),
        (["evaluate", ".", "--device", "gpu"], ["--device gpu", "cuda"]),
        (["configs", "quikstart"], ["did you mean 'quickstart.yaml'?"]),
        (["configs", "quickstart.yaml", "more"], ["more"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    config: str, tmp_path: Path, capsys: Capture, arguments: list[str], parts: list[str]
) -> None:
    message = error_line(capsys, *arguments)
    for part in parts:
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_mistakes_with_a_run(run: Path, tmp_path: Path, capsys: Capture, fast: None) -> None:
    before = sorted(tmp_path.rglob("*"))
    message = error_line(capsys, "extract", "--flops", "1G", "--flops", "1K")
    assert "--flops 1K" in message
    assert "smallest" in message
    message = error_line(capsys, "extract", "--flops", "1G", "--format", "onx")
    assert "--format onx" in message
    assert "'onnx'" in message
    (tmp_path / "file").touch()
    assert "file" in error_line(capsys, "extract", "--flops", "1G", "--out", "file")
    (tmp_path / "file").unlink()
    assert "extract" in error_line(capsys, "evaluate", str(run))
    assert "already holds a run" in error_line(capsys, "train", "--config", "quickstart", "--run", str(run))
    assert sorted(tmp_path.rglob("*")) == before
    assert exit_code("extract", "--flops", "1G") == 0
    student = run / "students" / "flops-1G"
    assert "--attack nattack" in error_line(capsys, "evaluate", str(student), "--attack", "nattack")
    card = (student / "student.json").read_text()
    for text in (card[: len(card) // 2], card.replace('"resnet"', '"resnext"'), "{}"):
        (student / "student.json").write_text(text)
        assert "student.json" in error_line(capsys, "evaluate", str(student))
    checkpoint = run / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert "checkpoint.pt is damaged" in error_line(capsys, "extract", "--flops", "1G")
    checkpoint.unlink()
    assert "checkpoint" in error_line(capsys, "extract", "--flops", "1G")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left", "disk"), 1)])
def test_what_happens_while_a_command_runs(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("proard.commands.extract.choose", stop)
    assert exit_code("extract", "--flops", "1G", "--quiet") == code
    errors = capsys.readouterr().err.split("\n")
    assert [line for line in errors if line] == [
        "proard: interrupted" if code == 130 else "proard: disk: No space left",
    ]
    assert list((run / "students").iterdir()) == []


def test_an_error_of_ours_is_not_hidden(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback; Python then leaves with 1."""

    def bug(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proard.commands.extract.choose", bug)
    with pytest.raises(ZeroDivisionError):
        main(["extract", "--flops", "1G", "--quiet"])


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def test_train_extract_evaluate_without_naming_the_run(config: str, tmp_path: Path, capsys: Capture) -> None:
    """The whole way in three commands: each finds what the one before it wrote."""
    assert exit_code("train", "--config", config, "--set", "phases.0.epochs=2", "--scale-epochs", "0.5") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", run.name)
    output, errors = capsys.readouterr()
    assert f"runs/{run.name}" in output
    assert "teacher 1/1" in output  # plain lines, as there is no terminal
    assert errors == ""
    assert exit_code("extract", "--flops", "1G", "--size", "1MB") == 0
    output = capsys.readouterr().out
    assert sorted(path.name for path in (run / "students").iterdir()) == ["flops-1G", "size-1MB"]
    assert "1 multiply-add = 1 FLOP" in output
    card = json.loads((run / "students" / "flops-1G" / "student.json").read_text())
    assert f"{100 * card['clean_accuracy']:.1f}" in output
    shutil.move(run / "students" / "flops-1G", tmp_path / "student")
    shutil.rmtree(tmp_path / "runs")
    assert exit_code("evaluate", "student") == 0
    assert f"{100 * card['clean_accuracy']:.1f}" in capsys.readouterr().out
    assert exit_code("evaluate", "student", "--json", "--attack", "fgsm", "--attack", "pgd2x2", "--limit", "20") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert list(result) == ["path", "clean", "fgsm", "pgd2x2"]
    assert all(result[name]["images"] == 20 for name in ("clean", "fgsm", "pgd2x2"))


def test_the_newest_run_is_the_default(run: Path, capsys: Capture, fast: None) -> None:
    for name, age in (("a-old", 100), ("z-older", 200)):
        other = shutil.copytree(run, run.with_name(name))
        changed = (run / "config.yaml").stat().st_mtime - age
        os.utime(other / "config.yaml", (changed, changed))
    assert exit_code("extract", "--flops", "1G", "--json") == 0
    (student,) = json.loads(capsys.readouterr().out)
    assert student["path"] == str(run / "students" / "flops-1G")
    path = student.pop("path")
    assert student == json.loads((Path(path) / "student.json").read_text())
    assert not (run.with_name("a-old") / "students").exists()


def test_training_goes_on_and_is_not_started_twice(config: str, capsys: Capture) -> None:
    assert exit_code("train", "--config", config, "--run", "here") == 0
    before = Path("here/checkpoint.pt").read_bytes()
    assert "--resume" in error_line(capsys, "train", "--config", config, "--run", "here")
    assert "phases.0.epochs" in error_line(
        capsys, "train", "--resume", "--run", "here", "--config", config, "--set", "phases.0.epochs=3"
    )
    assert exit_code("train", "--resume", "--run", "here") == 0
    assert Path("here/checkpoint.pt").read_bytes() == before
    assert exit_code("train", "--config", "here/config.yaml", "--run", "again") == 0
    assert Path("again/config.yaml").read_text() == Path("here/config.yaml").read_text()


def test_configs(capsys: Capture, tmp_path: Path) -> None:
    assert exit_code("configs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_configs())
    assert all(len(line.split()) > 3 for line in lines)  # each says what it is for
    assert exit_code("configs", "quickstart") == 0
    output = capsys.readouterr().out
    assert output == packaged_configs()["quickstart.yaml"].read_text()
    (tmp_path / "mine.yaml").write_text(output)
    assert "--scale-epochs 0" in error_line(capsys, "train", "--config", "mine.yaml", "--scale-epochs", "0")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(capsys: Capture, arguments: list[str]) -> None:
    assert exit_code(*arguments) == 0
    output = capsys.readouterr().out
    assert len(output.splitlines()) > 8
    for command in ("train", "extract", "evaluate", "configs"):
        assert command in output
        assert exit_code(command, "--help") == 0
    assert "--flops" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    for arguments in (["-m", "proard"], ["-c", "from proard.commands.cli import main; main()"]):
        result = python(*arguments, "--version")
        assert (result.returncode, result.stdout, result.stderr) == (0, f"proard {proard.__version__}\n", "")
    result = python("-m", "proard", "evaluate", "nowhere")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "kinds", "repeatable"), [("extract", KINDS, True), ("baseline", PLAIN, True), ("search", PLAIN, False)]
)
def test_every_budget_is_an_option(command: str, kinds: Iterable[str], repeatable: bool) -> None:
    options = {option.name: option for option in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    found = {name: options[name.replace("-", "_")] for name in KINDS if name.replace("-", "_") in options}
    assert list(found) == list(kinds)
    for name, option in found.items():
        assert option.opts == [f"--{name}"]
        assert option.multiple == repeatable
        assert KINDS[name].example in option.help
    assert "budgets" not in options


@pytest.mark.parametrize("command", ["extract", "baseline", "search"])
@pytest.mark.parametrize("text", ["", "1X", "-1M"])
def test_a_budget_that_is_none(command: str, text: str, capsys: Capture) -> None:
    assert exit_code(command, f"--flops={text}") == 2
    assert f"--flops {text}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["extract", "--help"], ["configs"], ["--version"]]
)
def test_light_commands_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom proard.commands.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as left:\n    assert left.code == 0\n"
        "assert not {'torch', 'torchvision', 'sklearn', 'codecarbon', 'pandas'} & set(sys.modules)"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The same as functions


def test_the_public_functions_stay_functions() -> None:
    """Importing a submodule binds its name in the package, and must not replace a function of that name."""
    package = Path(proard.__file__).parent
    for path in sorted(package.rglob("*.py")):
        parts = ["proard", *path.relative_to(package).with_suffix("").parts]
        if parts[-1] not in ("__init__", "__main__"):
            importlib.import_module(".".join(parts))
    from proard import evaluate, extract, load_student, train

    for function in (load_student, train, extract, evaluate, proard.build_supernet):
        assert callable(function)
        assert type(function).__name__ == "function"
    assert set(proard.__all__) <= set(dir(proard))
    with pytest.raises(AttributeError, match="nothing"):
        _ = proard.nothing


def test_the_documented_python_interface() -> None:
    from proard.attacks import PGD, ThreatModel
    from proard.objectives import RSLAD, TRADES
    from proard.supernet import Architecture, SearchSpace, Supernet, build_supernet

    family_options: dict[str, Any] = {"widths": [8, 16], "blocks": [1, 1]}
    net = build_supernet("resnet", num_classes=10, input_shape=(3, 16, 16), **family_options)
    assert isinstance(net, Supernet)
    assert isinstance(net, torch.nn.Module)
    assert isinstance(net.space, SearchSpace)
    arch = net.space.sample(random.Random(0))
    assert isinstance(arch, Architecture)
    assert {arch: 1}[net.space.sample(random.Random(0))] == 1
    assert Architecture.from_json(arch.to_json()) == arch
    assert set(arch) <= {decision.name for decision in net.space.decisions}
    assert type(net.space.size) is int
    costs = [net.space.cost(a) for a in (net.space.smallest(), arch, net.space.largest())]
    assert costs[0].multiply_adds <= costs[1].multiply_adds <= costs[2].multiply_adds
    assert costs[0].parameters < costs[2].parameters
    assert costs[0].peak_activation_bytes <= costs[2].peak_activation_bytes

    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)
    student = net.student(arch)
    assert student(images).shape == (4, 10)
    threat = ThreatModel(norm="linf", eps=8 / 255)
    assert threat.bounds == (0, 1)
    attack = PGD(threat, steps=2, step_size=2 / 255)
    attacked = attack(student, images, labels)
    assert (attacked - images).abs().max() <= 8 / 255 + 1e-6
    for objective in (TRADES(attack=attack), RSLAD(attack=attack)):
        loss = objective(student, net.student(net.space.largest()), images, labels)
        assert loss.shape == ()
        loss.backward()
    net.accumulate(student)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    fixed = net.extract(arch, calibration=[images])
    assert not fixed.training
    assert torch.allclose(fixed(images)[:2], fixed(images[:2]), atol=1e-5)
