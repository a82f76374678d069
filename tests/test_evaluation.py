"""Cascades of attacks, attacks by name and as records, and the checks that warn of gradient masking."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from proard import evaluate, extract
from proard.attacks import (
    FGSM,
    NFGSM,
    PGD,
    Attack,
    AttackError,
    AutoAttack,
    DeepFool,
    Square,
    ThreatModel,
    attack_as_dict,
    attack_from_dict,
    attacks,
    named_attack,
)
from proard.attacks.presets import PRESETS, attack_names, counted_option
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.config import DataConfig
from proard.data import load_data
from proard.evaluation.accuracy import Accuracy, Measurement, RobustAccuracy, measure
from proard.evaluation.gradient_masking import MEANINGS, Finding, check_masking
from proard.export.student_directory import load_student
from proard.runs.components import evaluation_batches

LINF, L2 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.7)
# ---------------------------------------------------------------------------------------------------------------------
# The cascade


class Brightness(nn.Module):
    """Class 1 for bright images: an attack of radius r turns those whose mean is within r of one half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-margin, margin], 1)


def bright_batches(levels: list[float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images of one brightness each, in batches of three; the first label is wrong."""
    brightness = torch.tensor(levels)
    images = brightness.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    labels = (brightness > 0.5).long()
    labels[0] = 1 - labels[0]
    return list(zip(images.split(3), labels.split(3), strict=True))


LEVELS = [0.05, 0.2, 0.36, 0.43, 0.46, 0.54, 0.57, 0.64, 0.8]


def fgsm(eps: float) -> FGSM:
    return FGSM(ThreatModel("linf", eps))


def test_each_attack_sees_what_the_ones_before_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, list[float]]] = []
    original = FGSM.perturb

    def perturb(self: FGSM, model: Any, images: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        seen.append((self.threat.eps, [round(float(level), 2) for level in images[:, 0, 0, 0]]))
        return original(self, model, images, *others, **options)

    monkeypatch.setattr(FGSM, "perturb", perturb)
    cascade = {"weak": fgsm(0.05), "strong": fgsm(0.1), "strongest": fgsm(0.2)}
    result = measure(Brightness(), bright_batches(LEVELS), cascade)
    assert (result.clean.correct, result.clean.total) == (8, 9)
    counts = {name: (a.attacked, a.broken, a.correct, a.total) for name, a in result.robust.items()}
    assert counts == {"weak": (8, 2, 6, 9), "strong": (6, 2, 4, 9), "strongest": (4, 2, 2, 9)}
    assert result.worst is result.robust["strongest"]
    assert seen == [
        (0.05, [0.2, 0.36]), (0.1, [0.2, 0.36]), (0.2, [0.2, 0.36]),
        (0.05, [0.43, 0.46, 0.54]), (0.1, [0.43]),  # nothing is left for the third
        (0.05, [0.57, 0.64, 0.8]), (0.1, [0.57, 0.64, 0.8]), (0.2, [0.64, 0.8]),
    ]  # fmt: skip


def test_the_last_accuracy_is_that_under_every_attack() -> None:
    """In any order: an image counts that withstands each attack by itself."""
    network, x, y = trained(LINF)
    kinds: dict[str, Attack] = {"fgsm": FGSM(LINF), "mi": named_attack("mifgsm", LINF), "deep": DeepFool(LINF)}
    with torch.no_grad():
        withstood = network(x).argmax(1) == y
    for attack in kinds.values():
        adversarial = attack(network, x, y)
        withstood &= network(adversarial).argmax(1) == y
    for order in (["fgsm", "mi", "deep"], ["deep", "mi", "fgsm"]):
        result = measure(network, [(x[:80], y[:80]), (x[80:], y[80:])], {name: kinds[name] for name in order})
        assert result.worst.correct == int(withstood.sum())
        accuracies = [result.clean, *result.robust.values()]
        assert [a.correct for a in accuracies] == sorted((a.correct for a in accuracies), reverse=True)
        assert sum(a.broken for a in result.robust.values()) == result.clean.correct - result.worst.correct > 0


def test_a_single_attack_is_measured_as_by_itself() -> None:
    network, x, y = trained(LINF)
    attack = PGD(LINF, steps=4, restarts=2)
    right = network(x).argmax(1) == y
    adversarial = attack(network, x[right], y[right], generator=torch.Generator().manual_seed(3))
    result = measure(network, [(x, y)], {"pgd": attack}, seed=3)
    assert result.robust["pgd"].correct == int((network(adversarial).argmax(1) == y[right]).sum())
    assert result.robust["pgd"].attacked == int(right.sum())
    before = measure(network, [(x, y)], {"fgsm": FGSM(LINF), "pgd": attack}, seed=3)
    again = measure(network, [(x, y)], {"fgsm": FGSM(LINF), "pgd": attack}, seed=3)
    assert before == again


class Broken(Brightness):
    """Answers that are not finite, for some images alone."""

    def __init__(self, value: float, above: float) -> None:
        super().__init__()
        self.value, self.above = value, above

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean((1, 2, 3)) > self.above
        return torch.where(bright[:, None], self.value, super().forward(images))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("above", [0.0, 0.7, 0.5])  # everywhere, on one clean image, on some perturbed ones
def test_what_is_not_finite_has_no_accuracy(value: float, above: float) -> None:
    attacks = {} if above == 0.7 else {"fgsm": fgsm(0.1)}
    with pytest.raises(UserError, match=r"not finite on \d of \d images"):
        measure(Broken(value, above), bright_batches(LEVELS), attacks)


@pytest.mark.parametrize("attacks", [{}, {"fgsm": fgsm(0.1)}])
def test_images_and_labels_that_cannot_be_measured(attacks: dict[str, Attack]) -> None:
    def measured(images: torch.Tensor, labels: torch.Tensor) -> Measurement:
        return measure(Brightness(), [(images, labels)], attacks)

    images, labels = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    assert measured(images, labels.int()) == measured(images, labels)
    with torch.inference_mode():
        assert measured(images * 1, labels * 1) == measured(images, labels)
    for wrong, words in ((float("nan"), "within"), (2.0, "within"), (float("-inf"), "within")):
        with pytest.raises(ValueError, match=words):
            measured(torch.where(images > 0.5, wrong, images), labels)
    for class_ in (-100, 2):
        with pytest.raises(ValueError, match=str(class_)):
            measured(images, torch.full_like(labels, class_))
    with pytest.raises(ValueError, match="a tensor, got a ndarray"):
        measured(images.numpy(), labels)
    for network, words in (
        (
            nn.Sequential(nn.Flatten(), nn.Linear(9, 2)),
            r"fails on images \(4, 1, 4, 4\).*cannot be multiplied",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), "two or more classes"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(network, [(images, 0 * labels)], attacks)


def test_accuracies_as_plain_values() -> None:
    assert Measurement(Accuracy(3, 4), {}).worst == Accuracy(3, 4)
    plain = RobustAccuracy(6, 10, 8).as_dict()
    assert plain == {**Accuracy(6, 10).as_dict(), "attacked": 8, "broken": 2}


def test_an_attack_that_cheats_is_noticed() -> None:
    """What is farther away than eps would count as broken; what is not finite, as nothing sensible."""

    class Cheat(PGD):
        def perturb(self, model: Any, images: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return 1 - images

    with pytest.raises(AttackError, match=r"attack pgd3 returned images at linf distance 0\.6"):
        measure(Brightness(), bright_batches([0.3, 0.2]), {"x": Cheat(LINF, steps=3)})


# ---------------------------------------------------------------------------------------------------------------------
# Names and records


COUNTED = {"square": "queries", **dict.fromkeys(("pgd", "cw", "mifgsm", "deepfool"), "steps")}
COUNTED |= dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"), "steps")


@pytest.mark.parametrize("name", attack_names())
def test_presets(name: str) -> None:
    method, options = PRESETS.get(name, (name, {}))
    attack = named_attack(name, L2 if method == "fgm" else LINF)
    assert attack.name == name
    assert attacks.name_of(attack) == method
    assert all(getattr(attack, option) == value for option, value in options.items())


def test_every_registered_attack_has_a_name() -> None:
    assert {PRESETS.get(name, (name, {}))[0] for name in attack_names()} == set(attacks.names())
    assert {name: option for name in attacks.names() if (option := counted_option(name))} == COUNTED


@pytest.mark.parametrize("method", COUNTED)
def test_names_with_numbers(method: str) -> None:
    attack = named_attack(f"{method}37", LINF)
    assert getattr(attack, COUNTED[method]) == 37
    assert attack.name == f"{method}37"
    if hasattr(attack, "restarts"):
        twice = named_attack(f"{method}37x2", LINF)
        assert twice == replace(attack, restarts=2)  # type: ignore[call-arg]
        assert twice.name == f"{method}37x2"
        usual = replace(named_attack(f"{method}20", LINF), restarts=3)  # type: ignore[call-arg]
        assert named_attack(usual.name, LINF) == usual


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pgd2o", "did you mean 'pgd20'? valid: fgsm"),
        ("autoatack", "did you mean 'autoattack'"),
        ("apgd-cs", "did you mean 'apgd-ce'"),
        ("Square", "did you mean 'square'"),
        ("pgd", "valid: fgsm, pgdN for N steps"),
        ("", "valid: fgsm"),
        ("pgd20x0", "valid: fgsm"),
        ("fgsm5", "did you mean 'fgsm'"),
        ("mifgsm5x2", "no option 'restarts'"),
        ("fgm", "FGM is for norm l2, got linf"),
        ("pgd20\n", "unknown"),
    ],
)
def test_wrong_names(name: str, part: str) -> None:
    with pytest.raises(UserError, match=re.escape(part)) as caught:
        named_attack(name, LINF)
    assert str(caught.value).startswith(f"--attack {name}: ")
    with pytest.raises(UserError, match="FGSM is for norm linf, got l2"):
        named_attack("fgsm", L2)


OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 3, "start": "gaussian", "restarts": 2},
    "cw": {"steps": 3, "step_size": 0.01},
    "fgsm": {"start": "uniform"},
    "fgm": {"step_size": 0.3},
    "mifgsm": {"steps": 4, "decay": 0.5},
    "nfgsm": {"noise": 1.0, "clip": True},
    "apgd-ce": {"steps": 9, "restarts": 3},
    "apgd-dlr": {"steps": 9},
    "apgd-t": {"targets": 2},
    "square": {"queries": 9, "area": 0.3},
    "deepfool": {"overshoot": 0.1, "candidates": 3},
    "fab": {"steps": 9, "restarts": 2},
    "fab-t": {"targets": 2},
    "autoattack": {"version": "plus", "batch_size": 9},
}


@pytest.mark.parametrize("method", attacks.names())
def test_a_record_gives_the_attack_back(method: str) -> None:
    for threat in (LINF, L2, ThreatModel("l1", 6.0)):
        for options in ({}, OTHER_OPTIONS[method]):
            try:
                attack = attacks.build(method, options, threat=threat)
            except UserError:
                assert threat.norm not in type(attacks.build(method, {}, threat=L2 if method == "fgm" else LINF)).norms
                continue
            values = json.loads(json.dumps(attack_as_dict(attack)))
            again = attack_from_dict(values)
            assert type(again) is type(attack)
            assert again.threat == attack.threat
            assert attack_as_dict(again) == attack_as_dict(attack)
            assert again.name == attack.name == values["name"]
            assert values["method"] == method
            resolved = getattr(attack, "resolved_step_size", None)
            assert again == (attack if resolved is None else replace(attack, step_size=resolved))  # type: ignore[call-arg]


def test_records_of_older_versions_are_pgd() -> None:
    threat = {"norm": "linf", "eps": 0.1, "bounds": [0, 1]}
    old = {"steps": 20, "step_size": 0.0125, "start": "uniform", "restarts": 1, "targeted": False}
    assert attack_from_dict({"name": "pgd20", "threat": threat, **old}) == PGD(LINF, steps=20, step_size=0.0125)
    with pytest.raises(UserError, match="did you mean 'steps'"):
        attack_from_dict({"name": "pgd20", "threat": threat, "step": 3})
    with pytest.raises(UserError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        attack_from_dict({"method": "pdg", "threat": threat})


# ---------------------------------------------------------------------------------------------------------------------
# Signs of gradient masking


def trained(threat: ThreatModel) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network trained against PGD in a moment, and 160 held-out images."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(data.target)[order]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    generator, attack = torch.Generator().manual_seed(0), PGD(threat, steps=3)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(5):
        for part in torch.arange(1400).split(100):
            adversarial = attack(network, x[part], y[part], generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(network(adversarial), y[part]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return network.eval(), x[1400:1560], y[1400:1560]


class Masked(nn.Module):
    """A network with something before or after it."""

    def __init__(self, network: nn.Module, change: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(self.network, images)


NOISE = torch.Generator().manual_seed(0)
MASKS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], torch.Tensor], set[str]]] = {
    "honest": (lambda network, x: network(x), set()),
    "larger logits": (lambda network, x: 5 * network(x) - 3, set()),
    "softmax": (lambda network, x: network(x).softmax(1), {"softmax outputs"}),
    "noise": (lambda network, x: network(x + 0.1 * torch.randn(x.shape, generator=NOISE)), {"random outputs"}),
    "saturated": (lambda network, x: 300 * network(x), {"zero gradients", "unbounded attack fails"}),
    "quantised": (
        lambda network, x: network((4 * x).round() / 4),
        {"zero gradients", "black box beats white box", "unbounded attack fails"},
    ),
    "steps": (
        lambda network, x: network((x > 0.5).float()),
        {"zero gradients", "black box beats white box", "unbounded attack fails"},
    ),
}


@pytest.mark.parametrize("threat", [LINF, L2], ids=lambda threat: threat.norm)
def test_what_masks_is_found_and_what_does_not_is_not(threat: ThreatModel) -> None:
    network, x, y = trained(threat)
    for name, (change, expected) in MASKS.items():
        masked = Masked(network, change).train()
        found = check_masking(masked, [(x[:50], y[:50]), (x[50:], y[50:])], threat, queries=500)
        assert {finding.check for finding in found} == expected, (name, [str(finding) for finding in found])
        assert masked.training
        assert masked.network.training
        assert all(parameter.grad is None for parameter in network.parameters())


def test_one_step_that_beats_many() -> None:
    """A rippled slope: small steps stop in the first trough, and one long step jumps over all of them."""

    def ripples(x: torch.Tensor) -> torch.Tensor:
        u = (x.mean((1, 2, 3)) - 0.5) / 0.1
        height = 1.5 - torch.sin(6 * torch.pi * u) - 5 * torch.sigmoid(50 * (u - 0.95))
        return torch.stack([height, -height], 1)

    x, y = torch.full((20, 1, 8, 8), 0.5), torch.zeros(20, dtype=torch.long)
    network = Masked(nn.Identity(), lambda _, x: ripples(x))
    found = {finding.check: finding for finding in check_masking(network, [(x, y)], LINF, queries=50)}
    assert found["one step beats many"].measured == "one step breaks 20 of 20 images, 40 steps break 0"
    assert "zero gradients" not in found


def test_there_must_be_something_to_check() -> None:
    network, x, _ = trained(LINF)
    with pytest.raises(UserError, match="no image is classified correctly"):
        check_masking(network, [(x, (network(x).argmax(1) + 1) % 10)], LINF)


def test_the_guide_explains_every_check() -> None:
    """Each finding points to a heading that is there."""
    for check in MEANINGS:
        file, _, anchor = Finding(check, "").pointer.partition("#")
        text = (Path(__file__).parent.parent / file).read_text(encoding="utf-8")
        headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")]
        assert anchor in headings


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def student(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student directory; not to be changed."""
    run = shutil.copytree(trained_run, tmp_path_factory.mktemp("evaluation") / "run")
    (written,) = extract(flops="1G", run=run, quiet=True)
    return written.path


def test_the_card_says_what_the_attack_did(student: Path) -> None:
    evaluation = json.loads((student / "student.json").read_text())["evaluation"]
    (robust,) = evaluation["robust"]
    assert robust["attack"]["method"] == "pgd"
    assert robust["attacked"] == evaluation["clean"]["correct"]
    assert robust["broken"] == robust["attacked"] - robust["correct"]
    (again,) = evaluate(student)
    assert again.measurement.robust["pgd3"].as_dict() == {k: v for k, v in robust.items() if k != "attack"}


def test_a_student_with_broken_weights(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(student, tmp_path / "student")
    weights = load_file(student / "student.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    weights[name].flatten()[0] = float("nan")
    save_file(weights, tmp_path / "student" / "student.safetensors")
    card = json.loads((student / "student.json").read_text())
    card["files"]["student.safetensors"] = sha256(tmp_path / "student" / "student.safetensors")
    (tmp_path / "student" / "student.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit) as left:
        main(["evaluate", str(tmp_path / "student")])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not finite" in line


def test_evaluate_a_cascade(student: Path) -> None:
    (result,) = evaluate(student, ["fgsm", "square30", "mifgsm"], limit=40)
    assert list(result.measurement.robust) == ["fgsm", "square30", "mifgsm"]
    assert result.findings is None
    plain = json.loads(json.dumps(result.as_dict()))
    assert list(plain) == ["path", "clean", "fgsm", "square30", "mifgsm"]
    assert plain["square30"]["attacked"] == plain["fgsm"]["correct"]
    assert plain["square30"]["broken"] == plain["fgsm"]["correct"] - plain["square30"]["correct"]
    for name in ("clean", "fgsm", "square30", "mifgsm"):
        assert (plain[name]["split"], plain[name]["seed"], plain[name]["limit"]) == ("test", result.seed, 40)
    assert attack_from_dict(plain["square30"]["attack"]) == Square(LINF, queries=30)
    (alone,) = evaluate(student, ["fgsm"], limit=40)
    assert alone.measurement.robust["fgsm"] == result.measurement.robust["fgsm"]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return (int(left.value.code or 0), *capsys.readouterr())


def test_the_command_shows_what_each_attack_broke(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--attack", "fgsm", "--attack", "square30", "--limit", "40")
    code, text, errors = output(capsys, "evaluate", str(student), *chosen)
    assert (code, errors) == (0, "")
    (result,) = evaluate(student, ["fgsm", "square30"], limit=40)
    lines = [re.split(r"  +", line) for line in text.splitlines()]
    heads = [name for line in lines if line[0] == "student" for name in line]  # the table goes on in a second one
    assert {"clean %", "fgsm %", "square30 %"} <= set(heads)
    header = lines.index(["student", "attack", "norm", "eps", "attacked", "broken", "left", "left %"])
    for row, (name, accuracy) in zip(lines[header + 1 : -2], result.measurement.robust.items(), strict=True):
        counts = [str(n) for n in (accuracy.attacked, accuracy.broken, accuracy.correct)]
        assert row == [student.name, name, "linf", f"{LINF.eps:.4g}", *counts, str(accuracy)]
    code, text, _ = output(capsys, "evaluate", str(student), "--attack", "fgsm", "--limit", "40")
    assert "broke" not in text


def test_the_command_checks_for_masking(
    student: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    found = [Finding("zero gradients", "many are zero"), Finding("random outputs", "they differ")]

    def check(network: nn.Module, batches: Any, threat: ThreatModel, **options: Any) -> list[Finding]:
        asked.append((sum(len(labels) for _, labels in batches), threat))
        return found

    monkeypatch.setattr("proard.commands.evaluate.check_masking", check)
    arguments = ("evaluate", str(student), "--attack", "fgsm", "--limit", "20", "--check")
    code, text, _ = output(capsys, *arguments)
    assert code == 0
    assert asked == [(20, LINF)]
    warnings = [line for line in text.replace("\n         ", " ").splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: {student.name}: {finding}" for finding in found]
    assert "docs/guides/gradient_masking.md#zero-gradients" in warnings[0]
    _, text, _ = output(capsys, *arguments, "--json")
    assert [finding["check"] for finding in json.loads(text)[0]["findings"]] == ["zero gradients", "random outputs"]
    found.clear()
    _, text, _ = output(capsys, *arguments)
    assert "no sign of gradient masking" in text


def test_the_command_refuses_in_one_line(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    l2 = shutil.copytree(student, tmp_path / "l2")
    card = json.loads((l2 / "student.json").read_text())
    card["evaluation"]["robust"][0]["attack"]["threat"]["norm"] = "l2"
    (l2 / "student.json").write_text(json.dumps(card))
    for path, name, part in (
        (l2, "fgsm", "FGSM is for norm linf, got l2"),
        (l2, "nfgsm", "NFGSM is for norm linf, got l2"),
        (student, "fgm", "FGM is for norm l2, got linf"),
        (student, "autoatack", "did you mean 'autoattack'"),
    ):
        code, text, errors = output(capsys, "evaluate", str(path), "--attack", name)
        assert (code, text) == (2, "")
        assert errors.count("\n") == 1
        assert part in errors


def test_autoattack_of_a_student_breaks_what_the_package_breaks(student: Path) -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    from pyautoattack import AutoAttack as Package

    card = json.loads((student / "student.json").read_text())
    seed, network = card["evaluation"]["seed"], load_student(student)
    data = load_data(DataConfig.model_validate(card["data"]))
    ((images, labels),) = evaluation_batches(data.test.subset(24, seed), data.input_shape, torch.device("cpu"))
    package = Package(network, norm="Linf", eps=LINF.eps, seed=seed, device="cpu")
    package.verbose = False
    with torch.random.fork_rng([]):
        expected, _ = package.run_standard_evaluation(images, labels)
    judged = network(expected).argmax(1) != labels
    generator = torch.Generator().manual_seed(seed)
    ours = network(AutoAttack(LINF)(network, images, labels, generator=generator)).argmax(1) != labels
    assert (ours >= judged).all()
    (result,) = evaluate(student, ["autoattack"], limit=24)
    assert result.measurement.robust["autoattack"].correct <= int((~judged).sum())


def test_nfgsm_is_measured_within_eps() -> None:
    """Its training form goes beyond; `measure` would refuse that."""
    network, x, y = trained(LINF)
    result = measure(network, [(x, y)], {"nfgsm": NFGSM(LINF)})
    assert result.robust["nfgsm"].broken > 0


def test_the_union_of_norms(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each norm attacks every image; ``union`` is what withstands all; each alone is what `autoattack` gives."""
    student = Path(shutil.copytree(student, tmp_path / "student"))
    (student / "autoattack.json").unlink(missing_ok=True)
    monkeypatch.setattr("proard.attacks.autoattack.VERSIONS", {"standard": {"apgd-ce": {"steps": 5}}})
    monkeypatch.setattr("proard.attacks.autoattack.STANDARD_L1", {"apgd-ce": {"steps": 5}})
    radii = {"linf": LINF.eps, "l2": 0.5, "l1": 4.0}
    options = ("--attack", "union", "--limit", "40", "--radii", "l1=8/2")
    code, text, errors = output(capsys, "evaluate", str(student), *options, "--json")
    assert (code, errors) == (0, "")
    (found,) = json.loads(text)
    names = [f"autoattack-{norm}" for norm in radii]
    assert list(found) == ["path", "clean", *names, "union"]
    assert [found[name]["attack"]["threat"]["eps"] for name in names] == pytest.approx(list(radii.values()))
    assert {found[name]["attacked"] for name in [*names, "union"]} == {found["clean"]["correct"]}
    least = min(found[name]["correct"] for name in names)
    assert found["union"]["correct"] <= least < found["clean"]["correct"]
    assert found["union"]["attack"] == {"name": "union", "attacks": names}
    card = (student / "README.md").read_text()
    assert "## Every norm" in card
    assert "## AutoAttack" not in card
    percent = f"{100 * found['union']['accuracy']:.1f}"
    assert re.search(rf"\| union \| all of these \|  \| {percent} ", card)
    assert f"| autoattack-l1 | l1, eps 4 | apgd-ce 5 steps | {100 * found['autoattack-l1']['accuracy']:.1f} " in card
    assert "Larger ones, rotations, noise, blur and patches were not tried" in card
    (alone,) = evaluate(student, ["autoattack"], limit=40)
    kept = json.loads((student / "autoattack.json").read_text())
    assert kept["robust"]["autoattack"]["correct"] == found["autoattack-linf"]["correct"]
    assert "## AutoAttack" in (student / "README.md").read_text()
    assert alone.measurement.robust["autoattack"].correct == found["autoattack-linf"]["correct"]
    code, text, _ = output(capsys, "evaluate", str(student), *options)
    rows = [line.split() for line in text.splitlines() if "autoattack-l1" in line or " union " in line]
    assert [row[2:4] for row in rows if len(row) > 5][-2:-1] == [["l1", "4"]]
    assert "what each attack broke of all images" in text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--attack", "union", "--attack", "pgd20"], "--attack union: "),
        (["--attack", "pgd20", "--radii", "l1=12"], "--radii l1=12: only of --attack union"),
        (["--attack", "union", "--radii", "l3=12"], "--radii l3=12"),
        (["--attack", "union", "--radii", "l1=wide"], "--radii l1=wide: write them as"),
        (["--attack", "union", "--radii", "l1=-1"], "--radii l1=-1"),
        (["--attack", "union", "--radii", "linf=8"], "write them as linf=8/255"),
        (["--attack", "unoin"], "did you mean 'union'"),
    ],
)
def test_wrong_use_of_the_union(
    student: Path, options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, errors = output(capsys, "evaluate", str(student), *options)
    assert (code, text, errors.count("\n")) == (2, "", 1)
    assert part in errors


def test_the_union_is_what_withstands_every_attack() -> None:
    """Whichever comes last: one attack breaks the dark image alone, the other the light one alone."""

    def moving(limit: float, above: bool) -> Attack:
        class Moving(FGSM):
            def perturb(self, model: Any, images: Any, labels: Any, **_: Any) -> Any:
                chosen = (images.flatten(1).mean(1) > limit) == above
                return torch.where(chosen.view(-1, 1, 1, 1), 1 - images, images)

        return Moving(ThreatModel("linf", 1.0))

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():  # whether the left half is lighter than the right one
        network[1].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]]))
    images = torch.tensor([[0.2, 0.0], [0.6, 0.4], [1.0, 0.8]])[:, None, None].expand(3, 1, 2, 2).contiguous()
    attacks = {"light": moving(0.7, True), "dark": moving(0.3, False)}
    for order in (attacks, dict(reversed(attacks.items()))):
        robust = measure(network, [(images, torch.zeros(3, dtype=torch.int64))], order, union=True).robust
        assert {name: accuracy.correct for name, accuracy in robust.items()} == {"light": 2, "dark": 2, "union": 1}
