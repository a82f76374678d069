"""Stopping cleanly while processes decode the images: signals to the whole group, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_training import same, wait_for
from torch.utils.data._utils import signal_handling

from proard.config import DataConfig
from proard.data import StreamedImageSet, WorkerDied, load_data
from proard.data import images as image_module
from proard.data.images import ImageFiles
from proard.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for name, low in (("dark", 0), ("light", 120)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(low, low + 120, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture
def config(tiny: dict[str, Any], images: Path, tmp_path: Path) -> Path:
    """A training on a stream of images, decoded by two processes, too long to end by itself."""
    tiny["data"] = {"name": "image_folder", "root": str(images), "image_size": 16, "memory_limit": 10, "workers": 2}
    tiny |= {"batch_size": 8, "phases": [{**tiny["phases"][0], "epochs": 400}]}
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.fixture
def job(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """That training, in a group of processes of its own, after its first epochs."""
    command = [sys.executable, "-m", "proard", "train", "--config", str(config), "--run", str(tmp_path / "run")]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([*command, "--quiet"], start_new_session=True, preexec_fn=hang_up_counts, **pipes)
    try:
        wait_for(lambda: (tmp_path / "run" / "checkpoint.pt").exists(), process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def hang_up_counts() -> None:
    """In the new process, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def resumed(run: Path) -> dict[str, Any]:
    """The state in the end, a few epochs after where the run was left."""
    state = load_checkpoint(run / "checkpoint.pt")
    assert state["position"]["step"] > 0
    process = subprocess.Popen([sys.executable, "-m", "proard", "train", "--resume", "--run", str(run), "--quiet"])
    before = state["position"]["step"]
    deadline = time.monotonic() + 60
    while load_checkpoint(run / "checkpoint.pt")["position"]["step"] == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    return load_checkpoint(run / "checkpoint.pt")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_to_the_whole_group(name: str, job: subprocess.Popen[str], tmp_path: Path) -> None:
    number = getattr(signal, name)
    os.killpg(job.pid, number)
    _, errors = job.communicate(timeout=60)
    (line,) = errors.splitlines()
    assert job.returncode == 128 + number
    assert "saved" in line
    assert "--resume" in line
    assert not children(job.pid)
    if name == "SIGTERM":  # what is saved is the same
        resumed(tmp_path / "run")


@pytest.mark.parametrize("moment", ["decode_image", "_set_worker_signal_handlers"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_those_that_decode_leave_signals_to_the_training(
    name: str, moment: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal to a group reaches them as well, and may do so before the training has noticed anything: while they
    decode, and while they start."""
    place = image_module if moment == "decode_image" else signal_handling
    work = getattr(place, moment)

    def signalled(*arguments: Any) -> Any:
        found = work(*arguments)
        os.kill(os.getpid(), getattr(signal, name))
        return found

    monkeypatch.setattr(place, moment, signalled)
    data = load_data(DataConfig(name="image_folder", root=images, image_size=16, memory_limit=1e9, workers=1))
    read = ImageFiles(images / "train", ["dark/0.png", "light/0.png"], 16)
    streamed = StreamedImageSet(read, torch.tensor([0, 1]), workers=1)
    ((pixels, labels),) = streamed.batches([torch.tensor([0, 1])], "cpu")
    assert pixels.shape == (2, *data.input_shape)
    assert labels.tolist() == [0, 1]


def test_a_process_that_dies_at_once_is_noticed_when_all_have_started() -> None:
    noticed: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: noticed.append(number))
    try:
        with image_module._deaths_noticed_later():
            os.kill(os.getpid(), signal.SIGCHLD)
            time.sleep(0.01)
            assert not noticed
        assert noticed == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_process_that_dies(job: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (workers := children(job.pid)):
        assert time.monotonic() < deadline
    os.kill(workers[0], signal.SIGKILL)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1, errors
    (line,) = errors.splitlines()
    assert "a process that decodes images died" in line
    assert "saved" in line
    assert "--resume" in line
    resumed(tmp_path / "run")


@pytest.mark.slow
def test_hang_up_is_ignored_under_nohup(config: Path, tmp_path: Path) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from proard.commands.cli import main; main(sys.argv[1:])"
    )
    run = tmp_path / "nohup"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", "--config", str(config), "--run", str(run), "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (run / "checkpoint.pt").exists(), process)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    process.communicate()
    assert process.returncode == 143


def test_no_shared_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives 64 MB, and some machines none: what is decoded does not go through it."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for name in ("_share_fd_cpu_", "_share_filename_cpu_", "_new_using_fd_cpu", "_new_using_filename_cpu"):
        monkeypatch.setattr(torch.UntypedStorage, name, refuse)
    here, there = (
        load_data(DataConfig(name="image_folder", root=images, image_size=16, memory_limit=10, workers=workers))
        for workers in (0, 2)
    )
    order = [torch.tensor([3, 1, 2]), torch.tensor([0])]
    for one, other in zip(here.train.batches(order, "cpu"), there.train.batches(order, "cpu"), strict=True):
        assert same(one, other)


def test_a_death_while_measuring_is_one_line(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(DataConfig(name="image_folder", root=images, image_size=16, memory_limit=10, workers=1))
    monkeypatch.setattr("proard.data.images.decode_image", lambda *_: os._exit(3))
    with pytest.raises(WorkerDied, match="a process that decodes images died") as raised:
        list(data.train.batches([torch.tensor([0])], "cpu"))
    assert "\n" not in str(raised.value)
