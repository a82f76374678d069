"""A whole run on a pretend accelerator: what the CPU does bit for bit, and no waiting but where it is said why."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pretend
import pytest
import torch
from pretend import PretendDevice, Wait
from test_pretend_device import AT_AN_EVALUATION, CONFIGURATION, CPU, IN_A_STEP, phases, refuse_waits
from test_training import final_state, rows_without_times, same
from torch import nn

from proard import evaluate, extract, train
from proard.commands import cli, search  # noqa: F401  (all that resolves a device is imported, to be redirected)
from proard.commands.profile import profile
from proard.common.device import resolve_device
from proard.common.errors import Stopped
from proard.config import TeacherConfig
from proard.data.images import ImageSet, StreamedImageSet
from proard.runs.run import Run
from proard.runs.trained_run import TrainedRun
from proard.samplers import robustness
from proard.search.labeller import Labeller
from proard.training import Trainer
from proard.training.teachers import BatchTeacher, load_teacher
from proard.training.teachers.sources import LOADERS

pytestmark = pytest.mark.skipif(bool(pretend.missing), reason=f"no pretend accelerator: {pretend.missing}")

BETWEEN_STEPS = {
    **AT_AN_EVALUATION,
    "training.trainer.__init__": "weights and images are brought to the device once",
    "training.trainer._look": "a look at the numbers, every 20 steps",
    "training.trainer._log_epoch": "an epoch's row of metrics",
    "training.trainer._validate": "students are calibrated and measured, and the best weights kept on the CPU",
    "training.trainer._begin_phase": "the teacher is calibrated, and its faster copy compared with it",
    "training.trainer.save": "a checkpoint",
    "training.trainer.load": "a checkpoint",
    "training.trainer._end_phase": "the best weights come back from the CPU",
}
"""What may wait between the steps of a training, by function, and why."""
RESULTS = {
    **AT_AN_EVALUATION,
    "runs.trained_run.__init__": "weights and images are brought to the device once",
    "commands.subjects.student": "the network is brought to the device once",
    "supernet.calibration.require_calibrated": "whether a network was calibrated",
    "supernet.calibration.calibrate": "PyTorch reads how many batches an average is of, and statistics are set up",
    "evaluation.fast_copy.fast_copy": "a faster copy is compared with the network",
    "evaluation.accuracy.measure": "results are counted; what is fooled leaves the cascade",
    "attacks.attack.check_result": "an attack's result is checked",
    "search.labeller.__init__": "a fingerprint of weights and images",
    "export.student_directory.write_student": "files are written from the CPU, and each is measured",
}
"""What may wait in measuring, extracting and exporting, by function, and why."""


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """The sampler learns from its signals every other step, as these runs are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "REFRESH", 2)
        yield


@contextmanager
def everything_on(device: torch.device) -> Iterator[None]:
    """``auto`` is this device, wherever a device is resolved."""

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("proard.") and getattr(module, "resolve_device", None) is resolve_device:
                patch.setattr(module, "resolve_device", lambda _: device)
        yield


def configuration() -> dict[str, Any]:
    values = copy.deepcopy(CONFIGURATION)
    values["phases"] = phases({"students": {"attack": {"name": "nfgsm"}}})
    values["optimizer"] = {"name": "adamw"}
    small = {"images": 8, "attack": {"steps": 1}}
    values |= {
        "ema_decay": 0.9,
        "search": {**small, "candidates": 1, "mutations": 0, "labels": 8},
        "data": {**values["data"], "limit": 30},
    }
    return values | {"evaluation": {"limit": 20, "format_images": 4, "square_queries": 2, "attack": {"steps": 1}}}


def interrupted(trainer: Trainer) -> None:
    """Stop at the first checkpoint, which is between the phases."""

    def after_save() -> None:
        raise Stopped("on purpose")

    trainer.after_save = after_save


def trained_on(accelerator: PretendDevice, folder: Path) -> tuple[list[Wait], list[Wait]]:
    """A run on it, stopped between its phases and resumed: what has waited within its steps, and between them."""
    within: list[Wait] = []
    step = Trainer._step

    def watched(self: Trainer, *batch: Any) -> None:
        before = len(accelerator.waits)
        step(self, *batch)
        within.extend(accelerator.waits[before:])
        del accelerator.waits[before:]

    with pytest.MonkeyPatch.context() as patch, everything_on(accelerator.device):
        patch.setattr(Trainer, "_step", watched)
        with pytest.raises(Stopped, match="on purpose"):
            train(configuration(), run=folder, quiet=True, before=interrupted)
        train(run=folder, resume=True, quiet=True)
    return within, list(accelerator.waits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the CPU."""
    return train(configuration(), run=tmp_path_factory.mktemp("run") / "cpu", quiet=True)


@pytest.fixture(scope="module")
def students(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student of it, extracted on the CPU."""
    out = tmp_path_factory.mktemp("students")
    extract(flops="1G", run=run, out=out, quiet=True)
    return out


def test_a_run_with_its_phases_and_a_resume(run: Path, tmp_path: Path, accelerator: PretendDevice) -> None:
    within, between = trained_on(accelerator, tmp_path / "run")
    steps = final_state(run)["position"]["step"]
    refuse_waits(within, IN_A_STEP)
    assert 0 < len(within) <= steps / robustness.REFRESH
    refuse_waits(between, BETWEEN_STEPS)
    assert same(final_state(tmp_path / "run"), final_state(run))
    assert rows_without_times(tmp_path / "run") == rows_without_times(run)


def test_images_come_without_waiting(accelerator: PretendDevice) -> None:
    """As bytes: those that are there already, and those that are brought batch by batch."""
    pixels = torch.randint(256, (6, 1, 2, 2), dtype=torch.uint8)
    held = ImageSet(pixels, torch.arange(6))
    streamed = StreamedImageSet(lambda row: pixels[row].numpy(), torch.arange(6), workers=0)
    there = held.to(accelerator.device)
    indices = [torch.tensor([4, 1]), torch.tensor([0, 5])]
    accelerator.waits.clear()
    for source in (there, held, streamed):
        batches = list(source.batches(indices, accelerator.device))
        refuse_waits(accelerator.waits)
        for (images, labels), (pixel_values, classes) in zip(batches, held.batches(indices, "cpu"), strict=True):
            assert images.device == labels.device == accelerator.device
            assert torch.equal(images.cpu(), pixel_values)
            assert torch.equal(labels.cpu(), classes)
        accelerator.waits.clear()


def test_labels_of_the_search(run: Path, accelerator: PretendDevice) -> None:
    space = TrainedRun(Run(run)).supernet.space
    chosen = [space.largest(), space.smallest()]
    found = []
    for device in (CPU, accelerator.device):
        with everything_on(device):
            labeller = Labeller(TrainedRun(Run(run)))
            labels = [labeller(architecture) for architecture in chosen]
            found.append(([(label.clean, label.robust) for label in labels], labeller.fingerprint))
    assert found[0] == found[1]
    refuse_waits(accelerator.waits, RESULTS)


def test_extraction(run: Path, students: Path, tmp_path: Path, accelerator: PretendDevice) -> None:
    with everything_on(accelerator.device):
        extract(flops="1G", run=run, out=tmp_path, quiet=True)
    (here,), (expected,) = tmp_path.iterdir(), students.iterdir()
    assert (here / "student.safetensors").read_bytes() == (expected / "student.safetensors").read_bytes()
    refuse_waits(accelerator.waits, RESULTS)


def test_an_evaluation_with_a_cascade(students: Path, accelerator: PretendDevice) -> None:
    found = []
    for device in (CPU, accelerator.device):
        with everything_on(device):
            (result,) = evaluate(next(students.iterdir()), ["fgsm", "pgd2x2", "square3"], limit=20)
            found.append(result.measurement)
    assert found[0] == found[1]
    assert found[0].clean.correct > found[0].worst.correct
    refuse_waits(accelerator.waits, RESULTS)


def test_latency(run: Path, tmp_path: Path, accelerator: PretendDevice) -> None:
    with everything_on(accelerator.device):
        made = profile(run, seconds=0.0001, most_blocks=4, students=(2, 2), out=tmp_path / "table.json", quiet=True)
    assert made.distinct > 4
    refuse_waits(accelerator.waits, ["evaluation.latency.execution.prepare"])


# ---------------------------------------------------------------------------------------------------------------------
# Teachers from elsewhere


@pytest.fixture(scope="module")
def sources(students: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A teacher of each kind, as a section of a configuration."""
    folder, (student,) = tmp_path_factory.mktemp("teachers"), students.iterdir()
    torch.save(linear().state_dict(), folder / "Standard.pt")
    found: dict[str, dict[str, Any]] = {
        "directory": {"source": str(student)},
        "program": {"source": str(student / "student.pt2"), "trusted": True},
        "robustbench": {"source": "robustbench:cifar10/Linf/Standard", "file": str(folder / "Standard.pt")},
    }
    if find_spec("timm"):
        import timm

        file, shown = folder / "timm.pt", {"mean": [0.5], "std": [0.5]}
        torch.save(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), file)
        found["weights"] = {"source": str(file), "architecture": "test_resnet", **shown}
        found["timm"] = {"source": "timm:test_resnet", "file": str(file), **shown}
    return found


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def load_model(model_name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
    """What stands in for RobustBench's function."""
    network = linear()
    network.load_state_dict(torch.load(Path(model_dir) / dataset / threat_model / f"{model_name}.pt"))
    return network


@pytest.mark.parametrize("kind", LOADERS)
def test_a_teacher_of_every_kind(
    kind: str, sources: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("weights", "timm", "robustbench") and not find_spec("timm"):
        pytest.skip("needs timm, of the extra timm")
    monkeypatch.setattr("proard.training.teachers.robustbench._import_load_model", lambda: load_model)
    config = TeacherConfig.model_validate(sources[kind])

    def answers(device: torch.device, accelerator: PretendDevice | None = None) -> list[torch.Tensor]:
        network = load_teacher(config, tuple("0123456789"), (1, 8, 8), device=device)
        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
        labels = torch.arange(4, device=device)
        if accelerator is not None:
            accelerator.waits.clear()
        teacher = BatchTeacher(network, images)
        found = [teacher(images), teacher(images.clone()), teacher.input_gradient(images, labels)]
        if accelerator is not None:
            refuse_waits(accelerator.waits)
        return [tensor.detach().cpu() for tensor in found]

    expected = answers(CPU)
    with PretendDevice() as accelerator:
        found = answers(accelerator.device, accelerator)
    assert all(map(torch.equal, expected, found))
