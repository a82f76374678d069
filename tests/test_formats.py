"""Files for devices: they run alone, agree with the student, and what the card says of them is what they do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_families import SMALL_FAMILIES
from torch import nn

import proard.export.formats.evaluation as evaluation
from proard.attacks import PGD, Square, ThreatModel
from proard.common.errors import UserError
from proard.common.files import sha256
from proard.export.formats import FORMATS, ExportError, FormatChecks, Source
from proard.export.formats.base import Runner, require_agreement
from proard.export.formats.evaluation import combine
from proard.export.formats.onnx import Onnx
from proard.export.formats.quantisation import quantise
from proard.export.student_directory import describe, write_student
from proard.supernet import build_supernet
from proard.supernet.families.mobilenet_spaces import MobileNetV2Family, MobileNetV3Family, ProxylessFamily

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torchao")

THREAT = ThreatModel("linf", 0.25)
SHAPE = (3, 12, 12)


def random_images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def make(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """An untrained, calibrated student and the part of its card that writing needs."""
    net = build_supernet(family, num_classes=5, input_shape=SHAPE, **SMALL_FAMILIES[family])
    architecture = net.space.smallest()
    student = net.extract(architecture, [random_images(64, seed=3)]).eval()
    accuracy = {"accuracy": 0.5, "correct": 5, "images": 10, "interval_95": [0.2, 0.8]}
    card = {
        **describe(net.family, architecture),
        "classes": list("abcde"),
        "budget": None,
        "threat_model": {"norm": "linf", "eps": THREAT.eps},
        "data": {"name": "digits"},
        "versions": {"proard": "0"},
        "evaluation": {"split": "test", "clean": accuracy, "robust": []},
    }
    return student, card


def checks_for(student: nn.Module, **changes: Any) -> FormatChecks:
    """Test images that the student has right, but for every fifth."""
    images = random_images(30, seed=1)
    with torch.no_grad():
        labels = student(images).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    batches = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    options: dict[str, Any] = {"attack": PGD(THREAT, steps=3), "square_queries": 8, **changes}
    return FormatChecks(random_images(64, seed=2), batches, **options)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A student in all formats that need no more than ONNX and torchao."""
    student, card = make("resnet")
    checks = checks_for(student)
    folder = tmp_path_factory.mktemp("formats") / "student"
    written = write_student(folder, student, card, ["onnx", "onnx-int8", "pt2-int8"], checks)
    source = Source(student, random_images(2), checks.calibration)
    return SimpleNamespace(student=student, card=written, checks=checks, folder=folder, source=source)


@pytest.fixture
def copy(resnet: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(resnet.folder, tmp_path / "copy"))


# ---------------------------------------------------------------------------------------------------------------------
# The files run alone

ALONE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ImportError(name + " was imported")

sys.meta_path.insert(0, Blocker())
import numpy
images = numpy.load("images.npy")
without_torch = "torch" in sys.argv[1].split(",")
if not without_torch:
    import torch
    images = torch.from_numpy(images)
for index, block in enumerate(open("README.md").read().split("```python\\n")[1:]):
    code = block.split("```")[0]
    if "load_student" in code or ("onnxruntime" in code) != without_torch:
        continue
    names = {"images": images}
    exec(code, names)
    name = next(n for n in ("student.int8.onnx", "student.onnx", "student.int8.pt2", "student.pt2") if n in code)
    logits = names["logits"]
    numpy.save(name + ".npy", logits if without_torch else logits.detach().numpy())
"""


def run_alone(folder: Path, forbidden: str) -> dict[str, torch.Tensor]:
    """The logits of every snippet in the model card, from a process that cannot import some packages."""
    import numpy

    numpy.save(folder / "images.npy", random_images(7, seed=5).numpy())
    result = subprocess.run(
        [sys.executable, "-c", ALONE, forbidden], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = {path.name.removesuffix(".npy"): torch.from_numpy(numpy.load(path)) for path in folder.glob("student*.npy")}
    for path in folder.glob("*.npy"):
        path.unlink()
    return found


MUCH_ALIKE = ("mobilenetv2", "proxyless")  # beside mobilenetv3, which has all that they have


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in MUCH_ALIKE else ()) for name in SMALL_FAMILIES]
)
def test_every_family_runs_in_onnxruntime_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))
    for kind in (MobileNetV2Family, MobileNetV3Family, ProxylessFamily):  # two stages, or exporting takes long
        for name in ("widths", "strides", "attention"):
            monkeypatch.setattr(kind, name, getattr(kind, name)[:2])
    student, card = make(family)
    folder = tmp_path / "student"
    card = write_student(folder, student, card, ["onnx", "onnx-int8"], FormatChecks(random_images(64, seed=2)))
    images = random_images(7, seed=5)
    found = run_alone(folder, "torch,proard,torchao")
    assert set(found) == {"student.onnx", "student.int8.onnx"}
    with torch.no_grad():
        torch.testing.assert_close(found["student.onnx"], student(images), rtol=0, atol=1e-4)
    in_process = FORMATS["onnx-int8"].load(folder / "student.int8.onnx")(images)
    torch.testing.assert_close(found["student.int8.onnx"], in_process, rtol=0, atol=1e-5)
    assert card["formats"]["onnx"]["settings"]["checked"]["max_logit_difference"] <= 1e-4
    model = onnx.load(folder / "student.int8.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [
        card["formats"]["onnx-int8"]["settings"]["opset"]
    ]
    assert_int8_weights_per_channel(model, student)


def assert_int8_weights_per_channel(model: Any, student: nn.Module) -> None:
    """Every convolution and linear layer takes int8 weights, with as many scales as it has output channels."""
    made_by = {node.output[0]: node for node in model.graph.node}
    constants = {entry.name: entry for entry in model.graph.initializer}
    expected = sorted(
        tuple(module.weight.shape) for module in student.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    )
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        source = made_by.get(node.input[1])
        while source is not None and source.op_type == "Transpose":
            source = made_by.get(source.input[0])
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in constants:
            continue
        weight, scale = constants[source.input[0]], constants[source.input[1]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        assert next(a.i for a in source.attribute if a.name == "axis") == 0
        found.append(tuple(weight.dims))
        values = onnx.numpy_helper.to_array(weight).reshape(weight.dims[0], -1)
        assert (abs(values).max(1) == 64).all()  # symmetric, and the whole range of every channel is used
    assert sorted(found) == expected
    floats = sum(
        len(onnx.numpy_helper.to_array(e).ravel()) for e in constants.values() if e.data_type == 1 and len(e.dims) > 1
    )
    assert floats < sum(p.numel() for p in student.parameters()) / 4  # no float copy of the weights came along


def test_programs_run_with_pytorch_alone(resnet: SimpleNamespace, copy: Path) -> None:
    found = run_alone(copy, "proard,torchao")
    images = random_images(7, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(found["student.pt2"], resnet.student(images), rtol=0, atol=1e-5)
        network = resnet.source.quantised.network
        torch.testing.assert_close(found["student.int8.pt2"], network(images), rtol=0, atol=1e-6)


def test_files_name_no_place_of_this_machine(resnet: SimpleNamespace) -> None:
    """Exporters keep the source lines and paths of who exported."""
    for path in resnet.folder.iterdir():
        assert str(Path(__file__).resolve().parent.parent).encode() not in path.read_bytes(), path.name


def test_static_batch(resnet: SimpleNamespace, tmp_path: Path) -> None:
    source = Source(resnet.student, random_images(2), resnet.checks.calibration, static_batch=4)
    for name in ("onnx", "onnx-int8"):
        entry = FORMATS[name]
        path = tmp_path / entry.file
        assert entry.write(source, path)["batch"] == 4
        assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == [4, *SHAPE]
        images = random_images(6, seed=7)  # one batch, and a part of one
        expected = FORMATS[name].load(resnet.folder / entry.file)(images)
        torch.testing.assert_close(entry.load(path)(images), expected, rtol=0, atol=1e-4 if name == "onnx" else 0.02)


# ---------------------------------------------------------------------------------------------------------------------
# Quantisation


def test_int8_is_a_quarter(tmp_path: Path) -> None:
    """A wider network, where weights outweigh the description of the graph."""
    net = build_supernet("resnet", num_classes=5, input_shape=SHAPE, widths=[64, 96], blocks=[1, 1])
    student = net.extract(net.space.largest(), [random_images(16)]).eval()
    source = Source(student, random_images(2), random_images(16))
    for name in ("onnx", "onnx-int8", "pt2", "pt2-int8"):
        FORMATS[name].write(source, tmp_path / FORMATS[name].file)
    size = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert 0.24 < size["student.int8.onnx"] / size["student.onnx"] < 0.3
    assert size["student.int8.pt2"] < 0.45 * size["student.pt2"]  # the archive itself takes 100 KB


def test_weights_are_rounded_to_the_nearest_of_each_channel(resnet: SimpleNamespace) -> None:
    """The first convolution, against folding and rounding by the formulas in float64."""
    network, student = resnet.source.quantised.network, resnet.student
    convolution = next(module for module in student.modules() if isinstance(module, nn.Conv2d))
    norm = next(module for module in student.modules() if isinstance(module, nn.BatchNorm2d))
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = convolution.weight.detach().double() * factor.detach()[:, None, None, None]
    scale = folded.abs().amax((1, 2, 3)) / 64
    integers = next(tensor for tensor in network.state_dict().values() if tensor.dtype == torch.int8)
    assert integers.shape == folded.shape
    assert (integers - folded / scale[:, None, None, None]).abs().max() <= 0.5 + 1e-3


def test_straight_through_computes_what_the_int8_files_compute(resnet: SimpleNamespace) -> None:
    images = random_images(50, seed=8)
    copy = resnet.source.quantised.straight_through()
    with torch.no_grad():
        logits = copy(images)
        assert torch.equal(logits, FORMATS["pt2-int8"].load(resnet.folder / "student.int8.pt2")(images))
        other = FORMATS["onnx-int8"].load(resnet.folder / "student.int8.onnx")(images)
        rounded = (logits - resnet.student(images)).abs().max()
    # Integer arithmetic rounds half-way cases elsewhere: by less than what int8 costs, and mostly not at all.
    assert 0 < rounded < 0.1
    assert (other - logits).abs().max() <= rounded
    assert (other - logits).abs().median() < 0.1 * rounded
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(resnet.folder / "student.int8.onnx", options)
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), logits, rtol=0, atol=1e-5
    )


def test_straight_through_has_the_gradient_that_rounding_hides(resnet: SimpleNamespace) -> None:
    """Nearly the float student's, also for black and white pixels; that of the quantised graph itself is zero."""

    def gradient(network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        images = (2 * random_images(8, seed=9) - 0.5).clamp(0, 1).requires_grad_()
        logits = network(images)
        (found,) = torch.autograd.grad(logits[:, 0].sum(), images, allow_unused=True)
        return torch.zeros_like(images) if found is None else found

    expected, found = gradient(resnet.student), gradient(resnet.source.quantised.straight_through())
    assert nn.functional.cosine_similarity(expected.flatten(), found.flatten(), dim=0) > 0.9
    assert (expected.sign() == found.sign()).float().mean() > 0.85
    assert gradient(resnet.source.quantised.network).abs().max() == 0


def test_clamps_that_quantisation_makes_are_dropped_and_others_kept() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            x = nn.functional.relu6(20 * self.second(x))
            return nn.functional.hardswish(self.third(x)).mean((2, 3))

    torch.manual_seed(0)
    network, images = Network().eval(), random_images(32)
    quantised = quantise(network, images)
    operators = [str(node.target) for node in quantised.network.graph.nodes]
    assert not any("relu" in name for name in operators)
    assert any("hardswish" in name for name in operators)
    assert {"hardswish", "mean"} <= set(quantised.settings["float_operations"])
    with torch.no_grad():
        assert (quantised.network(images) - network(images)).abs().max() < 0.1


def test_the_student_is_left_as_it_was(resnet: SimpleNamespace) -> None:
    student, _ = make("resnet")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    quantise(student, random_images(8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert student.state_dict().keys() == before.keys()


# ---------------------------------------------------------------------------------------------------------------------
# Measurement


def test_the_lowest_counts_per_image() -> None:
    """Each attack breaks another image; an image that is wrong when clean never counts."""
    t, f = True, False
    correct = {
        "clean": torch.tensor([t, t, t, t, t, f]),
        "transfer": torch.tensor([f, t, t, t, t, t]),
        "straight_through": torch.tensor([f, f, t, t, t, t]),
        "square": torch.tensor([t, t, f, t, t, t]),
    }
    found = {name: value["correct"] for name, value in combine(correct).items()}
    assert found == {"transfer": 4, "straight_through": 3, "square": 4, "lowest": 2}
    assert all(value["images"] == 6 for value in combine(correct).values())


def test_what_the_card_says_of_an_int8_file(resnet: SimpleNamespace) -> None:
    """All numbers once more, with the attacks called one by one and the file run in a session of its own."""
    session = onnxruntime.InferenceSession(resnet.folder / "student.int8.onnx")

    def right(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0]).argmax(1) == labels

    runner = FORMATS["onnx-int8"].load(resnet.folder / "student.int8.onnx")
    pgd, square = resnet.checks.attack, Square(THREAT, queries=8)
    networks = {
        "transfer": (pgd, resnet.student),
        "straight_through": (pgd, resnet.source.quantised.straight_through()),
        "square": (square, runner),
    }
    generators = {name: torch.Generator().manual_seed(0) for name in networks}
    clean, after = [], {name: [] for name in networks}
    for images, labels in resnet.checks.batches:
        clean.append(right(images, labels))
        for name, (attack, network) in networks.items():
            adversarial = attack(network, images, labels, generator=generators[name])
            after[name].append(right(adversarial, labels))
    everything = torch.cat(clean)
    entry = resnet.card["formats"]["onnx-int8"]
    assert entry["clean"]["correct"] == int(everything.sum())
    for name, values in after.items():
        assert entry["robust"][name]["correct"] == int((torch.cat(values) & torch.cat(clean)).sum())
        everything &= torch.cat(values)
    assert entry["robust"]["lowest"]["correct"] == int(everything.sum())
    assert 0 < entry["robust"]["lowest"]["correct"] < entry["clean"]["correct"]
    assert entry["robust"]["attacks"]["square"]["queries"] == 8
    assert entry["agreement"]["max_logit_difference"] > 0


def test_what_the_card_says_of_float_files(resnet: SimpleNamespace) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*resnet.checks.batches, strict=True))
    with torch.no_grad():
        correct = int((resnet.student(images).argmax(1) == labels).sum())
    for name in ("pt2", "onnx"):
        entry = resnet.card["formats"][name]
        assert entry["agreement"]["equal_predictions"] == 1
        assert entry["agreement"]["max_logit_difference"] < 1e-4
        assert (entry["clean"]["correct"], entry["clean"]["images"]) == (correct, 30)
        assert entry["robust"]["lowest"] == entry["robust"]["transfer"]
        assert entry["robust"]["lowest"]["correct"] < correct
        assert entry["bytes"] == (resnet.folder / entry["file"]).stat().st_size


def test_a_file_that_masks_gradients_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float student is never fooled here, but the file is by all that Square Attack tries."""

    class Blind(type(FORMATS["onnx-int8"])):  # type: ignore[misc]
        def load(self, path: Path) -> Runner:
            def run(images: torch.Tensor) -> torch.Tensor:
                plain = (images == 0.5).flatten(1).all(1)
                return torch.stack([plain.float(), (~plain).float()], 1)

            return Runner(run)

        def surrogate(self, source: Source) -> nn.Module:
            return Constant()

    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).sum(1, keepdim=True) * torch.tensor([[1e-9, -1e-9]]) + torch.tensor([[1.0, 0.0]])

    class Still(PGD):
        def perturb(self, model: Any, images: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
            return images.clone()

    batches = [(torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.long))]
    monkeypatch.setattr(evaluation, "attack_as_dict", lambda attack: {"name": attack.name})
    checks = FormatChecks(None, batches, Still(THREAT, steps=1), square_queries=5)
    student = Constant().eval()
    found = evaluation.evaluate_formats(tmp_path, [Blind()], student, Source(student, batches[0][0]), checks)
    robust = {name: value["correct"] for name, value in found["onnx-int8"]["robust"].items() if name != "attacks"}
    assert robust == {"transfer": 4, "straight_through": 4, "square": 0, "lowest": 0}


def test_the_model_card_has_a_table(resnet: SimpleNamespace) -> None:
    text = (resnet.folder / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| pt2", "| onnx"))]
    assert len(rows) == 4
    entry = resnet.card["formats"]["pt2-int8"]
    (row,) = [line for line in rows if line.startswith("| pt2-int8 ")]
    assert f"{entry['bytes']:,}" in row
    assert f"{100 * entry['robust']['lowest']['accuracy']:.1f} %" in row
    assert "8 queries of Square Attack" in text
    assert "kWh" not in text
    from proard.export.model_card import model_card

    assert "| energy | 0.012 kWh, 0.0057 kg" in model_card(
        {**resnet.card, "energy": {"kwh": 0.012, "kg_co2eq": 0.0057}}
    )


def test_checksums_cover_all_files(resnet: SimpleNamespace) -> None:
    digests = {path.name: sha256(path) for path in resnet.folder.iterdir()}
    digests.pop("README.md"), digests.pop("student.json")
    assert json.loads((resnet.folder / "student.json").read_text())["files"] == digests
    assert {"student.onnx", "student.int8.onnx", "student.int8.pt2", "student.pt2"} < set(digests)


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def refused(tmp_path: Path, *formats: str, checks: FormatChecks | None = None) -> str:
    """The one line; nothing is left."""
    student, card = make("resnet")
    with pytest.raises((UserError, ExportError)) as caught:
        write_student(tmp_path / "student", student, card, formats, checks)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_format(tmp_path: Path) -> None:
    assert "did you mean 'onnx-int8'" in refused(tmp_path, "onnx-int9")


def test_int8_without_calibration_images(tmp_path: Path) -> None:
    assert "calibration images" in refused(tmp_path, "pt2-int8")


def test_an_exporter_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand a page of advice")

    monkeypatch.setattr(torch.onnx, "export", broken)
    line = refused(tmp_path, "onnx")
    assert "--format onnx" in line
    assert "no such operator" in line
    assert "advice" not in line


def test_a_file_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the runtime were wrong in the fourth digit."""
    original = Onnx.load
    monkeypatch.setattr(Onnx, "load", lambda entry, path: lambda images: original(entry, path)(images) + 1e-3)
    assert "does not compute what the student computes" in refused(tmp_path, "onnx")


def test_predictions_must_be_equal() -> None:
    expected = torch.tensor([[0.00001, 0.0], [1.0, 0.0]])
    assert require_agreement("onnx", expected + 5e-5, expected, 1e-4) == pytest.approx(5e-5, rel=1e-2)
    with pytest.raises(ExportError, match="1 of 2 predictions"):
        require_agreement("onnx", expected + torch.tensor([[0.0, 5e-5], [0, 0]]), expected, 1e-4)
    with pytest.raises(ExportError, match="finite"):
        require_agreement("onnx", expected * float("nan"), expected, 1e-4)


@pytest.mark.parametrize("options", [{"square_queries": 1}, {"static_batch": 0}])
def test_checks_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FormatChecks(**options)  # type: ignore[arg-type]


def test_executorch(resnet: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    path = tmp_path / "student.pte"
    settings = FORMATS["executorch"].write(resnet.source, path)
    assert settings["checked"]["max_logit_difference"] <= 1e-4
    images = random_images(40, seed=4)  # more than a batch
    with torch.no_grad():
        torch.testing.assert_close(FORMATS["executorch"].load(path)(images), resnet.student(images), rtol=0, atol=1e-4)


def test_a_damaged_int8_file_is_found(copy: Path) -> None:
    from proard.export.student_directory import read_card

    data = bytearray((copy / "student.int8.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "student.int8.onnx").write_bytes(data)
    with pytest.raises(UserError, match=r"student\.int8\.onnx is damaged"):
        read_card(copy)
