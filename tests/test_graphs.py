"""Steps replayed as CUDA graphs: what is trained, drawn and counted is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from proard.config import parse_config
from proard.data import load_data
from proard.runs.run import Run, read_metrics
from proard.training import Trainer, graphs
from proard.training.compute import ComputeMeter
from proard.training.graphs import WARM_UP, StepGraphs

ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CHANGING = ("seconds", "images_per_second", "processor_seconds", "peak_memory_bytes")


def one_student_a_step(tiny: dict[str, Any]) -> dict[str, Any]:
    for phase in tiny["phases"][1:]:
        phase["sampler"] = {"name": "robustness", "smallest": 0.4, "largest": 0.4}
    return tiny


def made(values: dict[str, Any], folder: Path, kind: type[Trainer] = Trainer) -> Trainer:
    folder.mkdir()
    config = parse_config(values)
    return kind(config, load_data(config.data), Run(folder), quiet=True)


def steps(trainer: Trainer, count: int) -> list[torch.Tensor]:
    """Some steps of the trainer's phase, and the weights after them."""
    batches = trainer._batches()
    for step in range(count):
        images, labels = next(trainer.train_images.batches([batches[step % len(batches)]], trainer.device))
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.1
        trainer._step(images, labels, step / count)
        trainer.position.batch += 1
    return [parameter.detach().clone() for parameter in trainer.supernet.parameters()]


def test_training_goes_the_same_way_through_replays(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a replay is the function itself, on the tensors that were set aside for it."""
    monkeypatch.setattr(graphs, "capture", lambda function, generator: function)
    captured: list[StepGraphs] = []

    class WithGraphs(Trainer):
        def _begin_phase(self) -> None:
            super()._begin_phase()
            self.graphs = StepGraphs(self._numbers, self.compute, self.generator)
            self.captured = {self._stage.space.smallest(), self._stage.space.largest()}
            captured.append(self.graphs)

    one_student_a_step(tiny)
    trainers = []
    for name, kind in (("plain", Trainer), ("replayed", WithGraphs)):
        trainers.append(made(tiny, tmp_path / name, kind))  # which seeds what dropout draws from
        trainers[-1].fit()
    plain, replayed = trainers
    assert any(found.replays for found in captured)
    assert plain.best is not None
    assert replayed.best is not None
    assert all(torch.equal(value, replayed.best["weights"][name]) for name, value in plain.best["weights"].items())
    rows = [
        [{name: value for name, value in row.items() if name not in CHANGING} for row in read_metrics(t.run.metrics)]
        for t in trainers
    ]
    assert rows[0] == rows[1]


def test_a_replay_counts_what_the_capture_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ComputeMeter()

    def part(architecture: Any, images: torch.Tensor, labels: torch.Tensor, progress: Any) -> torch.Tensor:
        meter.spent["attack"] += 5
        return images.sum() + labels.sum() + progress

    def recorded(function: Callable[[], torch.Tensor], generator: torch.Generator) -> Callable[[], torch.Tensor]:
        result = function()
        return lambda: result

    monkeypatch.setattr(graphs, "capture", recorded)
    run = StepGraphs(part, meter, torch.Generator())
    for _ in range(7):
        run("a", torch.ones(2, 3), torch.ones(2), 0.5)  # type: ignore[arg-type]
    assert meter.spent["attack"] == 35


def test_a_part_that_cannot_be_captured_runs_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried once, and said once."""
    tried = []

    def refused(function: Callable[[], torch.Tensor], generator: torch.Generator) -> Callable[[], torch.Tensor]:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "capture", refused)
    run = StepGraphs(lambda architecture, images, labels, progress: images.sum(), ComputeMeter(), torch.Generator())
    with pytest.warns(UserWarning, match="not captured as CUDA graphs: operation not permitted") as said:
        sums = [float(run("a", torch.full((2,), float(k)), torch.ones(2), 0.0)) for k in range(6)]  # type: ignore[arg-type]
    assert sums == [0, 2, 4, 6, 8, 10]
    assert len(tried) == len(said) == 1


def test_what_waits_for_the_device_is_found_before_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step in which it is found is done again, with the same draws, and counted once."""
    meter, generator = ComputeMeter(), torch.Generator().manual_seed(0)

    def part(architecture: Any, images: torch.Tensor, labels: torch.Tensor, progress: Any) -> torch.Tensor:
        meter.spent["attack"] += 5
        drawn = torch.rand(1, generator=generator)
        if isinstance(progress, torch.Tensor):
            raise RuntimeError("called a synchronizing CUDA operation")
        return drawn

    monkeypatch.setattr(graphs, "capture", lambda function, generator: pytest.fail("must not be tried"))
    run = StepGraphs(part, meter, generator)
    with pytest.warns(UserWarning, match="synchronizing") as said:
        drawn = [float(run("a", torch.ones(2), torch.ones(2), 0.5)) for _ in range(5)]  # type: ignore[arg-type]
    assert drawn == torch.rand(5, generator=torch.Generator().manual_seed(0)).tolist()
    assert meter.spent["attack"] == 25
    assert len(said) == 1


@ON_A_GPU
def test_on_a_gpu_the_graphs_train_what_plain_steps_train(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The same draws, the same passes; the weights differ by rounding, as kernels may be chosen otherwise."""
    tiny |= {"precision": "float32", "phases": [one_student_a_step(tiny)["phases"][0]]}
    tiny["supernet"]["dropout"] = 0.0
    weights, spent = [], []
    for name in ("plain", "graphs"):
        trainer = made(tiny, tmp_path / name)
        if name == "plain":
            trainer.graphs = None
        weights.append(steps(trainer, WARM_UP + 4))
        spent.append(trainer.compute.spent)
        drawn = torch.rand(1, generator=trainer.generator, device=trainer.device)
        assert name == "plain" or (trainer.graphs is not None and trainer.graphs.replays)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-2, atol=1e-3)
    assert spent[0] == spent[1]
    assert torch.isfinite(drawn).all()


@ON_A_GPU
def test_on_a_gpu_an_objective_that_waits_is_trained_without_graphs(tiny: dict[str, Any], tmp_path: Path) -> None:
    """IAD looks at the progress with an if."""
    ends = {"name": "robustness", "smallest": 0.5, "largest": 0.5}
    tiny["phases"] = [tiny["phases"][0], {**tiny["phases"][1], "sampler": ends, "objective": {"name": "iad"}}]
    with pytest.warns(UserWarning, match="not captured as CUDA graphs"):
        made(tiny, tmp_path / "run").fit()
