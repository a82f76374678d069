"""What an evaluation runs is the network itself, only faster."""

from __future__ import annotations

import pytest
import torch
from small_families import SMALL_FAMILIES
from torch import nn

from proard.attacks import PGD, ThreatModel
from proard.attacks.steps import images_are_apart
from proard.evaluation.accuracy import measure
from proard.evaluation.fast_copy import fast_copy
from proard.supernet import build_supernet
from proard.supernet.family import Normalize

CHANNELS_LAST = torch.channels_last


def images(count: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_logits_and_gradients_are_those_of_the_network(family: str) -> None:
    """In float64, where only a mistake could differ by more than 1e-10; no batch norm is left after a convolution."""
    net = build_supernet(family, num_classes=5, input_shape=(3, 12, 12), **SMALL_FAMILIES[family]).double()
    x = images().double()
    student = net.extract(net.space.largest(), [x])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    fast = fast_copy(student, x)
    assert fast is not student
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert images_are_apart(fast)  # or no attack would leave out what it has fooled
    for network in (student, fast):
        network.inputs = x.clone().requires_grad_()
        network.logits = network(network.inputs)
        network.logits.square().sum().backward()
    torch.testing.assert_close(fast.logits, student.logits, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fast.inputs.grad, student.inputs.grad, rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None for parameter in fast.parameters())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_normalisation_does_not_depend_on_the_memory_layout(count: int) -> None:
    """Bit for bit, values and gradients; what comes in with channels that lie last comes out so."""
    normalize, x = Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), images(count)
    inputs = [x.clone(memory_format=layout).requires_grad_() for layout in (torch.contiguous_format, CHANNELS_LAST)]
    plain, last = (normalize(given) for given in inputs)
    weights = torch.linspace(-1, 1, x.numel()).view(x.shape)
    gradients = torch.autograd.grad([(weights * out).sum() for out in (plain, last)], inputs)
    assert torch.equal(plain, last)
    assert torch.equal(*gradients)
    assert last.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(plain[:, 1].double(), (x[:, 1].double() - 0.4) / 0.25)


def block(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *layers).eval()


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = block(), nn.Linear(400, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return self.head(y.view(len(y), -1))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = block(nn.Flatten(), nn.Linear(400, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x + torch.rand_like(x))


class Reversed(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in reversed(self):
            x = layer(x)
        return x


def hooked() -> nn.Module:
    network = block(nn.Flatten(), nn.Linear(400, 5))
    network[0].register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize(
    "network",
    [
        Views().eval(),
        Random().eval(),
        Reversed(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)).eval(),
        hooked(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),  # in training mode
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval(),
        nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval(),
    ],
    ids=["views", "random", "reversed", "hooked", "training", "no statistics", "no convolution"],
)
def test_where_it_could_be_another_function_it_is_the_network_itself(network: nn.Module) -> None:
    assert fast_copy(network, images()) is network


def test_measurements_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images().double()
    net = build_supernet("resnet", num_classes=5, input_shape=(3, 12, 12), **SMALL_FAMILIES["resnet"]).double()
    student = net.extract(net.space.largest(), [x])
    labels = student(x).argmax(1)
    labels[:3] += 1
    batches = [(x[:9], labels[:9] % 5), (x[9:], labels[9:] % 5)]
    attacks = {"pgd": PGD(ThreatModel("linf", 0.2), steps=5)}
    fast = measure(student, batches, attacks)
    monkeypatch.setattr("proard.evaluation.accuracy.fast_copy", lambda network, _: network)
    assert fast == measure(student, batches, attacks)
    assert 0 < fast.robust["pgd"].correct < fast.clean.correct < 16
