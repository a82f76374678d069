from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proard.common import files
from proard.common.errors import UserError
from proard.common.files import (
    RunLock,
    append_line,
    atomic_directory,
    atomic_path,
    atomic_write,
    check_file,
    checked_save,
    sha256,
    write_json,
)


class Crash(BaseException):
    """Stands for the death of the process: nothing catches it."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def crash(*arguments: object) -> None:
    raise Crash


# Atomic writes


@pytest.mark.parametrize("data", [b"\x00bytes\r\n", "text é\r\n"])
def test_atomic_write(tmp_path, data):
    path = tmp_path / "file.txt"
    for _ in range(2):  # also over an existing file
        atomic_write(path, data)
        assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert names(tmp_path) == {"file.txt"}
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.txt"
    atomic_write(path, "old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_atomic_path_of_a_failing_writer(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")

    def half() -> None:
        with atomic_path(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".onnx"
            temporary.write_text("half")
            raise Crash

    with pytest.raises(Crash):
        half()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"model.onnx"}


def test_atomic_path_without_anything_written(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert names(tmp_path) == set()


def test_write_json(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert path.read_text().startswith('{\n "a"')
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_append_line_closes_an_unfinished_line(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, "one")
    append_line(path, "two\n")
    path.write_bytes(path.read_bytes() + b'{"half')
    append_line(path, "three")
    assert path.read_text() == 'one\ntwo\n{"half\nthree\n'


def fill(folder: Path, text: str) -> None:
    with atomic_directory(folder) as temporary:
        assert temporary.name.startswith(".")
        assert temporary.parent == folder.parent
        (temporary / "inside").mkdir()
        (temporary / "inside" / "file").write_text(text)


def test_atomic_directory(tmp_path):
    folder = tmp_path / "student"
    fill(folder, "old")
    (folder / "extra").write_text("must not stay")
    fill(folder, "new")
    assert names(tmp_path) == {"student"}
    assert names(folder) == {"inside"}
    assert (folder / "inside" / "file").read_text() == "new"


def test_atomic_directory_of_a_failing_block(tmp_path):
    folder = tmp_path / "student"
    fill(folder, "old")

    def half() -> None:
        with atomic_directory(folder) as temporary:
            (temporary / "file").write_text("half")
            raise Crash

    with pytest.raises(Crash):
        half()
    assert names(tmp_path) == {"student"}
    assert (folder / "inside" / "file").read_text() == "old"


def failing_replace(at: int, error: BaseException):
    """``os.replace``, the ``at``-th call of which fails."""
    calls = 0
    replace = os.replace

    def run(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        replace(source, target)

    return run


@pytest.mark.parametrize("at", [1, 2])
def test_atomic_directory_when_a_rename_fails(tmp_path, monkeypatch, at):
    folder = tmp_path / "student"
    fill(folder, "old")
    monkeypatch.setattr(files.os, "replace", failing_replace(at, OSError("refused")))
    with pytest.raises(OSError, match="refused"):
        fill(folder, "new")
    assert names(tmp_path) == {"student"}
    assert (folder / "inside" / "file").read_text() == "old"


def test_atomic_directory_after_a_crash_between_the_renames(tmp_path):
    folder = tmp_path / "student"
    fill(folder, "old")
    os.replace(folder, tmp_path / ".old-student")
    with pytest.raises(Crash), atomic_directory(folder):
        raise Crash
    assert (folder / "inside" / "file").read_text() == "old"
    assert names(tmp_path) == {"student"}


def test_atomic_directory_after_a_crash_before_the_cleaning(tmp_path, monkeypatch):
    folder = tmp_path / "student"
    fill(folder, "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda *arguments, **options: None)
        fill(folder, "new")
    assert names(tmp_path) == {"student", ".old-student"}
    fill(folder, "newest")
    assert names(tmp_path) == {"student"}
    assert (folder / "inside" / "file").read_text() == "newest"


# Integrity


def save(path: Path, text: str) -> None:
    checked_save(path, lambda temporary: temporary.write_text(text))


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_checked_save(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for text in ("one", "two", "three", "three"):
        save(path, text)
        check_file(path)
        assert path.read_text() == text
    assert names(tmp_path) == {"checkpoint.pt", "checkpoint.pt.sha256"}


@pytest.mark.parametrize("at", [1, 2])  # before the checksums are renamed; between them and the file
@pytest.mark.parametrize("crashes", [1, 3])
def test_checked_save_that_dies(tmp_path, monkeypatch, at, crashes):
    path = tmp_path / "checkpoint.pt"
    save(path, "old")
    for number in range(crashes):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", failing_replace(at, Crash()))
            with pytest.raises(Crash):
                save(path, f"new {number}")
        check_file(path)
        assert path.read_text() == "old"
    save(path, "newest")
    check_file(path)
    assert path.read_text() == "newest"
    assert len((tmp_path / "checkpoint.pt.sha256").read_text().splitlines()) == 2


def test_checked_save_on_a_full_disk(tmp_path):
    def writer(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "checkpoint.pt"
    save(path, "old")
    with pytest.raises(OSError, match="No space left"):
        checked_save(path, writer)
    check_file(path)
    assert names(tmp_path) == {"checkpoint.pt", "checkpoint.pt.sha256"}


def test_a_damaged_file_is_named_and_never_vouched_for(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save(path, "good")
    path.write_text("goof")
    with pytest.raises(UserError, match="is damaged") as caught:
        check_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(files.os, "replace", failing_replace(2, Crash()))
    with pytest.raises(Crash):
        save(path, "new")
    with pytest.raises(UserError, match="is damaged"):
        check_file(path)


def test_check_file_needs_both_files(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(UserError, match="no such file"):
        check_file(path)
    path.write_text("something")
    with pytest.raises(UserError, match=r"checkpoint\.pt\.sha256 is missing"):
        check_file(path)
    (tmp_path / "checkpoint.pt.sha256").write_text("\n")
    with pytest.raises(UserError, match="missing or empty"):
        check_file(path)


# One process per run


def test_lock_keeps_a_second_holder_out(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()};") as caught, RunLock(tmp_path):
            pass
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with RunLock(tmp_path):
        pass


def test_lock_is_released_when_its_process_is_killed(tmp_path):
    code = (
        "import sys, time; from proard.common.files import RunLock; lock = RunLock(sys.argv[1]).__enter__(); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid};"), RunLock(tmp_path):
            pass
        process.kill()
        process.wait()
    with RunLock(tmp_path):
        pass


def test_lock_removes_what_a_dead_process_left(tmp_path):
    save(tmp_path / "checkpoint.pt", "good")
    (tmp_path / ".tmp-0123abcd-checkpoint.pt").write_text("half")
    (tmp_path / ".tmp-0123abcd-student").mkdir()
    with RunLock(tmp_path):
        assert names(tmp_path) == {"checkpoint.pt", "checkpoint.pt.sha256", ".lock"}


def test_lock_of_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(UserError, match="No such file"), RunLock(tmp_path / "missing"):
        pass
    monkeypatch.setattr(files.os, "open", refuse)  # not chmod: the superuser may write anywhere
    with pytest.raises(UserError, match="cannot be written"), RunLock(tmp_path):
        pass


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_no_lock_on_a_file_system_without_locks(tmp_path, monkeypatch, reason):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*arguments: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with RunLock(tmp_path), RunLock(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_does_not_release_the_lock(tmp_path):
    with RunLock(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UserError, match="in use"), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass
