"""The guide that hands a student to other libraries: its snippets run, with the package where it is installed.

Else with a stand-in that has the package's interface, which shows only that the snippet calls it so.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proard.commands.cli import main

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "judged_by_others.md").read_text(encoding="utf-8")
EPS = 8 / 255


def snippet(heading: str) -> str:
    """The first Python block under a heading; '' is the page's own."""
    part = GUIDE.split(f"\n## {heading}", 1)[1] if heading else GUIDE
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)[0]


def signed(model: nn.Module, images: torch.Tensor, eps: float) -> torch.Tensor:
    """What an attack might return."""
    model(images)
    return (images + eps * torch.ones_like(images)).clamp(0, 1)


def torchattacks() -> dict[str, types.ModuleType]:
    module = types.ModuleType("torchattacks")

    def pgd(model: nn.Module, eps: float, alpha: float, steps: int) -> Callable[..., torch.Tensor]:
        assert isinstance(model, nn.Module)
        return lambda images, labels: signed(model, images, eps)

    module.PGD = pgd  # type: ignore[attr-defined]
    return {"torchattacks": module}


def art() -> dict[str, types.ModuleType]:
    names = ("art", "art.attacks", "art.attacks.evasion", "art.estimators", "art.estimators.classification")
    modules = {name: types.ModuleType(name) for name in names}

    class Classifier:
        def __init__(
            self, model: nn.Module, loss: Any, input_shape: Any, nb_classes: int, clip_values: tuple[float, float]
        ) -> None:
            self.model = model
            assert model(torch.zeros(1, *input_shape)).shape == (1, nb_classes)

    class Attack:
        def __init__(self, estimator: Classifier, eps: float, eps_step: float, max_iter: int, verbose: bool) -> None:
            self.model, self.eps = estimator.model, eps

        def generate(self, x: Any, y: Any) -> Any:
            assert isinstance(x, np.ndarray)
            assert isinstance(y, np.ndarray)
            return signed(self.model, torch.from_numpy(x), self.eps).detach().numpy()

    modules["art.attacks.evasion"].ProjectedGradientDescentPyTorch = Attack  # type: ignore[attr-defined]
    modules["art.estimators.classification"].PyTorchClassifier = Classifier  # type: ignore[attr-defined]
    return modules


def robustbench() -> dict[str, types.ModuleType]:
    modules = {name: types.ModuleType(name) for name in ("robustbench", "robustbench.eval")}

    def benchmark(
        model: nn.Module, n_examples: int, dataset: str, threat_model: str, device: torch.device, eps: float
    ) -> tuple[float, float]:
        images = torch.rand(4, 3, 32, 32)
        assert not model.training
        assert isinstance(device, torch.device)  # the real one refuses a text
        return float(model(images).argmax(1).float().mean()), 0.0

    modules["robustbench.eval"].benchmark = benchmark  # type: ignore[attr-defined]
    return modules


STAND_INS = {"torchattacks": torchattacks, "ART": art, "RobustBench": robustbench}


@pytest.mark.parametrize("heading", ["foolbox", *STAND_INS])
def test_a_library_takes_a_student(heading: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """And finds images within eps of the given ones, where it returns them."""
    if heading == "foolbox":
        pytest.importorskip("foolbox")
    elif heading == "RobustBench" or find_spec(heading.lower()) is None:  # its benchmark would download images
        for name, module in STAND_INS[heading]().items():
            monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {}
    exec(snippet(""), names)
    before = {name: tensor.clone() for name, tensor in names["student"].state_dict().items()}
    exec(snippet(heading), names)
    if heading != "RobustBench":
        moved = (names["adversarial"] - names["images"]).abs().max()
        assert 0 < float(moved) <= EPS + 1e-6
    assert all(torch.equal(before[name], tensor) for name, tensor in names["student"].state_dict().items())
    with torch.no_grad():
        assert names["student"](names["images"]).isfinite().all()


def test_a_network_of_robustbench_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guide's command, with a stand-in for `load_model`, on the images of the zoo."""
    from proard.export.named import ZOO_FOLDER

    asked: list[tuple[str, ...]] = []

    def load_model(model_name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        asked.append((model_name, dataset, threat_model))
        network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10))
        network.load_state_dict(torch.load(Path(model_dir) / dataset / threat_model / f"{model_name}.pt"))
        return network

    utils = types.ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 10))
    file = tmp_path / "models" / "cifar10" / "Linf" / "Wong2020Fast.pt"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    (tmp_path / "here.yaml").write_text(
        f"data: {{name: image_folder, root: {ZOO_FOLDER / 'cifar10-jpeg' / 'images'}, image_size: 32}}\n"
    )
    (line,) = [line for line in GUIDE.splitlines() if line.startswith("$ proard evaluate '{source: robustbench")]
    source = re.findall(r"'(.*?)'", line)[0]
    with pytest.raises(SystemExit) as left:
        main(["evaluate", source, "--config", "here.yaml", "--limit", "10", "--attack", "fgsm"])
    text, errors = capsys.readouterr()
    assert (left.value.code, errors) == (0, "")
    assert asked == [("Wong2020Fast", "cifar10", "Linf")]
    assert "fgsm %" in text
