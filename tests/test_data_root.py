"""Images that have moved since a run was trained: every command that reads them takes --data-root."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from running import command

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def moved(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run whose images are no longer where it says, but in ``elsewhere/``."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for name, low in (("dark", 0), ("light", 120)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(rng.integers(low, low + 120, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    tiny["data"] = {"name": "image_folder", "root": "images", "image_size": 8}
    tiny["supernet"] |= {"widths": [8, 8]}
    tiny["search"]["labels"] = 8
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert command("train", "--config", "tiny.yaml", "--run", "run", "--scale-epochs", "0.1") == 0
    Path("images").rename("elsewhere")
    return tmp_path


def test_every_command_finds_images_that_have_moved(moved: Path, capsys: Capture) -> None:
    before = Path("run/config.yaml").read_bytes()
    (moved / "run" / "config.yaml").touch()
    for arguments in (
        ("extract", "--flops", "1G"),
        ("evaluate", "run"),
        ("baseline", "--flops", "1G", "--scale-epochs", "0.1"),
        ("search", "--labels", "8", "--verify", "1", "--population", "4", "--generations", "1"),
        ("extract", "--flops", "1G", "--finetune", "1"),
        ("train", "--resume"),
        ("report",),
    ):
        at = () if arguments[0] == "evaluate" else ("--run", "run")
        capsys.readouterr()
        if arguments[0] not in ("evaluate", "report"):  # a run without students; the report says what it lacks
            assert command(*arguments, *at) == 2, arguments
            (line,) = capsys.readouterr().err.splitlines()
            assert "images: no such folder" in line
            assert line.endswith("(--data-root DIR says where the images are on this machine)")
        assert command(*arguments, *at, "--data-root", "elsewhere", "--quiet") == 0, arguments
    assert Path("run/config.yaml").read_bytes() == before
    for config in Path("run").glob("*/*/config.yaml"):  # of the baseline and the finetuned student
        assert yaml.safe_load(config.read_text())["data"]["root"] == str(moved / "images")


def test_a_run_says_nothing_of_where_its_images_were_for_once(moved: Path, quick_profile: None) -> None:
    options = ("--run", "new", "--scale-epochs", "0.1", "--quiet")
    assert command("train", "--config", "tiny.yaml", *options) == 2
    assert not Path("new").exists()
    assert command("train", "--config", "tiny.yaml", *options, "--data-root", "elsewhere") == 0
    assert yaml.safe_load(Path("new/config.yaml").read_text())["data"]["root"] == str(moved / "images")
    assert command("profile", "--run", "new", "--data-root", "elsewhere", "--quiet") == 0


def test_a_relative_root_means_the_same_from_any_folder(
    moved: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("elsewhere").rename("images")
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    run = str(moved / "run")
    assert command("extract", "--flops", "1G", "--run", run, "--quiet") == 0
    assert command("evaluate", run, "--quiet") == 0
    assert command("train", "--resume", "--run", run, "--quiet") == 0


def test_resuming_depends_on_the_images_and_not_on_their_place(moved: Path, capsys: Capture) -> None:
    def resume(*more: str) -> int:
        return command("train", "--resume", "--run", "run", "--quiet", *more)

    assert resume("--set", "data.root=elsewhere", "--set", "data.workers=0", "--set", "data.memory_limit=1e6") == 0
    assert resume("--set", "data.root=elsewhere", "--set", "data.memory_limit=10") == 0  # streamed from now on
    capsys.readouterr()
    file = Path("elsewhere/train/dark/3.png")
    before = file.read_bytes()
    file.unlink()
    assert resume("--data-root", "elsewhere") == 2
    assert "the images have changed" in capsys.readouterr().err
    file.write_bytes(before)
    assert resume("--data-root", "elsewhere") == 0
    Path("elsewhere/train/dark").rename("elsewhere/train/black")
    Path("elsewhere/test/dark").rename("elsewhere/test/black")
    assert resume("--data-root", "elsewhere") == 2


def test_a_device_that_has_only_test_images_can_evaluate(moved: Path, capsys: Capture) -> None:
    assert command("extract", "--flops", "1G", "--run", "run", "--data-root", "elsewhere", "--quiet") == 0

    def rows() -> str:
        capsys.readouterr()
        assert command("evaluate", "run", "--data-root", "elsewhere", "--json", "--quiet") == 0
        return capsys.readouterr().out

    whole = rows()
    (Path("elsewhere") / "train" / "dark" / "0.png").write_bytes(b"no image")  # which nobody looks at
    assert rows() == whole
    shutil.rmtree(Path("elsewhere") / "train")
    assert rows() == whole
    assert command("train", "--config", "tiny.yaml", "--run", "new", "--data-root", "elsewhere") == 2
    (Path("elsewhere") / "test" / "dark").rename(Path("elsewhere") / "test" / "dim")
    capsys.readouterr()
    assert command("evaluate", "run", "--data-root", "elsewhere", "--quiet") == 2
    assert "test: has class folders that the student does not know: dim" in capsys.readouterr().err
