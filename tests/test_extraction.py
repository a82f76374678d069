"""Extraction within budgets, and evaluation: what is chosen, on which images, and whether the numbers hold."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch.utils.flop_counter import FlopCounterMode

import proard.commands.extract
import proard.data
from proard import evaluate, extract, load_student
from proard.attacks import PGD, ThreatModel, attack_as_dict, attack_from_dict, named_attack
from proard.commands.results import MeasuredStudent
from proard.common.errors import UserError
from proard.config import DataConfig, load_config, parse_config
from proard.data import load_data, load_test_split
from proard.evaluation.accuracy import Accuracy, measure
from proard.export.student_directory import FORMATS
from proard.runs.checkpoint import load_checkpoint, save_checkpoint
from proard.runs.components import supernet_for
from proard.runs.run import Run
from proard.search.labeller import Labeller
from proard.supernet import SearchSpace
from proard.supernet.budgets import KINDS, Budget
from proard.supernet.cost import Cost

FIELDS = {"flops": "multiply_adds", "params": "parameters", "memory": "peak_activation_bytes", "size": "file_bytes"}
UNITS = {"flops": "", "params": "", "memory": "B", "size": "B"}


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run, to extract from."""
    return Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("extraction") / "run"))


@pytest.fixture(scope="module")
def space(run: Path) -> SearchSpace:
    config = Run(run).config()
    return supernet_for(config, load_data(config.data)).space


def middle(space: SearchSpace, kind: str) -> str:
    """A budget half-way between the smallest and the largest student."""
    least, most = (getattr(space.cost(a), FIELDS[kind]) for a in (space.smallest(), space.largest()))
    return f"{(least + most) // 2}{UNITS[kind]}"


@pytest.fixture(scope="module")
def students(run: Path, space: SearchSpace) -> dict[str, MeasuredStudent]:
    """One student per kind of budget, from a single call."""
    budgets = [(kind, middle(space, kind)) for kind in FIELDS]
    return dict(zip(FIELDS, extract(budgets, run=run, quiet=True), strict=True))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but the energy accounting, which any command may add to."""
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "energy.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


# ---------------------------------------------------------------------------------------------------------------------
# What is written


def test_the_files_of_a_student(run: Path, students: dict[str, MeasuredStudent]) -> None:
    assert sorted(path.name for path in (run / "students").iterdir()) == sorted(s.path.name for s in students.values())
    for kind, student in students.items():
        assert student.path == run / "students" / f"{kind}-{student.card['budget']['text']}"
        names = {path.name for path in student.path.iterdir()}
        assert names == {"README.md", "student.json", "student.pt2", "student.safetensors"}
        assert json.loads((student.path / "student.json").read_text()) == student.card


@pytest.mark.parametrize("kind", FIELDS)
def test_a_student_keeps_its_budget_as_counted_by_torch(students: dict[str, MeasuredStudent], kind: str) -> None:
    path, card = students[kind].path, students[kind].card
    network = load_student(path)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, *card["input_shape"]))
    multiply_adds = counter.get_total_flops() // 2
    parameters = sum(parameter.numel() for parameter in network.parameters())
    file_bytes = (path / "student.safetensors").stat().st_size
    assert (multiply_adds, parameters, file_bytes) == (card["multiply_adds"], card["parameters"], card["bytes"])
    limits = {"flops": multiply_adds, "params": parameters, "memory": card["peak_activation_bytes"], "size": file_bytes}
    assert card["budget"]["kind"] == kind
    assert 0.5 * card["budget"]["limit"] < limits[kind] <= card["budget"]["limit"]


def test_what_a_card_says(run: Path, tiny: dict[str, Any], students: dict[str, MeasuredStudent]) -> None:
    config = parse_config(tiny)
    data = load_data(config.data)
    for student in students.values():
        card = student.card
        assert card["architecture"]
        assert card["classes"] == [str(digit) for digit in range(10)]
        assert card["input_shape"] == [1, 8, 8]
        assert card["normalisation"] == {"mean": list(data.mean), "std": list(data.std), "inside_the_network": True}
        assert card["threat_model"] == {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0]}
        assert card["supernet_finished"] is True
        assert {"proard", "torch", "torchvision", "python"} <= set(card["versions"])
        evaluation = card["evaluation"]
        assert (evaluation["split"], evaluation["seed"], evaluation["limit"]) == ("test", tiny["seed"], 60)
        (robust,) = evaluation["robust"]
        assert robust["attack"]["steps"] == 3
        assert robust["attack"]["threat"] == card["threat_model"]
        for value, row in ((card["clean_accuracy"], evaluation["clean"]), (card["robust_accuracy"], robust)):
            assert row["images"] == 60
            assert value == row["accuracy"] == row["correct"] / 60
            assert row["interval_95"][0] <= value <= row["interval_95"][1]
        assert card["robust_accuracy"] <= card["clean_accuracy"]
        readme = (student.path / "README.md").read_text()
        for text in (f"{card['multiply_adds']:,}", f"{card['parameters']:,}", f"{100 * card['clean_accuracy']:.1f} %"):
            assert text in readme


def test_clean_accuracy_recomputed_in_plain_torch(tiny: dict[str, Any], students: dict[str, MeasuredStudent]) -> None:
    config = parse_config(tiny)
    images = load_data(config.data).test.subset(60, config.seed)
    ((pixels, labels),) = images.batches([torch.arange(60)], "cpu")
    for student in students.values():
        with torch.no_grad():
            right = (load_student(student.path)(pixels).argmax(1) == labels).sum().item()
        assert right == student.card["evaluation"]["clean"]["correct"]


def test_the_same_run_and_budget_give_the_same_student(
    run: Path, students: dict[str, MeasuredStudent], tmp_path: Path, fast: None
) -> None:
    """Whatever the random state of the process, and whichever budgets came before."""
    torch.manual_seed(5)
    random.seed(5)
    first = students["flops"]
    (again,) = extract(flops=first.card["budget"]["text"], run=run, out=tmp_path, quiet=True)
    assert (again.path / "student.safetensors").read_bytes() == (first.path / "student.safetensors").read_bytes()
    assert again.card["evaluation"] == first.card["evaluation"]


def test_a_budget_for_everything_gives_the_largest(run: Path, space: SearchSpace, tmp_path: Path, fast: None) -> None:
    smallest = space.cost(space.smallest()).multiply_adds
    ends = extract([Budget.parse("flops", 1e12), ("flops", str(smallest))], run=run, out=tmp_path, quiet=True)
    assert ends[0].card["architecture"] == dict(space.largest())
    assert ends[1].card["multiply_adds"] == smallest


# ---------------------------------------------------------------------------------------------------------------------
# How it is chosen


def test_test_images_are_not_read_before_the_choice(
    run: Path, space: SearchSpace, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Guarded:
        def __init__(self, images: Any) -> None:
            self.images = images

        def __getattr__(self, name: str) -> Any:
            log.append("test")
            return getattr(self.images, name)

    original_load, original_choose = proard.data.load_data, proard.commands.extract.choose

    def load(config: DataConfig, imports: tuple[str, ...]) -> Any:
        data = original_load(config, imports)
        return dataclasses.replace(data, test=Guarded(data.test))

    def choose(*arguments: Any, **options: Any) -> Any:
        chosen = original_choose(*arguments, **options)
        log.append("chosen")
        return chosen

    monkeypatch.setattr("proard.data.load_data", load)
    monkeypatch.setattr(proard.commands.extract, "choose", choose)
    extract(flops=middle(space, "flops"), run=run, out=tmp_path, quiet=True)
    assert log[0] == "chosen"
    assert "test" in log


def test_the_choice_is_the_best_of_what_was_measured_and_nothing_is_measured_twice(
    run: Path, space: SearchSpace, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[dict[Any, Any]] = []
    measured: Counter[Any] = Counter()
    original_label, original_init = Labeller.__call__, proard.commands.extract.Extractor.__init__

    def count(self: Labeller, architecture: Any) -> Any:
        measured[architecture] += 1
        return original_label(self, architecture)

    def init(self: Any, *arguments: Any) -> None:
        original_init(self, *arguments)
        labels.append(self.labels)

    monkeypatch.setattr(Labeller, "__call__", count)
    monkeypatch.setattr(proard.commands.extract.Extractor, "__init__", init)
    budgets = [("flops", middle(space, "flops")), ("params", middle(space, "params")), ("flops", "1G")]
    students = extract(budgets, run=run, out=tmp_path, quiet=True)
    assert set(measured.values()) == {1}
    for student in students:
        budget = Budget.parse(student.card["budget"]["kind"], student.card["budget"]["text"])
        chosen = labels[0][space.canonical(student.card["architecture"])]
        fitting = [label for architecture, label in labels[0].items() if budget.admits(space.cost(architecture))]
        assert chosen.robust <= max(label.robust for label in fitting)
    last = labels[0][space.canonical(students[-1].card["architecture"])]
    assert last.robust == max(label.robust for label in labels[0].values())  # everything fits the last budget


def test_a_run_that_has_not_finished_is_said_to(
    run: Path, tmp_path: Path, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    state = load_checkpoint(copy / "checkpoint.pt")
    state.pop("format")
    save_checkpoint(copy / "checkpoint.pt", {**state, "finished": False})
    (student,) = extract(flops="1G", run=copy, quiet=True)
    assert student.card["supernet_finished"] is False
    assert "not finished" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be done


@pytest.mark.parametrize("kind", FIELDS)
def test_a_budget_below_the_smallest_names_it_and_writes_nothing(run: Path, space: SearchSpace, kind: str) -> None:
    before = tree(run.parent)
    need = getattr(space.cost(space.smallest()), FIELDS[kind])
    budgets = [("flops", "1G"), (kind, f"{need - 1}{UNITS[kind]}")]
    with pytest.raises(UserError, match=f"{need:,}"):
        extract(budgets, run=run, quiet=True)
    assert tree(run.parent) == before


def test_wrong_arguments(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for options, message in (
        ({}, "needs a budget"),
        ({"budgets": []}, "needs a budget"),
        ({"flops": "1X"}, "--flops 1X"),
        ({"budgets": [("flop", "1G")]}, "did you mean 'flops'"),
        ({"flop": "1G"}, "did you mean 'flops'"),
        ({"memory_int9": "64KB"}, "did you mean 'memory-int8'"),
        ({"memory_int8": "1X"}, "--memory-int8 1X"),
        ({"flops": "1G", "prefer": "fast"}, "--prefer fast"),
        ({"flops": "1G", "formats": ["onx"]}, "did you mean 'onnx'"),
        ({"flops": "1G", "out": file}, str(file)),
        ({"flops": "1G", "out": file / "inside"}, str(file)),
        ({"flops": "1G", "run": tmp_path / "nowhere"}, "nowhere"),
        ({"flops": "1G", "run": file}, "file"),
    ):
        with pytest.raises(UserError) as caught:
            extract(**{"run": run, "out": tmp_path / "out", "quiet": True, **options})  # type: ignore[arg-type]
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_failed_extraction_leaves_the_older_student(
    run: Path, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(student: Any, example: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "pt2", broken)
        with pytest.raises(OSError, match="No space"):
            extract(flops="1G", run=run, out=tmp_path / "out", quiet=True)
    assert tree(tmp_path) == {}
    assert list((tmp_path / "out").iterdir()) == []
    extract(flops="1G", run=run, out=tmp_path / "out", quiet=True)
    before = tree(tmp_path)
    assert len(before) == 4
    monkeypatch.setitem(FORMATS, "pt2", broken)
    with pytest.raises(OSError, match="No space"):
        extract(flops="1G", run=run, out=tmp_path / "out", quiet=True)
    assert tree(tmp_path) == before
    load_student(tmp_path / "out" / "flops-1G")


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation of student directories


def test_evaluate_repeats_the_card_without_the_run(
    students: dict[str, MeasuredStudent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = students["params"].path
    copy = shutil.copytree(source, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    aside = source.parent.parent.rename(source.parent.parent.with_name("aside"))
    torch.manual_seed(9)
    starts: list[torch.Tensor] = []
    original = PGD.until_fooled

    def until_fooled(self: PGD, model: Any, images: Any, labels: Any, generator: torch.Generator) -> torch.Tensor:
        starts.append(generator.get_state())
        return original(self, model, images, labels, generator)

    monkeypatch.setattr(PGD, "until_fooled", until_fooled)
    try:
        (result,) = evaluate(copy)
        assert not list(tmp_path.rglob("energy.json"))  # which is a run's
    finally:
        aside.rename(source.parent.parent)
    recorded = students["params"].card["evaluation"]
    assert torch.equal(starts[0], torch.Generator().manual_seed(recorded["seed"]).get_state())
    assert result.measurement.clean.as_dict() == recorded["clean"]
    (robust,) = recorded["robust"]
    (measured,) = result.measurement.robust.values()
    assert measured.as_dict() == {key: value for key, value in robust.items() if key != "attack"}


def test_evaluate_a_run_is_all_of_its_students(run: Path, students: dict[str, MeasuredStudent]) -> None:
    results = evaluate(run, ["fgsm", "pgd2x2"], limit=20)
    assert json.loads((run / "energy.json").read_text())["commands"][-1]["command"] == "evaluate"
    assert [result.path for result in results] == sorted(student.path for student in students.values())
    for result in results:
        assert list(result.measurement.robust) == ["fgsm", "pgd2x2"]
        assert result.measurement.clean.total == 20
        assert all(robust.correct <= result.measurement.clean.correct for robust in result.measurement.robust.values())


def test_evaluate_refuses(run: Path, students: dict[str, MeasuredStudent], tmp_path: Path) -> None:
    student = students["flops"].path
    empty = shutil.copytree(run, tmp_path / "empty", ignore=shutil.ignore_patterns("students"))
    for path, options, message in (
        (student, {"limit": 0}, "--limit 0"),
        (student, {"limit": -3}, "--limit -3"),
        (student, {"attacks": ["pgd"]}, "--attack pgd"),
        (student, {"attacks": ["pgd0"]}, "--attack pgd0"),
        (student, {"attacks": ["pgd20", "nattack"]}, "--attack nattack"),
        (student, {"device": "gpu"}, "--device gpu"),
        (student, {"device": "cuda:99"}, "cuda:99"),
        (tmp_path, {}, "neither a student directory"),
        (tmp_path / "nowhere", {}, "neither a student directory"),
        (student / "student.json", {}, "neither a student directory"),
        (empty, {}, "no students"),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(path, **options)  # type: ignore[arg-type]
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"name": "imagenet"}}, "unknown data set 'imagenet'.*--import MODULE"),
        ({"data": {"name": 3}}, "data or evaluation"),
        ({"evaluation": {}}, "data or evaluation"),
        ({"evaluation": {"seed": 1, "limit": 3, "robust": []}}, "data or evaluation"),
        ({"evaluation": {"seed": 1, "limit": 3, "robust": [{"attack": {"steps": 0}}]}}, "data or evaluation"),
        ({"classes": ["a"] * 10}, "other classes"),
    ],
)
def test_evaluate_a_damaged_card(
    students: dict[str, MeasuredStudent], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    copy = shutil.copytree(students["flops"].path, tmp_path / "student")
    (copy / "student.json").write_text(json.dumps({**students["flops"].card, **change}))
    with pytest.raises(UserError, match=message) as caught:
        evaluate(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_evaluate_never_downloads_and_says_how_to_name_the_place(
    students: dict[str, MeasuredStudent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trained may have asked for a download; who evaluates a student directory has not."""
    copy = shutil.copytree(students["flops"].path, tmp_path / "student")
    asked: list[DataConfig] = []

    def load(settings: DataConfig, classes: tuple[str, ...]) -> Any:
        asked.append(settings)
        return load_test_split(settings, classes)

    monkeypatch.setattr("proard.commands.subjects.load_test_split", load)
    for data in ({"name": "digits", "download": True}, {"name": "cifar10", "root": "/nowhere", "download": True}):
        (copy / "student.json").write_text(json.dumps({**students["flops"].card, "data": data}))
        if data["name"] == "digits":
            evaluate(copy, ["fgsm"], limit=10)
        else:
            with pytest.raises(UserError, match=r"/nowhere.*--data-root"):
                evaluate(copy)
            with pytest.raises(UserError, match=str(tmp_path)):
                evaluate(copy, data_root=tmp_path)
    assert not any(settings.download for settings in asked)


def test_a_card_names_the_images_from_any_folder(
    run: Path, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("students"))
    config = Run(copy).config()
    data = config.data.model_copy(update={"root": Path("images")})
    (copy / "config.yaml").write_text(config.model_copy(update={"data": data}).to_yaml())
    monkeypatch.chdir(tmp_path)
    (student,) = extract(flops="1G", run=copy, quiet=True)
    assert student.card["data"]["root"] == str(tmp_path / "images")


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


@given(st.integers(0, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    correct, total = counts
    low, high = Accuracy(correct, total).interval
    if total == 0:
        assert (low, high) == (0.0, 1.0)
        return
    expected = binomtest(correct, total).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-6)
    assert high == pytest.approx(expected.high, abs=1e-6)
    assert 0 <= low <= Accuracy(correct, total).value <= high <= 1


THREAT = ThreatModel("linf", 0.1)
ATTACK = {"pgd": PGD(THREAT, steps=2)}


class Brightness(torch.nn.Module):
    """Class 1 for bright images; an attack of 0.1 turns those whose mean is within 0.1 of the threshold."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.seen: list[int] = []
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        margin = self.sign * (self.dropout(images).mean((1, 2, 3)) - 0.5)
        return torch.stack([-margin, margin], 1)


def brightness_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    levels = torch.tensor([0.05, 0.2, 0.35, 0.45, 0.55, 0.65, 0.8, 0.95])
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    labels = (levels > 0.5).long()
    labels[0] = 1  # one wrong label
    return [(images[:3], labels[:3]), (images[3:], labels[3:])]


def test_measure_a_network_whose_robust_accuracy_is_known() -> None:
    network = Brightness()
    network.train()
    result = measure(network, brightness_batches(), ATTACK)
    assert (result.clean.correct, result.clean.total) == (7, 8)  # dropout was off
    assert (result.robust["pgd"].correct, result.robust["pgd"].total) == (5, 8)  # 0.45 and 0.55 fall
    assert network.training
    assert network.dropout.training


def test_the_attack_sees_only_images_that_are_classified_correctly() -> None:
    network = Brightness()
    measure(network, brightness_batches(), ATTACK)
    assert network.seen == [3, 2, 2, 2, 5, 5, 5, 5]  # per batch: clean, two steps, the attacked ones


def test_measure_when_always_right_and_always_wrong() -> None:
    images, labels = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.long)

    class Constant(torch.nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(images), 3) + 0 * images.sum()
            logits[:, self.label] = 1
            return logits

    for label, accuracy in ((0, 1.0), (1, 0.0)):
        result = measure(Constant(label), [(images, labels)], ATTACK)
        assert (result.clean.value, result.robust["pgd"].value) == (accuracy, accuracy)
    assert measure(Constant(0), [], ATTACK).clean.total == 0


def test_measure_puts_modes_back_and_leaves_parameters_alone(run: Path, space: SearchSpace) -> None:
    config = Run(run).config()
    data = load_data(config.data)
    supernet = supernet_for(config, data)
    with pytest.raises(UserError, match="no statistics"):
        measure(supernet.student(space.smallest()), [], ATTACK)
    batches = list(data.validation.batches([torch.arange(10)], "cpu"))
    student = supernet.extract(space.smallest(), batches)
    student.train()
    next(student.children()).eval()
    modes = [module.training for module in student.modules()]
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    result = measure(student, batches, ATTACK)
    assert result.robust["pgd"].correct <= result.clean.correct
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())

    class Broken(PGD):
        def perturb(self, *_: Any, **__: Any) -> torch.Tensor:
            raise RuntimeError("broken")

    labels = student.eval()(batches[0][0]).argmax(1)
    student.train()
    with pytest.raises(RuntimeError, match="broken"):
        measure(student, [(batches[0][0], labels)], {"pgd": Broken(THREAT)})
    assert student.training


def test_attacks_by_name_and_as_json() -> None:
    assert named_attack("pgd20", THREAT) == PGD(THREAT, steps=20)
    assert named_attack("pgd7x3", THREAT) == PGD(THREAT, steps=7, restarts=3)
    for attack in (named_attack("fgsm", THREAT), PGD(THREAT, steps=3, step_size=0.01, start="gaussian", restarts=2)):
        values = json.loads(json.dumps(attack_as_dict(attack)))
        again = attack_from_dict(values)
        assert attack_as_dict(again) == attack_as_dict(attack)
        assert values["name"] == attack.name
        assert values["step_size"] == attack.resolved_step_size
    for name in ("PGD20", "pgd-1", "pgd20x0", "pgd20x", "", "fgsm2"):
        with pytest.raises(UserError, match="valid: fgsm, pgdN"):
            named_attack(name, THREAT)


def test_every_cost_has_its_kind_of_budget() -> None:
    assert {field.name for field in dataclasses.fields(Cost)} == {kind.field for kind in KINDS.values()}


@pytest.mark.parametrize(
    "key",
    [
        "data.validation=0.2",
        "data.split_seed=4",
        "supernet.widths=[16, 32]",
        "data.limit=190",
        "phases.1.learning_rate=7",
        "seed=8",
    ],
)
def test_a_configuration_that_was_changed_since(trained_run: Path, tmp_path: Path, key: str) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    config = load_config(trained_run / "config.yaml", [key])
    (tmp_path / "run" / "config.yaml").write_text(config.to_yaml())
    with pytest.raises(UserError, match=rf"{re.escape(key.partition('=')[0])}.* differ from the run"):
        extract([("flops", "10M")], run=tmp_path / "run")
