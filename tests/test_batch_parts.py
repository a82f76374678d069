"""A step whose batch is computed in parts: less memory, the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from proard import train
from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import load_data
from proard.runs.checkpoint import load_checkpoint
from proard.runs.run import Run, read_metrics
from proard.training.trainer import Trainer

VIT = {"family": "vit", "stem": "patch", "patch_size": 4, "width_choices": [16, 24], "depth_choices": [1, 2]}
SIZES = {"heads_choices": [1, 2], "head_channels": 8}


def trainer(values: dict[str, Any], folder: Path, parts: int, **settings: Any) -> Trainer:
    """At the beginning of the last phase."""
    config = parse_config({**values, **settings, "batch_parts": parts})
    made = Trainer(config, load_data(config.data), Run(folder / str(parts)), quiet=True)
    made.position.phase = len(config.phases) - 1
    made._begin_phase()
    return made


@pytest.mark.parametrize(("objective", "mode"), [("ce", "frozen"), ("kd", "joint")])
def test_parts_have_the_gradients_and_numbers_of_the_whole(
    tiny: dict[str, Any], tmp_path: Path, objective: str, mode: str
) -> None:
    """Without batch norm and without an attack, that is: 10 images are 4, 3 and 3."""
    phase = {
        "name": "students",
        "epochs": 1,
        "learning_rate": 0.1,
        "elastic": ["all"],
        "objective": {"name": objective},
    }
    settings = {
        "supernet": {**VIT, **SIZES},
        "phases": [{**phase, "sampler": {"name": "sandwich", "students": 3}}],
        "teacher": {"mode": mode},
        "precision": "float32",
    }
    images, labels = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 10
    found = []
    for parts in (1, 3):
        made = trainer(tiny, tmp_path, parts, **settings)
        made.optimizer.step = lambda *_: None  # type: ignore[method-assign,assignment]
        made._step(images, labels)
        gradients = {name: parameter.grad for name, parameter in made.supernet.named_parameters()}
        found.append((gradients, made.record.rows(), made.record.means()))
    whole, cut = found
    assert any(gradient.abs().max() > 1e-3 for gradient in whole[0].values())
    for name, gradient in whole[0].items():
        torch.testing.assert_close(cut[0][name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    for one, other in zip([*whole[1], whole[2]], [*cut[1], cut[2]], strict=True):
        numbers = {name for name, value in one.items() if isinstance(value, float)}
        assert {name: other[name] for name in numbers} == pytest.approx(
            {n: one[n] for n in numbers}, rel=1e-3, abs=1e-4
        )
        assert other.get("sampled") == one.get("sampled")
        assert other.keys() == one.keys()


def test_no_more_than_a_part_is_computed_at_a_time(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, train_one = [], Trainer._train

    def watched(self: Trainer, architecture: Any, images: torch.Tensor, *arguments: Any) -> Any:
        seen.append(len(images))
        return train_one(self, architecture, images, *arguments)

    monkeypatch.setattr(Trainer, "_train", watched)
    runs = {parts: train({**tiny, "batch_parts": parts}, run=tmp_path / str(parts), quiet=True) for parts in (1, 4)}
    size = tiny["batch_size"]
    assert set(seen) == {size, size // 4}
    rows = {parts: [r for r in read_metrics(Run(run).metrics) if r["kind"] == "epoch"] for parts, run in runs.items()}
    counts = {p: [[bin["sampled"] for bin in row["bins"]] for row in found] for p, found in rows.items()}
    assert counts[1][0] == counts[4][0]  # later ones follow what was learned
    assert [row["steps"] for row in rows[1]] == [row["steps"] for row in rows[4]]
    again = train({**tiny, "batch_parts": 4}, run=tmp_path / "again", quiet=True)
    states = [load_checkpoint(run / "checkpoint.pt")["supernet"] for run in (runs[4], again)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_part_without_images_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    size = tiny["batch_size"]
    with pytest.raises(UserError, match=rf"batch_size: {size} in {size} parts each; a part needs 2 images or more"):
        train({**tiny, "batch_parts": size}, run=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="batch_parts"):
        train({**tiny, "batch_parts": 0}, run=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
