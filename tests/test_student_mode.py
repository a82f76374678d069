"""`mode: student`: one fixed network through the whole trainer, from our families, student directories and timm."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from test_training import final_state, same
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from proard import evaluate, extract, load_student, train
from proard.commands.cli import main
from proard.common.errors import UserError
from proard.config import Config, load_config, parse_config
from proard.data import load_data
from proard.export.student_directory import FORMATS
from proard.objectives import objectives
from proard.runs.checkpoint import load_checkpoint
from proard.runs.components import supernet_for
from proard.runs.run import Run, read_metrics
from proard.supernet import Architecture, Decision, Family, Supernet, build_supernet, families
from proard.supernet.cost import Activation, CostMeter
from proard.training.interruption import Interrupted
from proard.training.phases import build_phases
from proard.training.trainer import Trainer

timm = pytest.importorskip("timm", reason="needs timm, of the extra timm")

OURS = {
    "resnet": {"widths": (32, 48), "blocks": (1, 2)},
    "mobilenetv3": {"depth_choices": (1, 2), "width_multiplier": 0.5},
    "vit": {"width_choices": (16, 24), "depth_choices": (1, 3), "heads_choices": (1, 2), "head_channels": 8},
}
MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {"img_size": 32, "drop_path_rate": 0.3},
    "mobilenetv3_small_050": {},
    "test_nfnet": {},  # standardises its weights itself
}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


@pytest.fixture
def single(tiny: dict[str, Any]) -> dict[str, Any]:
    """The tiny configuration for one network, with an epoch of trades."""
    phase = {"name": "student", "epochs": 1, "learning_rate": 0.05, "objective": {"name": "trades"}}
    return {**tiny, "mode": "student", "phases": [phase]}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a student that was trained alone."""
    from conftest import TINY

    values = {**copy.deepcopy(TINY), "mode": "student", "student": {"architecture": "smallest"}}
    values["phases"] = [{"name": "student", "epochs": 2, "learning_rate": 0.05, "objective": {"name": "trades"}}]
    run = train(values, run=tmp_path_factory.mktemp("runs") / "run", quiet=True)
    (extracted,) = extract(run=run, quiet=True)
    return extracted.path


def without(values: dict[str, Any], *keys: str, **changes: Any) -> dict[str, Any]:
    return {**{key: value for key, value in values.items() if key not in keys}, **changes}


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_trainer(values: dict[str, Any], tmp_path: Path) -> Trainer:
    config = parse_config(values)
    (tmp_path / "run").mkdir(exist_ok=True)
    return Trainer(config, load_data(config.data), Run(tmp_path / "run"), quiet=True)


# ---------------------------------------------------------------------------------------------------------------------
# A space of one architecture, and the supernet over it


@pytest.mark.parametrize("family", [name for name in families.names() if name != "timm"])
def test_a_space_of_one_architecture(family: str) -> None:
    space = families.build(family, {"num_classes": 10, "input_shape": (3, 32, 32)}).space()
    rng = random.Random(0)
    for architecture in (space.largest(), space.smallest(), space.sample(rng), space.sample(rng)):
        only = space.only(architecture)
        assert only.size == 1
        assert only.kinds == space.kinds
        drawn = [only.largest(), only.smallest(), only.sample(rng), only.mutate(architecture, rng, 1.0)]
        drawn += [only.crossover(architecture, architecture, rng), only.canonical(architecture)]
        assert drawn == [architecture] * len(drawn)
        assert Architecture.from_json(only.largest().to_json()) == architecture
        assert only.cost(architecture) == space.cost(architecture)
    with pytest.raises(UserError, match="unknown decision"):
        space.only({**space.largest(), "nothing": 1})


@pytest.mark.parametrize("family", OURS)
@pytest.mark.parametrize("which", ["smallest", "largest", "random"])
def test_a_supernet_of_one_is_the_student_of_the_whole(family: str, which: str) -> None:
    """It holds the weights of that student alone, and computes the same, also where kernels are transformed."""
    whole = build_supernet(family, num_classes=5, input_shape=(3, 16, 16), **OURS[family]).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    space = whole.space
    architecture = {
        "smallest": space.smallest(),
        "largest": space.largest(),
        "random": space.sample(random.Random(1)),
    }[which]
    asked: Any = architecture if which == "random" else which
    one = build_supernet(family, num_classes=5, input_shape=(3, 16, 16), architecture=asked, **OURS[family]).double()
    assert one.space.largest() == architecture
    assert sum(parameter.numel() for parameter in one.parameters()) == space.cost(architecture).parameters
    student = whole.student(architecture)
    one.load_state_dict(student.state_dict())
    x = images(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(one.student(architecture).eval()(x), student.eval()(x), rtol=0, atol=0)
    fixed = [supernet.extract(architecture, [x]) for supernet in (one, whole)]
    torch.testing.assert_close(fixed[0](x), fixed[1](x))


def test_decisions_left_out_are_at_their_largest() -> None:
    net = build_supernet("resnet", num_classes=5, input_shape=(3, 16, 16), architecture={"stage1.width": 0.75})
    whole = families.build("resnet", {"num_classes": 5, "input_shape": (3, 16, 16)}).space()
    assert net.space.largest() == whole.canonical({**whole.largest(), "stage1.width": 0.75})
    for wrong, message in (
        ("smalest", "did you mean 'smallest'"),
        ({"stage1.widht": 1.0}, "did you mean 'stage1.width'"),
        ({"stage1.width": 3.0}, "is not one of"),
    ):
        with pytest.raises(UserError, match=message):
            build_supernet("resnet", num_classes=5, input_shape=(3, 16, 16), architecture=wrong)


# ---------------------------------------------------------------------------------------------------------------------
# timm as a family


def timm_supernet(model: str, **options: Any) -> Supernet:
    return build_supernet(
        "timm", num_classes=5, input_shape=(3, 32, 32), model=model, model_options={**MODELS.get(model, {}), **options}
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_timm_student_is_the_model_and_nobody_elses(model: str) -> None:
    net = timm_supernet(model)
    plain = timm.create_model(model, num_classes=5, **MODELS[model])
    architecture = net.space.largest()
    assert (net.space.size, dict(architecture)) == (1, {})
    assert {name.removeprefix("model.") for name, _ in net.named_parameters()} == set(dict(plain.named_parameters()))
    plain.load_state_dict({n.removeprefix("model."): t for n, t in net.state_dict().items()}, strict=False)
    plain = plain.double().eval()
    for module in plain.modules():  # evaluation mode, but for the statistics of the batch
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    x = images(4, 3, 32, 32, dtype=torch.float64)
    student = net.double().student(architecture).eval()
    expected = plain((x - 0.5) / 0.25)
    torch.testing.assert_close(student(x), expected)
    # Gradients reach the supernet, twice as large after two students.
    wanted = torch.autograd.grad(expected.square().sum(), list(plain.parameters()))
    for _ in range(2):
        student = net.student(architecture).eval()
        student(x).square().sum().backward()
        net.accumulate(student)
    gradients = {name.removeprefix("model."): parameter.grad for name, parameter in net.named_parameters()}
    for (name, _), gradient in zip(plain.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(gradients[name], 2 * gradient)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = net.student(architecture)
    with torch.no_grad():
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.fill_(7.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    torch.testing.assert_close(other.eval()(x), expected)


@pytest.mark.parametrize("model", ["test_efficientnet", "mobilenetv3_small_050"])  # batch norm with its activation
def test_calibration_of_timm_batch_norm_is_the_average_over_batches(model: str) -> None:
    net = timm_supernet(model).double()
    architecture = net.space.largest()
    batches = [images(4, 3, 32, 32, seed=seed, dtype=torch.float64) for seed in (1, 2)]
    seen: dict[str, list[torch.Tensor]] = {}
    student = net.student(architecture)
    student.eval()
    for name, module in student.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, x, name=name: seen.setdefault(name, []).append(x[0].mean((0, 2, 3)))
            )
    for batch in batches:
        student(batch)
    fixed = net.extract(architecture, batches)
    assert seen
    for name, means in seen.items():
        torch.testing.assert_close(fixed.get_submodule(name).running_mean, torch.stack(means).mean(0))


class Referring(nn.Module):
    """Keeps its layer and its buffer in a plain list as well, ties two weights, and has one without dimensions."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.normalize = family.normalize()
        self.layer = nn.Linear(64, 64)
        self.tied = nn.Linear(64, 64, bias=False)
        self.tied.weight = self.layer.weight
        self.head = nn.Linear(64, family.num_classes)
        self.gain = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("shift", torch.ones(64))
        self.plain = [self.layer, self.shift, torch.full((64,), 2.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, shift, scale = self.plain
        return self.head(self.tied(layer(self.normalize(x).flatten(1)) + shift) * scale * self.gain)


@dataclass(frozen=True)
class ReferringFamily(Family):
    plain: ClassVar[bool] = False

    def decisions(self) -> list[Decision]:
        return []

    def plan(self, architecture: Architecture) -> None:
        return None

    def network(self, plan: None) -> nn.Module:
        return Referring(self)

    def measure(self, plan: None, meter: CostMeter, images: Activation) -> None:
        meter.linear(images, self.num_classes)


def test_networks_with_references_outside_of_the_module_tree_are_copied_whole() -> None:
    net = Supernet(ReferringFamily(3, (1, 8, 8)))
    with torch.no_grad():
        net.get_buffer("shift").fill_(5.0)
    x = images(2, 1, 8, 8)
    flat = (x.flatten(1) - 0.5) / 0.25
    weight, bias = (net.get_parameter(f"layer.{name}") for name in ("weight", "bias"))
    hidden = ((flat @ weight.t() + bias + 5.0) @ weight.t()) * 2.0 * 3.0
    expected = hidden @ net.get_parameter("head.weight").t() + net.get_parameter("head.bias")
    student = net.student(net.space.largest())
    torch.testing.assert_close(student(x), expected)
    assert student.plain[0] is student.layer
    assert student.tied.weight is student.layer.weight
    student(x).sum().backward()
    net.accumulate(student)
    gradient = torch.autograd.grad(expected.sum(), weight)[0]
    torch.testing.assert_close(net.get_parameter("layer.weight").grad, gradient)


def test_costs_of_timm_networks_against_closed_forms() -> None:
    from torchvision.models import resnet18

    cost = timm_supernet("resnet18").space.cost(Architecture(()))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        reference = resnet18(num_classes=5).eval()
        reference(torch.zeros(1, 3, 32, 32))
    assert cost.multiply_adds == counter.get_total_flops() // 2
    assert cost.parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert cost.peak_activation_bytes == 4 * 2 * 64 * 16 * 16  # the first batch norm: its input and its output
    net = timm_supernet("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=2)
    width, patches = 192, 64
    tokens = patches + 1
    block = tokens * (3 + 1 + 2 * 4) * width**2 + 2 * tokens**2 * width  # q, k, v; output; MLP; scores and values
    assert net.space.cost(Architecture(())).multiply_adds == patches * 3 * 4 * 4 * width + 2 * block + width * 5


def test_the_size_of_a_timm_student_bounds_its_file(tmp_path: Path) -> None:
    net = timm_supernet("test_resnet")
    fixed = net.extract(net.space.largest(), [images(4, 3, 32, 32)])
    save_file(fixed.state_dict(), tmp_path / "weights.safetensors")
    size = (tmp_path / "weights.safetensors").stat().st_size
    assert (
        0.98 * net.space.cost(net.space.largest()).file_bytes < size <= net.space.cost(net.space.largest()).file_bytes
    )


def test_costs_and_students_draw_no_global_random_numbers() -> None:
    """Or a resumed run, which asks for them at other times, would go on with other numbers."""
    net = timm_supernet("test_vit")
    state = torch.get_rng_state()
    net.space.cost(net.space.largest())
    net.student(net.space.largest())
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def test_trained_extracted_and_evaluated(student: Path) -> None:
    card = json.loads((student / "student.json").read_text())
    run = student.parent.parent
    assert student == run / "students" / "student"
    assert card["budget"] is None
    space = families.build(
        card["family"], {**card["family_options"], "num_classes": 10, "input_shape": [1, 8, 8]}
    ).space()
    assert card["architecture"] == dict(space.smallest())  # written as one of the whole family
    network = load_student(student)
    assert sum(parameter.numel() for parameter in network.parameters()) == card["parameters"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 8, 8))
    assert counter.get_total_flops() == 2 * card["multiply_adds"]
    (measured,) = evaluate(student)
    assert measured.measurement.clean.correct == card["evaluation"]["clean"]["correct"]
    readme = (student / "README.md").read_text()
    assert readme.startswith("# A robust image classifier\n\nTrained as it is by proard")
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "validation"]
    assert [list(row["students"]) for row in rows] == [["largest"]] * 2
    weights = load_checkpoint(run / "checkpoint.pt")["supernet"]
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name in weights
    }


def test_from_student_to_teacher_to_pretrained_student(
    single: dict[str, Any], student: Path, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student directory teaches a second run, and is where a third begins, named by relative paths."""
    monkeypatch.chdir(student.parent)
    single["phases"][0]["objective"] = {"name": "rslad"}
    second = train({**single, "teacher": student.name}, run=tmp_path / "second", quiet=True)
    begun = without(single, "supernet", student={"directory": student.name}, teacher=student.name)
    third = train(begun, run=tmp_path / "third", quiet=True)
    monkeypatch.chdir(tmp_path)
    for run in (second, third):
        (extracted,) = extract(run=run, quiet=True)
        assert load_student(extracted.path)(images(3, 1, 8, 8)).shape == (3, 10)
    again = train(third / "config.yaml", run=tmp_path / "again", quiet=True)
    assert same(final_state(again), final_state(third))
    moved = student.rename(tmp_path / "moved")  # what was resolved once does not need the directory again
    try:
        assert extract(run=third, quiet=True)[0].card["architecture"]
    finally:
        moved.rename(student)


def test_a_student_directory_is_the_network_to_begin_with(
    single: dict[str, Any], student: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(without(single, "supernet", student={"directory": str(student)}), tmp_path)
    loaded = load_student(student)
    for module in loaded.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    x = images(6, 1, 8, 8)
    begun = trainer.supernet.student(trainer.supernet.space.largest()).eval()
    torch.testing.assert_close(begun(x), loaded(x), rtol=1e-5, atol=1e-5)
    assert not any("running" in name for name in trainer.supernet.state_dict())


@pytest.mark.parametrize("source", ["student.safetensors", "student.pt", "timm.pth"])
def test_weights_to_begin_with(single: dict[str, Any], student: Path, tmp_path: Path, source: str) -> None:
    file = tmp_path / source
    if source == "timm.pth":
        torch.manual_seed(3)
        state = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
        torch.save({"state_dict": state}, file)
        values = without(single, "supernet", student={"timm": "test_resnet", "weights": str(file)})
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    else:
        state = load_student(student).state_dict()
        save_file(state, file) if source.endswith("safetensors") else torch.save(state, file)
        values = {**single, "student": {"architecture": "smallest", "weights": str(file)}}
    supernet = make_trainer(values, tmp_path).supernet
    for name, parameter in supernet.named_parameters():
        assert torch.equal(parameter, state[name])
    if source == "timm.pth":  # grey images: timm's normalisation, averaged
        assert supernet.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.5])


def test_pretrained_timm_students_begin_with_published_weights_fetched_once(
    single: dict[str, Any], tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked = timm.create_model, []
    published = create("test_resnet", num_classes=10, in_chans=1)

    def fetch(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        made = create(name, **options)
        if pretrained:
            asked.append(name)
            made.load_state_dict(published.state_dict())
        return made

    monkeypatch.setattr(timm, "create_model", fetch)
    values = without(single, "supernet", student={"timm": "test_resnet", "pretrained": True})
    weights = make_trainer(values, tmp_path).supernet.state_dict()
    assert all(torch.equal(weights[f"model.{name}"], tensor) for name, tensor in published.named_parameters())
    asked.clear()
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(values, run=tmp_path / "whole", quiet=True)
    train(run=tmp_path / "whole", resume=True, quiet=True)
    extract(run=tmp_path / "whole", quiet=True)
    assert asked == ["test_resnet"]


def stop_after(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Send this process SIGTERM in the middle of these steps of training, once each."""
    left, original = list(steps), Trainer._step

    def step(self: Trainer, *batch: Any) -> None:
        original(self, *batch)
        if left and self.position.step + 1 == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("network", ["ours", "timm"])
def test_stopping_and_resuming_changes_nothing(
    single: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """Dropout and stochastic depth draw from the global generator, in the same order after an interruption."""
    single["phases"][0]["epochs"] = 2
    if network == "timm":
        options = {"img_size": 8, "patch_size": 4, "drop_path_rate": 0.3}
        single = without(single, "supernet", student={"timm": "test_vit", "options": options}, ema_decay=0.9)
    whole = train(single, run=tmp_path / "whole", quiet=True)
    stops = [3, 8]
    with monkeypatch.context() as patch:
        stop_after(patch, *stops)
        for attempt in range(3):
            torch.manual_seed(attempt)
            if attempt < len(stops):
                with pytest.raises(Interrupted):
                    train(single if attempt == 0 else None, run=tmp_path / "stopped", resume=attempt > 0, quiet=True)
            else:
                train(run=tmp_path / "stopped", resume=True, quiet=True)
    assert same(final_state(tmp_path / "stopped"), final_state(whole))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("test_resnet", {}),
        ("test_vit", {"img_size": 8, "patch_size": 4}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_timm_students_are_shipped_like_ours(
    single: dict[str, Any], student: Path, tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    single["phases"][0]["objective"] = {"name": "rslad"}
    chosen = {"timm": model, "options": options}
    run = train(without(single, "supernet", student=chosen, teacher=str(student)), run=tmp_path / "run", quiet=True)
    (extracted,) = extract(run=run, quiet=True)
    assert (extracted.card["family"], extracted.card["architecture"]) == ("timm", {})
    network = load_student(extracted.path)
    assert sum(parameter.numel() for parameter in network.parameters()) == extracted.card["parameters"]
    (measured,) = evaluate(extracted.path)
    assert measured.measurement.clean.correct == extracted.card["evaluation"]["clean"]["correct"]
    x = images(7, 1, 8, 8)
    program = torch.export.load(extracted.path / "student.pt2").module()
    # Untrained and on 8x8 images: batch norm magnifies the rounding of channels that have next to no variance.
    exact = copy.deepcopy(network).double()(x.double())
    rounding = float((network(x) - exact).abs().max().detach())
    for count in (1, 7):
        assert (program(x[:count]) - exact[:count]).abs().max() < 1e-4 + 10 * rounding
    assert rounding < 1e-2 * exact.abs().max()
    assert load_config(run / "config.yaml").supernet.options["model"] == model
    further = make_trainer(
        without(single, "supernet", student={"directory": str(extracted.path)}, teacher=str(student)), tmp_path
    )
    assert all(torch.equal(p, network.get_parameter(name)) for name, p in further.supernet.named_parameters())


def test_without_phases_there_is_one(single: dict[str, Any], student: Path) -> None:
    for teacher, objective in ((None, "trades"), ("frozen", "trades"), (str(student), "rslad")):
        values = without(single, "phases", **({} if teacher is None else {"teacher": teacher}))
        (phase,) = parse_config(values).phases
        assert (phase.name, phase.epochs, phase.learning_rate, phase.elastic) == ("student", 30, 0.1, ())
        assert phase.objective.name == objective
    config = parse_config(without(single, "phases"))
    assert parse_config(config.model_dump(mode="json")) == config


def test_a_helper_is_the_network_of_the_phase_before(single: dict[str, Any], tmp_path: Path) -> None:
    """Its own clean self helps: no teacher from elsewhere is needed from the second phase on."""
    phase = single["phases"][0]
    single["phases"] = [
        {**phase, "name": "clean", "objective": {"name": "ce"}},
        {**phase, "objective": {"name": "hat"}},
    ]
    run = train(single, run=tmp_path / "run", quiet=True)
    assert load_checkpoint(run / "checkpoint.pt")["teacher"] is not None


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes, and the command line


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mode": "supernet"}, "student: is for mode student"),
        ({"student": {"directory": "a"}}, "supernet: remove it; student.directory says"),
        ({"student": {"timm": "test_vit"}}, "supernet: remove it; student.timm says"),
        ({"student": {"architecture": "smallest", "timm": "a"}}, "architecture and timm exclude each other"),
        ({"student": {"directory": "a", "weights": "b"}}, "weights and directory exclude each other"),
        ({"student": {"timm": "a", "weights": "b", "pretrained": True}}, "weights and pretrained exclude each other"),
        ({"student": {"pretrained": True}}, "student.pretrained is for a timm model"),
        ({"student": {"options": {"a": 1}}}, "options is for a timm model"),
        ({"student": {"timm": "a", "mean": [0.5]}}, "mean and std go together"),
        ({"student": {"architecture": "smalest"}}, "did you mean 'smallest'?"),
        (
            {"student": {"architecture": {"stage1.width": "wide"}}},
            "student.architecture: should be smallest, largest, or",
        ),
        ({"student": {"archtecture": "smallest"}}, "did you mean 'architecture'?"),
        ({"phases.elastic": ["width"]}, "phases.0.elastic: mode student trains one network"),
        ({"teacher": "joint"}, "mode joint is for mode supernet"),
    ],
)
def test_mistakes_in_the_configuration(single: dict[str, Any], change: dict[str, Any], part: str) -> None:
    single["student"] = {"architecture": "smallest"}
    if "phases.elastic" in change:
        single["phases"][0]["elastic"] = change["phases.elastic"]
    with pytest.raises(UserError) as caught:
        parse_config({**single, **{key: value for key, value in change.items() if "." not in key}})
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_shows_only_beside_the_data_leaves_no_run(single: dict[str, Any], student: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.pt"
    torch.save(timm.create_model("test_resnet", num_classes=3, in_chans=1).state_dict(), few)
    others = shutil.copytree(student, tmp_path / "others")
    card = json.loads((others / "student.json").read_text())
    (others / "student.json").write_text(json.dumps({**card, "classes": card["classes"][:7]}))
    for chosen, part in (
        (
            {"architecture": {"stage9.width": 1.0}},
            "student.architecture: unknown decision 'stage9.width'; did you mean",
        ),
        ({"architecture": {"stage1.width": 0.3}}, "stage1.width = 0.3 is not one of 0.5, 1"),
        ({"architecture": "smallest", "weights": "nowhere.pt"}, "no file"),
        (
            {"architecture": {"stem.width": 0.5}, "weights": str(student)},
            "the weights do not fit the network, they lack",
        ),
        ({"architecture": "largest", "weights": str(few)}, "the weights do not fit the network, they lack"),
        ({"directory": "nowhere"}, "student.directory: student"),
        ({"directory": str(others)}, "images of 1 x 8 x 8 and 7 classes, the data has images of 1 x 8 x 8 and 10"),
        ({"timm": "test_resnt"}, "student.timm: unknown timm model 'test_resnt'; did you mean 'test_resnet'?"),
        ({"timm": "hf-hub:some/model"}, "unknown timm model 'hf-hub:some/model'"),
        ({"timm": "test_vit"}, "timm model 'test_vit' does not take images of 1 x 8 x 8"),
        ({"timm": "test_vit", "options": {"img_sise": 8}}, "cannot be made with options {'img_sise': 8}"),
        ({"timm": "test_vit", "options": {"checkpoint_path": "x"}}, "option 'checkpoint_path' of the timm model"),
        ({"timm": "test_efficientnet", "options": {"norm_layer": "evonormb0"}}, "keeps running statistics"),
        ({"timm": "test_resnet", "weights": str(few)}, "are of another shape: model.fc.weight is [3, 96]"),
    ):
        ours = "architecture" in chosen
        with pytest.raises(UserError) as caught:
            train(without(single, *([] if ours else ["supernet"]), student=chosen), run=tmp_path / "run", quiet=True)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_objectives_that_distil_need_a_teacher(single: dict[str, Any], student: Path) -> None:
    data = load_data(parse_config(single).data)
    needing = 0
    for name in objectives.names():
        single["phases"][0]["objective"] = {"name": name}
        config: Config = parse_config(single)
        space = supernet_for(config, data).space
        if not objectives.build(name, {}).needs_teacher:
            build_phases(config, space)
            continue
        needing += 1
        with pytest.raises(UserError, match=r"phases\.0: 'student' distils from a teacher, and there is none"):
            build_phases(config, space)
        build_phases(parse_config({**single, "teacher": str(student)}), space)
    assert needing >= 3


def test_supernets_do_not_take_an_architecture_among_their_options(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["supernet"]["architecture"] = "smallest"
    with pytest.raises(UserError, match=r"supernet\.architecture: remove it; it comes from student\.architecture"):
        train(tiny, run=tmp_path / "run", quiet=True)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(arguments)
        output, errors = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, output, errors

    return run


def test_the_command_line_needs_no_budget_for_one_network(
    single: dict[str, Any], trained_run: Path, tmp_path: Path, fast: None, command: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "student.yaml").write_text(json.dumps(single))
    code, output, _ = command("train", "--config", "student.yaml", "--run", "run", "--quiet")
    assert code == 0
    assert output.endswith("next:    proard extract --run run\n")
    code, output, _ = command("extract", "--quiet", "--run", "run")
    assert code == 0
    assert "proard evaluate run/students/student" in output
    code, _, errors = command("extract", "--quiet", "--run", "run", "--flops", "1K")
    assert code == 2
    assert "--flops 1K: below the smallest student" in errors
    assert len(errors.splitlines()) == 1
    code, output, _ = command("extract", "--quiet", "--run", "run", "--flops", "1G")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "run" / "students").iterdir()) == ["flops-1G", "student"]
    code, _, errors = command("extract", "--quiet", "--run", str(trained_run), "--out", "here")
    assert code == 2
    assert "extract needs a budget, such as --flops 100M" in errors
    assert not (tmp_path / "here").exists()
