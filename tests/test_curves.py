"""Accuracy over an attack's radius and steps, what `evaluate` keeps of it, and networks from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from proard import evaluate, extract
from proard.attacks import PGD, ThreatModel
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.evaluation import accuracy, corrupted
from proard.evaluation.accuracy import measure
from proard.evaluation.corrupted import measure_corruptions
from proard.evaluation.curves import PASSES, RADII, STEPS, measure_curves
from proard.export.model_card import PARTS
from proard.export.student_directory import FORMATS, read_further

LINF = ThreatModel("linf", 0.05)
LEVELS = torch.tensor([0.45, 0.46, 0.52, 0.57, 0.61, 0.66, 0.72, 0.9])  # distances from one half: 0.02 to 0.4


class Brightness(nn.Module):
    """Class 1 for bright images: an attack of radius r turns those whose mean is within r of one half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-margin, margin], 1)


class Masked(Brightness):
    """The same in steps, which have no gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images * 64).round() / 64 + 0 * images)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = LEVELS.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    labels = (LEVELS > 0.5).long()
    return list(zip(images.split(3), labels.split(3), strict=True))


def test_the_curve_of_a_network_whose_margins_are_known() -> None:
    done: list[float] = []
    found = measure_curves(Brightness(), batches, LINF, progress=done.append)
    assert sum(done) == pytest.approx(PASSES * len(LEVELS))
    assert list(found.radii) == [0.0, *(0.05 * factor for factor in RADII)]
    for radius, measured in found.radii.items():
        assert measured.correct == int(((LEVELS - 0.5).abs() > radius).sum()), radius
    assert list(found.steps) == list(STEPS)
    assert {a.correct for a in found.steps.values()} == {found.radii[0.05].correct}
    assert found.findings[0].startswith("accuracy does not fall to 0: 25.0 % are left at eps 0.2, 4 times")
    assert found.findings[1] == "100 steps break 0 of 8 images more than 50 steps"
    wide = measure_curves(Brightness(), batches, ThreatModel("linf", 0.15))
    assert wide.findings[0] == "accuracy falls to 0 at eps 0.6, 4 times that of the threat model, as it should"
    plain = json.loads(json.dumps(wide.as_dict()))
    assert plain["falls_to_zero"]
    assert [row["eps"] for row in plain["radii"]] == list(wide.radii)
    assert all(len(line) <= 80 for line in str(wide).splitlines())


@pytest.mark.parametrize("threat", [LINF, ThreatModel("l2", 0.4)], ids=lambda threat: threat.norm)
def test_one_radius_is_a_plain_measurement(threat: ThreatModel) -> None:
    """Clean accuracy, and the first radius and steps, to which nothing was broken before."""
    found = measure_curves(Brightness(), batches, threat, seed=3)
    first = ThreatModel(threat.norm, RADII[0] * threat.eps)
    expected = measure(Brightness(), batches(), {"pgd": PGD(first, steps=20)}, seed=3)
    assert found.radii[0.0] == expected.clean
    assert found.radii[first.eps] == expected.worst
    one = measure(Brightness(), batches(), {"pgd": PGD(threat, steps=1)}, seed=3)
    assert found.steps[1] == one.worst
    for curve in (found.radii, found.steps):
        correct = [measured.correct for measured in curve.values()]
        assert correct == sorted(correct, reverse=True)


def test_masking_shows() -> None:
    found = measure_curves(Masked(), batches, ThreatModel("linf", 0.15))
    assert list(found.radii.values())[-1].correct > 0
    assert "sign of gradient masking" in found.findings[0]
    assert not found.as_dict()["falls_to_zero"]


def test_every_process_measures_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corruptions are those of the image's number, so that the result is the same as of one process."""
    alone = measure_corruptions(Brightness(), batches(), seed=1)
    parts: list[Any] = []
    for rank in (0, 1):
        monkeypatch.setattr(corrupted, "share", lambda n, rank=rank: slice(n * rank // 2, n * (rank + 1) // 2))
        monkeypatch.setattr(corrupted, "gathered", lambda value: parts.append(value) or [value])
        measure_corruptions(Brightness(), batches(), seed=1, spread=True)
    monkeypatch.setattr(corrupted, "gathered", lambda _: parts)
    together = measure_corruptions(Brightness(), batches(), seed=1, spread=True)
    assert together.clean == alone.clean
    assert torch.equal(together.right.sum(0), alone.right.sum(0))
    assert accuracy.share(5) == slice(0, 5)


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def student(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    run = Path(shutil.copytree(trained_run, folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))
        (extracted,) = extract([("flops", "100M")], run=run, quiet=True)
    return extracted.path


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return (int(left.value.code or 0), *capsys.readouterr())


def test_evaluate_keeps_both(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--limit", "20", "--attack", "fgsm")
    before = (student / "README.md").read_text()
    assert "noise, blur and patches were not tried" in before
    code, text, _ = output(capsys, "evaluate", str(student), *options, "--corruptions", "--curve", "--json")
    assert code == 0
    (printed,) = json.loads(text)
    for name in ("corruptions", "curve"):
        kept = json.loads((student / f"{name}.json").read_text())
        assert kept == printed[name]
        assert (kept["images"], kept["split"]) == (20, "test")
    assert printed["curve"]["radii"][0]["correct"] == printed["corruptions"]["clean"]["correct"]
    card = (student / "README.md").read_text()
    assert "Other norms, rotations and patches were not tried" in card
    mean = printed["corruptions"]["mean"]["accuracy"]
    assert f"| all 15 |  |  |  |  |  | {100 * mean:.1f} % (" in card
    assert card.count("## Accuracy by") == 2
    assert "100 steps break" in card
    (again,) = evaluate(student, ["fgsm"], limit=20, corruptions=True)
    assert json.loads(json.dumps(again.further()))["corruptions"] == printed["corruptions"]
    assert (student / "README.md").read_text() == card
    code, text, _ = output(capsys, "evaluate", str(student), *options, "--corruptions", "--curve")
    assert code == 0
    assert "\njpeg_compression  " in text
    assert "\n- 100 steps break" in text
    (student / "curve.json").write_text("{")
    code, text, errors = output(capsys, "evaluate", str(student), *options, "--corruptions")
    assert (code, errors.count("\n")) == (2, 1)
    assert "curve.json: cannot be read" in errors
    (student / "curve.json").unlink()


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", "null", "{}", '{"robust": {"a": {}}, "radii": 1, "corruptions": {}}']
)
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_part_of_a_student_is_named(tmp_path: Path, name: str, content: str) -> None:
    """JSON or not: what a card cannot be written from."""
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(UserError, match=rf"{name}\.json: cannot be read \(.+\); remove it$"):
        read_further(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Networks from elsewhere


@pytest.fixture
def elsewhere(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A configuration, and weights for a network of timm that was never trained."""
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny))
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    torch.save(network.state_dict(), "weights.pt")
    return {"source": "{source: weights.pt, architecture: test_resnet}", "config": "tiny.yaml"}


def test_a_network_from_elsewhere(elsewhere: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", elsewhere["source"], "--config", elsewhere["config"], "--limit", "20"]
    code, text, _ = output(capsys, *arguments, "--json", "--corruptions")
    assert code == 0
    (printed,) = json.loads(text)
    assert printed["pgd3"]["attack"]["threat"]["eps"] == 0.1
    assert printed["corruptions"]["images"] == 20
    assert not list(Path().glob("*.json"))
    code, text, _ = output(capsys, *arguments)
    assert code == 0
    assert text.splitlines()[-1].startswith("next:    proard evaluate '{source: weights.pt")
    (result,) = evaluate(elsewhere["source"], config=elsewhere["config"], limit=20)
    assert result.card["parameters"] > 1000
    assert result.card["multiply_adds"] > 10**5
    assert "test accuracy" in result._repr_html_()


@pytest.mark.parametrize(
    ("source", "config", "says"),
    [
        ("resnet", "tiny.yaml", "resnet: "),
        ("timm:test_resnet", "tiny.yaml", "pretrained: true"),
        ("robustbench:Standard", "tiny.yaml", "robustbench:cifar10/Linf/Standard"),
        ("weights.pt", "nowhere.yaml", "config nowhere.yaml: no such file"),
        ("{source: nowhere.pt, architecture: test_resnet}", "tiny.yaml", "nowhere.pt"),
    ],
)
def test_mistakes_are_told_in_one_line(
    source: str, config: str, says: str, elsewhere: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, errors = output(capsys, "evaluate", source, "--config", config)
    assert (code, text, errors.count("\n")) == (2, "", 1), errors
    assert says in errors
