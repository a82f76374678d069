"""Every registered objective inside the trainer: several students a step, from a frozen and from a joint teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from proard.common.errors import UserError
from proard.config import parse_config
from proard.data import load_data
from proard.objectives import IGDM, AdaAD, objectives
from proard.runs.components import supernet_for
from proard.runs.run import Run, read_metrics
from proard.training import Trainer
from proard.training.phases import build_phases


@pytest.mark.parametrize("teacher", ["frozen", "joint"])
@pytest.mark.parametrize("name", objectives.names())
def test_every_objective_trains_a_supernet(name: str, teacher: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"]["limit"] = 72
    tiny["validation"].update(students=0, images=4, calibration_images=32)
    tiny["teacher"] = {"mode": teacher}
    tiny["phases"] = [
        {"name": "teacher", "epochs": 1, "learning_rate": 0.05, "objective": {"name": "ce"}},
        {"name": "students", "epochs": 1, "learning_rate": 0.05, "elastic": ["width"], "objective": {"name": name}},
    ]
    config = parse_config(tiny, "tiny")
    trainer = Trainer(config, load_data(config.data), Run(tmp_path), quiet=True)
    saved: list[list[torch.Tensor]] = []
    trainer.after_save = lambda: saved.append(
        [parameter.detach().clone() for parameter in trainer.supernet.parameters()]
    )
    trainer.fit()
    (row,) = [r for r in read_metrics(trainer.run.metrics) if r["kind"] == "epoch" and r["phase"] == "students"]
    assert 0 < row["loss"] < 100
    for before, after in zip(*saved, strict=True):
        assert torch.isfinite(after).all()
        if after.dim() == 1:  # others move by weight decay alone
            assert not torch.equal(before, after)


def test_an_objective_that_adds_to_another_comes_from_yaml(tiny: dict[str, Any]) -> None:
    tiny["phases"][1]["objective"] = {"name": "igdm", "weight": "1/2", "base": {"name": "adaad", "scale": 0.1}}
    config = parse_config(tiny, "tiny")
    space = supernet_for(config, load_data(config.data)).space
    made = build_phases(config, space)[1].objective
    assert isinstance(made, IGDM)
    assert made == IGDM(made.attack, AdaAD(made.attack, scale=0.1), weight=0.5)
    assert build_phases(parse_config(yaml.safe_load(config.to_yaml()), "again"), space)[1].objective == made
    tiny["phases"][1]["objective"]["base"]["name"] = "adad"
    with pytest.raises(UserError, match=r"phases\.1\.objective: .*base: unknown objective 'adad'; did you mean"):
        build_phases(parse_config(tiny, "tiny"), space)
