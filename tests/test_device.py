"""Where and how networks run; what is chosen for a GPU, without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from proard.attacks import AttackError
from proard.commands.exit_code import exit_code
from proard.common.device import autocast, resolve_device, resolve_precision
from proard.common.distributed import process_group
from proard.common.errors import Stopped, UserError
from proard.config import parse_config
from proard.data import load_data
from proard.data.images import StreamedImageSet, WorkerDied
from proard.runs.run import Run
from proard.training import Trainer, state
from proard.training.optimizer import new_optimizer

CUDA = torch.device("cuda", 1)
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB. Advice."

FAULTS = """
import resource, torch
from proard.common.device import keep_freed_memory
keep_freed_memory({keep})
def work(): torch.zeros(64 * 2**18).add_(1)  # 64 MiB: 16384 pages
for _ in range(8): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the C library of Linux")
def test_freed_memory_is_handed_out_again():
    found = [
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    ]
    assert found[0] < 1000 < found[1]  # pages that the system had to clear: none of 131072, or all


PEAK = "import torch; from proard.common.device import peak_memory; print(peak_memory(torch.device('cpu')))"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak may be that of the process before")
def test_the_peak_is_that_of_the_process_itself():
    """Not of the one that started it, which has had a gigabyte more."""

    def started(before: str) -> int:
        script = f"import subprocess, sys\n{before}\nsubprocess.run([sys.executable, '-c', {PEAK!r}], check=True)"
        return int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)

    small, large = started(""), started("a = b'1' * 2**30")
    assert small > 2**26
    assert abs(large - small) < 2**28


# ---------------------------------------------------------------------------------------------------------------------
# What is chosen for a GPU


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_every_process_takes_a_gpu_of_its_own(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == torch.device("cuda")
    for local_rank, name in (("0", "cuda:0"), ("3", "cuda:3"), ("5", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert resolve_device("auto") == resolve_device("cuda") == torch.device(name)
    assert resolve_device("cuda:2") == torch.device("cuda:2")  # named, so it is that one
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="cuda:4: this machine has 4 CUDA devices"):
        resolve_device("cuda:4")


@pytest.mark.parametrize(("here", "backend"), [(4, "cpu:gloo,cuda:nccl"), (8, "gloo")])
def test_processes_that_share_a_gpu_do_without_nccl(
    four_gpus: None, monkeypatch: pytest.MonkeyPatch, here: int, backend: str
) -> None:
    """It refuses them: "Duplicate GPU detected"."""
    names = {"WORLD_SIZE": 8, "RANK": 6, "LOCAL_RANK": 6 % here, "LOCAL_WORLD_SIZE": here, "MASTER_PORT": 1}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "nowhere")
    with (
        mock.patch("torch.cuda.set_device") as taken,
        mock.patch("torch.distributed.init_process_group") as joined,
        mock.patch("torch.distributed.destroy_process_group") as left,
        process_group(),
    ):
        taken.assert_called_once_with(2)
        assert joined.call_args.args == (backend,)
    left.assert_called_once_with()


@pytest.mark.parametrize("supported", [True, False])
def test_the_precision_of_a_gpu_is_what_it_multiplies_in(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    precision = resolve_precision("auto", CUDA, (1, 8, 8))
    assert precision == (torch.bfloat16 if supported else torch.float32)
    with mock.patch("torch.autocast") as made:
        autocast(CUDA, precision)
    made.assert_called_once_with("cuda", dtype=torch.bfloat16, enabled=supported)


def test_the_generators_of_a_gpu_are_saved_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own on the CPU and on the device, from which dropout draws, and the training's."""
    of_cuda = {CUDA: torch.tensor([7, 8], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: of_cuda[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda saved, device: of_cuda.update({device: saved}))
    training: Any = mock.Mock(device=CUDA, generator=torch.Generator().manual_seed(5))
    with torch.random.fork_rng(devices=[]):
        saved = state._random_state(training)
        expected = [torch.rand(3), torch.rand(3, generator=training.generator)]
        of_cuda[CUDA] = torch.zeros(2, dtype=torch.uint8)
        state._set_random_state(training, saved)
        assert torch.equal(
            torch.stack(expected), torch.stack([torch.rand(3), torch.rand(3, generator=training.generator)])
        )
    assert of_cuda[CUDA].tolist() == [7, 8]
    assert "cuda" not in state._random_state(mock.Mock(device=torch.device("cpu"), generator=training.generator))


def test_streamed_images_go_to_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From where they can be copied while the device computes; see test_pretend_run.py for that they are."""
    pinned: list[torch.Tensor] = []
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr("proard.data.images._as_batch", lambda images, labels, device: sent.append(images))
    images = StreamedImageSet(lambda row: np.full((1, 2, 2), row, np.uint8), torch.arange(4), workers=0)
    batches = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    for device, count in ((CUDA, 2), (torch.device("cpu"), 0)):
        pinned.clear(), sent.clear()
        assert len(list(images.batches(batches, device))) == len(sent) == 2
        assert len(pinned) == count
        assert all(map(torch.Tensor.is_set_to, pinned, sent))


def test_channels_lie_last_in_a_step(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weights, of the student's, and of the images."""
    tiny["phases"] = tiny["phases"][:1]
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path), quiet=True)
    seen: list[torch.Tensor] = []
    cut = trainer._cut

    def watched(architecture: Any) -> nn.Module:
        student = cut(architecture)
        seen.extend(student.parameters())
        student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        return student

    monkeypatch.setattr(trainer, "_cut", watched)
    trainer._step(torch.rand(8, 1, 8, 8), torch.arange(8))
    maps = [tensor for tensor in [*seen, *trainer.supernet.parameters()] if tensor.dim() == 4]
    assert len(maps) > 10
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in maps)


def test_on_a_gpu_the_optimizer_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    options, network = parse_config({"data": {"name": "digits"}}).optimizer, nn.Linear(2, 2)
    for name in ("SGD", "AdamW"):
        with mock.patch(f"torch.optim.{name}") as made:
            monkeypatch.setattr(nn.Parameter, "is_cuda", True, raising=False)
            new_optimizer(options.model_copy(update={"name": name.lower()}), network)
        assert made.call_args.kwargs["fused"] is True


# ---------------------------------------------------------------------------------------------------------------------
# No memory left


def test_a_training_without_memory_says_what_to_lower(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_config(tiny)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path), quiet=True)
    monkeypatch.setattr(Trainer, "_step", mock.Mock(side_effect=torch.OutOfMemoryError(NO_MEMORY)))
    with pytest.raises(Stopped) as stopped:
        trainer.fit()
    monkeypatch.setenv("RANK", "1")
    assert exit_code(mock.Mock(side_effect=stopped.value)) == 1
    assert "lower batch_size" in capsys.readouterr().err  # the other processes may have memory left
    message = str(stopped.value)
    assert message.startswith(
        "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB), in phase 'teacher', step 0"
    )
    assert "raise batch_parts (1), or lower batch_size (32)" in message
    assert "Advice" not in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [WorkerDied, AttackError])
def test_what_may_happen_in_one_process_alone_is_said_there(
    error: type[Stopped], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert exit_code(mock.Mock(side_effect=error("because"))) == 1
    assert capsys.readouterr().err == "proard: because\n"
    assert exit_code(mock.Mock(side_effect=Stopped("all do it"))) == 1
    assert capsys.readouterr().err == ""


def test_a_command_without_memory_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise torch.OutOfMemoryError(NO_MEMORY)

    assert exit_code(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); end what else uses the device" in line
    with pytest.raises(RuntimeError, match="a bug"):
        exit_code(mock.Mock(side_effect=RuntimeError("a bug")))
