"""Paths as people write them, and machines on which nobody has a home."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import command

from proard.common.errors import UserError
from proard.common.files import RunLock
from proard.common.paths import path_of, user_cache
from proard.config import DataConfig, parse_config
from proard.data import load_data
from proard.data.sets import default_root
from proard.runs.resolve import resolve

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory; the working directory is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def homeless(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a numeric user without an entry among the users, as in a container."""

    def nobody(_: Any) -> Any:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)


def test_every_path_of_the_command_line(home: Path, tiny: dict[str, Any], quick_profile: None) -> None:
    tiny["phases"] = tiny["phases"][:1]
    (home / "mine.yaml").write_text(yaml.safe_dump(tiny))
    assert command("train", "--config", "~/mine.yaml", "--run=~/run", "--quiet") == 0
    assert command("extract", "--flops=10M", "--run=~/run", "--out=~/out", "--quiet") == 0
    assert command("evaluate", "~/out/flops-10M", "--limit=10", "--quiet") == 0
    assert command("profile", "--run=~/run", "--out=~/table.json", "--quiet", "--json") == 0
    assert command("extract", "--latency=1s", "--run=~/run", "--latency-table=~/table.json", "--quiet") == 0
    assert {path.name for path in home.iterdir()} >= {"mine.yaml", "run", "out", "table.json"}
    assert not list(Path.cwd().iterdir())


def test_every_path_of_a_configuration(home: Path) -> None:
    values: dict[str, Any] = {
        "data": {"name": "digits"},
        "mode": "student",
        "student": {"weights": "~/w.pt"},
        "teacher": {"source": "~/t"},
    }
    resolved = resolve(parse_config(values))
    assert (resolved.student.weights, resolved.teacher.source) == (home / "w.pt", str(home / "t"))
    resolved = resolve(parse_config({"data": {"name": "digits"}, "supernet": {"weights": "~/run"}}))
    assert resolved.supernet.weights == home / "run"
    with pytest.raises(UserError, match=str(home / "images")):
        load_data(DataConfig(name="image_folder", root=Path("~/images"), image_size=8))
    with pytest.raises(UserError, match=str(home / "sets")):
        load_data(DataConfig(name="cifar10", root=Path("~/sets")))


def test_a_path_is_resolved_as_a_shell_would(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(home / "place"))
    for given in ("$PLACE/x", "${PLACE}/x", f"file://{home}/place/x", Path(f"file://{home}/place/x")):
        assert path_of(given) == home / "place" / "x"
    assert path_of("file:///a%20b") == Path("/a b")
    Path("$PLACE").mkdir()
    assert path_of("$PLACE") == Path("$PLACE")  # so it is called
    assert path_of("C:/x") == Path("C:/x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("$NO_SUCH_PLACE/x", "no environment variable NO_SUCH_PLACE is set"),
        ("s3://bucket/x", "is no path on this machine"),
        (Path("https://host/x"), "is no path on this machine"),
        ("a\nb", "is no path"),
        (" ", "is no path"),
    ],
)
def test_what_is_no_path_makes_no_folder(
    given: str | Path, words: str, home: Path, tiny: dict[str, Any], capsys: Capture
) -> None:
    (home / "mine.yaml").write_text(yaml.safe_dump(tiny))
    assert command("train", "--config", str(home / "mine.yaml"), "--run", str(given), "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    with pytest.raises(UserError, match=words):
        load_data(DataConfig(name="image_folder", root=Path(given), image_size=8))
    assert not list(Path.cwd().iterdir())


def test_a_new_run_has_no_name_that_is_read(home: Path, tiny: dict[str, Any], capsys: Capture) -> None:
    (home / "mine.yaml").write_text(yaml.safe_dump(tiny))
    for name in ("zoo:mine", "hub:me/new"):
        assert command("train", "--config", str(home / "mine.yaml"), "--run", name, "--quiet") == 2
        assert "give a directory to --run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--run", ""], ["--run="], ["--config", ""], ["--data-root="]])
def test_a_variable_that_nobody_set(arguments: list[str], home: Path, tiny: dict[str, Any], capsys: Capture) -> None:
    (home / "mine.yaml").write_text(yaml.safe_dump(tiny))
    assert command("train", "--config", str(home / "mine.yaml"), *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{arguments[0].rstrip('=')}: an empty value was given" in line
    assert not list(Path.cwd().iterdir())


def test_the_folder_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROARD_DATA", "~/sets")
    assert default_root() == home / "sets"


@pytest.mark.usefixtures("homeless")
def test_without_a_home() -> None:
    assert user_cache() is None
    assert path_of("a/b") == Path("a/b")
    with pytest.raises(UserError, match="~/x: no home directory is known"):
        path_of("~/x")


@pytest.mark.usefixtures("homeless")
def test_training_without_a_home(tiny: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for index, name in enumerate(("dark", "light")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(8):
                Image.new("L", (8, 8), 60 + 100 * index + number).save(tmp_path / f"images/{split}/{name}/{number}.png")
    tiny["data"] = {"name": "image_folder", "root": str(tmp_path / "images"), "image_size": 8}
    tiny["phases"] = tiny["phases"][:1]
    Path("mine.yaml").write_text(yaml.safe_dump({**tiny, "batch_size": 4, "energy": {"enabled": True}}))
    assert command("train", "--config", "mine.yaml", "--run", "run", "--quiet") == 0
    assert command("extract", "--flops", "10M", "--run", "run", "--quiet") == 0


@pytest.mark.usefixtures("homeless")
def test_a_set_that_would_be_in_the_home(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROARD_DATA", raising=False)
    assert command("train", "--config", "cifar10.yaml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.root" in line


@pytest.mark.parametrize("number", [524, errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with RunLock(tmp_path):
        (tmp_path / "written").touch()
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be locked" in line
    assert "one process at a time" in line
