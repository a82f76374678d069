"""Private copies of classifiers and batch norms, and supernets that begin with another run's weights."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import nn

from proard import extract, load_student, train
from proard.common.errors import UserError
from proard.config import load_config, parse_config
from proard.data import load_data
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import supernet_for
from proard.runs.run import Run
from proard.supernet import Architecture, CostBins, Supernet, build_supernet, families
from proard.supernet.families.resnet_spaces import ResNetFamily
from proard.supernet.widths import batch_norm_widths
from proard.training.interruption import Interrupted
from proard.training.trainer import Trainer

SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"widths": (16, 24), "blocks": (1, 1), "width_choices": (0.5, 1.0), "expand_choices": (0.5, 1.0)},
    "resnet50": {"widths": (32, 64), "blocks": (1, 1), "depth_choices": (0, 1), "dropout": 0.0},
    "mobilenetv3": {"depth_choices": (1, 2), "width_multiplier": 0.25, "expand_choices": (2, 3), "dropout": 0.0},
    "vit": {"width_choices": (16, 24), "depth_choices": (1, 2), "heads_choices": (1, 2), "head_channels": 8},
}
BOTH: dict[str, Any] = {"classifiers": 3, "batch_norms": "per_width"}


def make(family: str = "resnet", **options: Any) -> Supernet:
    return build_supernet(family, num_classes=5, input_shape=(3, 16, 16), **{**SMALL[family], **options}).double()


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def architectures(net: Supernet, count: int = 8) -> list[Architecture]:
    rng = random.Random(0)
    return [net.space.largest(), net.space.smallest(), *(net.space.sample(rng) for _ in range(count))]


def stir(net: Supernet) -> None:
    """Give every tensor, copies too, values of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


# Bins


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bins_are_equally_wide_in_the_logarithm(count: int) -> None:
    space = make().space
    bins = CostBins(space, count)
    smallest, largest = (space.cost(end).multiply_adds for end in (space.smallest(), space.largest()))
    assert len(bins) == count == len(bins.edges) - 1
    assert (bins.edges[0], bins.edges[-1]) == (smallest, largest)
    assert (bins.index(space.smallest()), bins.index(space.largest())) == (0, count - 1)
    seen = set()
    for architecture in [space.sample(random.Random(seed)) for seed in range(60)]:
        cost = space.cost(architecture).multiply_adds
        expected = int(count * math.log(cost / smallest) / math.log(largest / smallest))
        assert bins.index(architecture) == min(expected, count - 1)
        seen.add(bins.index(architecture))
    assert seen == set(range(count))


def test_bins_clamp_and_one_cost_is_one_bin() -> None:
    space = make().space
    low = CostBins(space.only(space.smallest()), 4)
    assert len(low) == 1
    assert (low.index(space.smallest()), low.index(space.largest())) == (0, 0)
    narrow = CostBins(space.unlocked(["expand"]), 3)
    assert narrow.index(space.smallest()) == 0
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CostBins(space, 0)


# Copies


@pytest.mark.parametrize("family", SMALL)
def test_copies_that_equal_their_slices_change_no_student(family: str) -> None:
    plain, private = make(family), make(family, **BOTH)
    assert plain.state_dict().keys() < private.state_dict().keys()
    assert not any("private" in name for name in plain.state_dict())
    for net in (plain, private):  # batch norms that start at 1 and 0 would be equal whatever is cut
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if not name.startswith("private_copies"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    for _ in ("before they begin", "after"):
        for architecture in architectures(plain):
            torch.testing.assert_close(private.student(architecture)(images()), plain.student(architecture)(images()))
        private.begin_private()


@pytest.mark.parametrize("family", SMALL)
def test_every_width_of_every_student_is_foreseen(family: str) -> None:
    net = make(family, **BOTH)
    net.begin_private()
    stir(net)
    widths = batch_norm_widths(net.family, net.space)
    shared = dict(net.named_parameters())
    for seed in range(25):
        student = net.student(net.space.sample(random.Random(seed)))
        for name, module in student.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                width = module.num_features
                assert width == widths[name].full or width in widths[name].narrower
                own = f"private_copies.batch_norms.{name.replace('.', '/')}/weight/{width}"
                source = f"{name}.weight" if width == widths[name].full else own
                assert torch.equal(module.weight, shared[source])


@pytest.mark.parametrize("family", SMALL)
def test_gradients_go_where_the_student_was_cut(family: str) -> None:
    net = make(family, **BOTH)
    net.begin_private()
    stir(net)
    bins, widths = CostBins(net.space, 3), batch_norm_widths(net.family, net.space)
    for architecture in architectures(net, 3):
        net.zero_grad()
        student = net.student(architecture)
        student(images()).square().sum().backward()
        net.accumulate(student)
        found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        expected = set()
        for name, parameter in student.named_parameters():
            source, module = name, name.rpartition(".")[0]
            if name.startswith("classifier.") and bins.index(architecture) < 2:
                source = f"private_copies.classifiers.{name.replace('.', '/')}/{bins.index(architecture)}"
            elif module in widths and len(parameter) < widths[module].full:
                source = f"private_copies.batch_norms.{name.replace('.', '/')}/{len(parameter)}"
            expected.add(source)
            if parameter.dim() == 1:  # kernels may be transformed; test_supernet.py has those
                torch.testing.assert_close(found[source][: len(parameter)], parameter.grad)
        assert {name for name in found if "kernel_transforms" not in name} == expected
        weight = next(name for name in expected if name.endswith("classifier.weight") or "classifier/weight" in name)
        torch.testing.assert_close(found[weight][:, : student.classifier.in_features], student.classifier.weight.grad)


def test_a_step_of_a_small_student_leaves_the_others_parts_alone() -> None:
    net = make(**BOTH)
    net.begin_private()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    smallest = net.space.smallest()
    student = net.student(smallest)
    nn.functional.cross_entropy(student(images()), torch.arange(6) % 5).backward()
    net.accumulate(student)
    torch.optim.SGD(net.parameters(), 0.1).step()
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    classifiers = {name for name in changed if "classifier" in name}
    assert classifiers == {f"private_copies.classifiers.classifier/{name}/0" for name in ("weight", "bias")}
    assert any("batch_norms" in name for name in changed)
    assert not any(name.endswith(("norm.weight", "norm.bias")) for name in changed)


def test_students_of_other_bins_have_other_classifiers_after_extraction_too() -> None:
    net = make(classifiers=2)
    net.begin_private()
    with torch.no_grad():
        net.get_parameter("private_copies.classifiers.classifier/bias/0").fill_(7.0)
    small, large = (net.extract(a, [images()]) for a in (net.space.smallest(), net.space.largest()))
    assert small.classifier.bias.eq(7).all()
    assert not large.classifier.bias.eq(7).any()
    with pytest.raises(ValueError, match=r"only of modules that supernet.student returned"):
        net.accumulate(copy.deepcopy(small))


def test_state_and_copies_of_the_supernet_know_what_has_begun() -> None:
    net, other = make(**BOTH), make(**BOTH, seed=3)
    net.begin_private()
    stir(net)
    assert net.state_dict().keys() == other.state_dict().keys()
    other.load_state_dict(net.state_dict())
    for made in (other, copy.deepcopy(net)):
        for architecture in architectures(net, 3):
            assert torch.equal(made.student(architecture)(images()), net.student(architecture)(images()))
    fresh = make(**BOTH, seed=3)
    other.load_state_dict(fresh.state_dict())  # from before: students are cut from the shared tensors again
    stir(other)
    plain = make(seed=3)
    plain.load_state_dict({name: other.state_dict()[name] for name in plain.state_dict()})
    smallest = net.space.smallest()
    assert torch.equal(other.student(smallest)(images()), plain.student(smallest)(images()))


def test_copies_begin_when_their_students_first_train() -> None:
    net = make(**BOTH)
    name = "stages.0.0.convolutions.0.norm.weight"  # 16 channels, halved by width, by expand, and by both
    own = {width: f"private_copies.batch_norms.{name.replace('.', '/')}/{width}" for width in (4, 8)}
    net.begin_private(())
    stir(net)
    net.begin_private(("expand",))
    shared = net.get_parameter(name)
    first = shared[:8].detach().clone()
    assert torch.equal(net.get_parameter(own[8]), first)
    stir(net)
    trained = net.get_parameter(own[8]).detach().clone()
    net.begin_private(("width", "expand"))
    assert torch.equal(net.get_parameter(own[8]), trained)  # goes on
    assert torch.equal(net.get_parameter(own[4]), shared[:4])  # begins now


def test_sorting_channels_permutes_classifier_copies() -> None:
    net = make(classifiers=12)
    net.begin_private(("depth",))  # no width has been cut so far
    stir(net)
    shallow = net.space.canonical({d.name: d.choices[0 if d.kind == "depth" else -1] for d in net.space.decisions})
    own = f"private_copies.classifiers.classifier/weight/{CostBins(net.space, 12).index(shallow)}"
    chosen = (net.space.largest(), shallow)
    before = [net.student(architecture)(images()) for architecture in chosen]
    weights = net.get_parameter(own).detach().clone()
    net.sort_channels({"width", "expand"}, {"depth"})
    for architecture, logits in zip(chosen, before, strict=True):
        torch.testing.assert_close(net.student(architecture)(images()), logits)
    assert not torch.equal(net.get_parameter(own), weights)


def test_narrow_batch_norms_begin_again_when_their_channels_change() -> None:
    """As where a trained supernet's channels are sorted in a new run."""
    net = make(**BOTH)
    net.begin_private()
    stir(net)
    net.sort_channels({"width", "expand"})
    net.begin_private()
    name = "stages.0.0.convolutions.0.norm.weight"
    own = net.get_parameter(f"private_copies.batch_norms.{name.replace('.', '/')}/4")
    assert torch.equal(own, net.get_parameter(name)[:4])


def test_one_architecture_has_nothing_to_keep_apart() -> None:
    one = make(architecture="smallest", **BOTH)
    assert one.state_dict().keys() == make(architecture="smallest").state_dict().keys()


@dataclass(frozen=True)
class HeadFamily(ResNetFamily):
    """A user's family, whose classifier has a name of its own."""

    def network(self, plan: Any) -> Any:
        network = super().network(plan)
        network.head = network.classifier
        del network.classifier
        network.classifier = nn.Identity()
        forward = network.forward
        network.forward = lambda x: network.head(forward(x))
        return network


@dataclass(frozen=True)
class NamedHeadFamily(HeadFamily):
    names: tuple[str, ...] = ("head.weight", "head.bias")

    def classifier_names(self) -> tuple[str, ...]:
        return self.names


def test_a_family_says_what_its_classifier_is() -> None:
    arguments: dict[str, Any] = {"num_classes": 5, "input_shape": (3, 16, 16), **SMALL["resnet"]}
    with pytest.raises(UserError, match=r"HeadFamily names no classifier; its classifier_names\(\) must name"):
        Supernet(HeadFamily(**arguments), classifiers=2)
    with pytest.raises(UserError, match=r"has no parameters \['neck'\]"):
        Supernet(NamedHeadFamily(**arguments, names=("neck",)), classifiers=2)
    net = Supernet(NamedHeadFamily(**arguments), classifiers=2)
    assert "private_copies.classifiers.head/weight/0" in net.state_dict()


@pytest.mark.parametrize("family", [name for name in families.names() if name != "timm"])
def test_every_family_has_a_classifier(family: str) -> None:
    described = families.build(family, {"num_classes": 5, "input_shape": (3, 32, 32)})
    assert described.classifier_names() == ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifiers": 0}, "classifiers must be a whole number of at least 1, got 0"),
        ({"classifiers": 1.5}, "classifiers must be a whole number of at least 1, got 1.5"),
        ({"batch_norms": "own"}, "batch_norms must be shared or per_width, got 'own'"),
        ({"family": "vit", "stem": "patch", "batch_norms": "per_width"}, "ViTFamily have no batch norm"),
    ],
)
def test_wrong_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


# Configurations and runs

PRIVATE = {"classifiers": 2, "batch_norms": "per_width"}


@pytest.fixture
def short(tiny: dict[str, Any]) -> dict[str, Any]:
    """One epoch for the teacher, one for students of all kinds."""
    teacher, _, students = tiny["phases"]
    return {**tiny, "phases": [{**teacher, "epochs": 1}, students], "ema_decay": 0.5}


def test_configuration(short: dict[str, Any], tmp_path: Path) -> None:
    short["supernet"] |= {**PRIVATE, "weights": "runs/a"}
    config = parse_config(short)
    assert not {"classifiers", "batch_norms", "weights"} & config.supernet.options.keys()
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config
    net = supernet_for(config, load_data(config.data))
    assert set(net.private_copies) == {"classifiers", "batch_norms"}


@pytest.mark.parametrize(
    ("supernet", "message"),
    [
        ({"classifiers": 0}, "supernet.classifiers"),
        ({"batch_norms": "own"}, "supernet.batch_norms"),
        ({"family": "vit", "stem": "patch", "batch_norms": "per_width"}, "supernet.batch_norms: .* no batch norm"),
    ],
)
def test_wrong_configurations(short: dict[str, Any], supernet: dict[str, Any], message: str) -> None:
    data = load_data(parse_config(short).data)
    with pytest.raises(UserError, match=message):
        supernet_for(parse_config({**short, "supernet": supernet}), data)


@pytest.mark.parametrize("option", [{"classifiers": 2}, {"batch_norms": "per_width"}, {"weights": "runs/a"}])
def test_mode_student_refuses(tiny: dict[str, Any], option: dict[str, Any]) -> None:
    del tiny["phases"]
    with pytest.raises(UserError, match=f"supernet.{next(iter(option))} is for mode supernet"):
        parse_config({**tiny, "mode": "student", "supernet": {**tiny["supernet"], **option}})


def state_of(run: Path) -> dict[str, Any]:
    state = load_checkpoint(run / "checkpoint.pt")
    best = state["best"]["weights"] if state["best"] else {}
    return {**state["supernet"], **{f"best {name}": tensor for name, tensor in best.items()}}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer._step

    def step_with_signal(self: Trainer, *batch: Any) -> None:
        original(self, *batch)
        if self.position.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step_with_signal)


@pytest.fixture(scope="module")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = copy.deepcopy(TINY)
    teacher, _, students = values["phases"]
    values |= {"phases": [{**teacher, "epochs": 1}, students], "ema_decay": 0.5}
    values["supernet"] |= PRIVATE
    return train(values, run=tmp_path_factory.mktemp("runs") / "private", quiet=True)


@pytest.mark.parametrize("step", [3, 9])
def test_resumed_bit_for_bit(private_run: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before and after the copies began."""
    with monkeypatch.context() as patched:
        stop_at(step, patched)
        with pytest.raises(Interrupted):
            train(private_run / "config.yaml", run=tmp_path / "stopped", quiet=True)
    assert bool(state_of(tmp_path / "stopped")["private_copies.classifiers.begun"].all()) == (step > 6)
    train(run=tmp_path / "stopped", resume=True, quiet=True)
    assert_equal(state_of(tmp_path / "stopped"), state_of(private_run))


def test_training_moves_the_copies_and_extraction_cuts_from_them(private_run: Path, tmp_path: Path) -> None:
    best = load_checkpoint(private_run / "checkpoint.pt")["best"]["weights"]
    for name in ("classifier.weight", "stages.0.0.convolutions.0.norm.weight"):
        kind, key = ("classifiers", 0) if name.startswith("classifier") else ("batch_norms", 8)
        own = best[f"private_copies.{kind}.{name.replace('.', '/')}/{key}"]
        assert not torch.equal(own, best[name][: len(own)])
    config = load_config(private_run / "config.yaml")
    space = supernet_for(config, load_data(config.data)).space
    limit = str(space.cost(space.smallest()).multiply_adds)
    (made,) = extract(flops=limit, run=private_run, out=tmp_path, quiet=True)
    assert made.card["architecture"] == json.loads(space.smallest().to_json())
    student = load_student(made.path)
    own = best["private_copies.classifiers.classifier/weight/0"]
    assert torch.equal(student.classifier.weight, own[:, : student.classifier.in_features])


def students_of(run: Path, values: dict[str, Any], **supernet: Any) -> dict[str, Any]:
    """A configuration of student phases alone, which begins with the run's weights."""
    values = copy.deepcopy(values)
    return {
        **values,
        "phases": values["phases"][1:],
        "supernet": {**values["supernet"], "weights": str(run), **supernet},
    }


def test_students_alone_begin_with_another_runs_weights(
    short: dict[str, Any], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = students_of(trained_run, short, **PRIVATE)
    config = parse_config(values)
    data = load_data(config.data)
    trainer = Trainer(config, data, Run(tmp_path / "unused"), quiet=True)
    theirs = load_checkpoint(trained_run / "checkpoint.pt")["best"]["weights"]
    other = supernet_for(load_config(trained_run / "config.yaml"), data)
    other.load_state_dict(theirs)
    largest = other.space.largest()
    x = torch.rand(8, 1, 8, 8)
    torch.testing.assert_close(
        trainer.supernet.student(largest).eval()(x), other.student(largest).eval()(x), rtol=1e-3, atol=1e-4
    )
    shared = trainer.supernet.state_dict()  # sorted
    assert torch.equal(shared["private_copies.classifiers.classifier/weight/0"], shared["classifier.weight"])
    assert trainer.teacher is not None
    assert not (tmp_path / "unused").exists()

    moved = tmp_path / "moved"
    trained_copy = tmp_path / "source"
    shutil.copytree(trained_run, trained_copy)
    whole = train(values, run=tmp_path / "whole", quiet=True)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        stop_at(3, patched)
        with pytest.raises(Interrupted):
            train({**values, "supernet": {**values["supernet"], "weights": "source"}}, run=tmp_path / "b", quiet=True)
    assert load_config(tmp_path / "b" / "config.yaml").supernet.weights == trained_copy
    trained_copy.rename(moved)  # not read again
    train(run=tmp_path / "b", resume=True, quiet=True)
    assert_equal(state_of(tmp_path / "b"), state_of(whole))


def test_copies_of_the_other_run_go_on(short: dict[str, Any], private_run: Path, tmp_path: Path) -> None:
    values = {**students_of(private_run, short, **PRIVATE), "sort_channels": False}
    config = parse_config(values)
    trainer = Trainer(config, load_data(config.data), Run(tmp_path), quiet=True)
    weights = load_checkpoint(private_run / "checkpoint.pt")["best"]["weights"]
    assert_equal(trainer.supernet.state_dict(), weights)
    assert trainer.averaged is not None
    assert_equal(trainer.averaged.state_dict(), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supernet": {"classifiers": 1}}, "supernet.classifiers is 2 there and 1 here"),
        ({"supernet": {"batch_norms": "shared"}}, "supernet.batch_norms is per_width there and shared here"),
        ({"supernet": {"widths": [16, 32]}}, r"supernet.widths is \(16, 24\) there and \(16, 32\) here"),
        ({"supernet": {"mean": [0.9]}}, r"normalised otherwise; set supernet.mean: \[0\.3"),
        ({"data": {"name": "fashion_mnist"}}, "data.name"),
    ],
)
def test_weights_of_another_network(
    short: dict[str, Any], private_run: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = students_of(private_run, short, **PRIVATE)
    data = load_data(parse_config(values).data)
    values["supernet"] |= change.get("supernet", {})
    values["data"] |= change.get("data", {})
    with pytest.raises(UserError, match=rf"supernet.weights {private_run}: .*{message}"):
        Trainer(parse_config(values), data, Run(tmp_path / "new"), quiet=True)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_not_there(short: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"supernet.weights .*: no config.yaml there"):
        train(students_of(tmp_path / "none", short), run=tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()
