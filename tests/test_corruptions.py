"""The common corruptions: what each must do, some against closed forms and other libraries; and accuracy under them."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import nn

from proard.common.errors import UserError
from proard.evaluation.corrupted import CATEGORIES, PASSES, measure_corruptions
from proard.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, disk, plasma
from proard.export.named import ZOO_FOLDER

DIFFER_IN_KIND = {"glass_blur", "frost", "elastic_transform"}  # not in how far they move values, as published
SIZES = {
    "8x8 grey": (1, 8, 8),
    "28x28 grey": (1, 28, 28),
    "32x32": (3, 32, 32),
    "64x64": (3, 64, 64),
    "8x16": (3, 8, 16),
}


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Twelve small photographs (12, 3, 32, 32) in [0, 1]."""
    files = sorted((ZOO_FOLDER / "cifar10-jpeg" / "images" / "test").rglob("*.jp*g"))[:12]
    return torch.stack([torch.from_numpy(np.array(Image.open(f))) for f in files]).permute(0, 3, 1, 2).float() / 255


def at(photographs: torch.Tensor, size: str) -> torch.Tensor:
    channels, *sides = SIZES[size]
    images = photographs if channels == 3 else photographs.mean(1, keepdim=True)
    return nn.functional.interpolate(images, sides, mode="bilinear", antialias=True).clamp(0, 1)


def test_they_are_the_fifteen_of_the_paper() -> None:
    assert [sum(kind.category == name for kind in CORRUPTIONS.values()) for name in CATEGORIES] == [3, 4, 4, 4]
    assert CATEGORIES == ("noise", "blur", "weather", "digital")
    assert all(len(kind.strengths) == 5 for kind in CORRUPTIONS.values())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size(name: str, size: str, photographs: torch.Tensor) -> None:
    """Shape, type, range; the draws of the seed, and image by image; something changes, and more so with severity."""
    images = at(photographs, size)
    before = images.clone()
    errors = []
    for severity in SEVERITIES:
        corrupted = corrupt(images, name, severity, seed=3)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == images.dtype
        assert bool(((corrupted >= 0) & (corrupted <= 1)).all())
        errors.append(float((corrupted - images).square().mean()))
    assert torch.equal(images, before)
    assert min(errors) > 0
    if name not in DIFFER_IN_KIND:
        assert errors[0] < errors[-1]
        if size not in ("8x8 grey", "8x16"):  # where pixelate, for one, has few sizes to go to
            same = {"motion_blur": 0.01, "pixelate": 0.2 if size == "28x28 grey" else 0}  # by rounding to whole pixels
            assert all(b > a * (1 - same.get(name, 0)) for a, b in pairwise(errors))
    assert torch.equal(corrupt(images, name, 4, seed=3), corrupt(images, name, 4, seed=3))
    apart = [corrupt(images[i : i + 5], name, 4, seed=3, first=i) for i in range(0, 12, 5)]
    assert torch.equal(torch.cat(apart), corrupt(images, name, 4, seed=3))
    same = torch.equal(corrupt(images, name, 4, seed=3), corrupt(images, name, 4, seed=4))
    assert same == (name in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"})


def test_noise_has_the_moments_it_is_named_by() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5, dtype=torch.float64)
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        noise = corrupt(grey, "gaussian_noise", severity) - grey
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=4 * deviation / noise.numel() ** 0.5)
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        assert float(corrupt(grey, "shot_noise", severity).std()) == pytest.approx((0.5 / photons) ** 0.5, rel=0.02)
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        noisy = corrupt(grey, "impulse_noise", severity)
        assert float((noisy != 0.5).double().mean()) == pytest.approx(share, rel=0.1)
        assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}


def test_closed_forms(photographs: torch.Tensor) -> None:
    x = photographs
    for severity, kept in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        mean = x.mean((2, 3), keepdim=True)
        torch.testing.assert_close(corrupt(x, "contrast", severity), mean + kept * (x - mean))
    grey = x.mean(1, keepdim=True)
    for severity, more in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1):
        torch.testing.assert_close(corrupt(grey, "brightness", severity), (grey + more).clamp(0, 1))
        brighter = corrupt(x, "brightness", severity)
        torch.testing.assert_close(brighter.amax(1), (x.amax(1) + more).clamp(0, 1))
        torch.testing.assert_close(brighter * x.amax(1, keepdim=True), x * brighter.amax(1, keepdim=True))  # hue
    black = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(corrupt(black, "brightness", 1), black + 0.05)
    flat = torch.full((1, 3, 40, 40), 0.5)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        torch.testing.assert_close(corrupt(flat, name, 5), flat)
    foggy = corrupt(torch.ones(1, 1, 32, 32), "fog", 5)  # (1 + 1.5 cloud) / 2.5
    assert float(foggy.min()) == pytest.approx(0.4)
    assert float(foggy.max()) == pytest.approx(1)


def test_other_libraries_agree(photographs: torch.Tensor) -> None:
    pixels = (255 * photographs).round().byte().permute(0, 2, 3, 1).numpy()
    for severity, quality in enumerate((80, 65, 58, 50, 40), 1):
        file = io.BytesIO()
        Image.fromarray(pixels[0]).save(file, "JPEG", quality=quality)
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        torch.testing.assert_close(corrupt(photographs, "jpeg_compression", severity)[0], expected)
    small = Image.fromarray(pixels[0]).resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    expected = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    torch.testing.assert_close(corrupt(photographs, "pixelate", 5)[0], expected, atol=1.1 / 255, rtol=0)
    plus = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5  # radius 1; smoothed by next to nothing
    expected = torch.from_numpy(ndimage.convolve(photographs[0, 0].double().numpy(), plus, mode="mirror")).float()
    torch.testing.assert_close(corrupt(photographs, "defocus_blur", 4)[0, 0], expected, atol=1e-5, rtol=0)
    zoomed = (photographs + sum(_zoomed(photographs, 1 + 0.01 * step) for step in range(26))) / 27
    torch.testing.assert_close(corrupt(photographs, "zoom_blur", 5), zoomed, atol=1e-5, rtol=0)


def _zoomed(images: torch.Tensor, factor: float) -> torch.Tensor:
    line = torch.linspace(-1, 1, images.shape[2]) / factor
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).expand(len(images), -1, -1, -1)
    return nn.functional.grid_sample(images, grid, align_corners=True)


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.0])
def test_a_kernel_grows_with_the_image(scale: float) -> None:
    spreads = []
    for radius, smoothing in CORRUPTIONS["defocus_blur"].strengths:
        kernel = disk(radius, smoothing, scale)
        side = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == pytest.approx(1)
        assert np.allclose(kernel, kernel.T)
        spreads.append(float((kernel.sum(0) * side**2).sum()) ** 0.5 / scale)
    assert spreads == sorted(spreads)
    assert spreads[-1] == pytest.approx(0.82, abs=0.12)  # in pixels of a small image


def test_clouds_are_rougher_where_they_decay_less() -> None:
    rng = np.random.default_rng(0)
    rough = [float(np.abs(np.diff(plasma((64, 48), decay, rng), axis=0)).mean()) for decay in (3, 2, 1.5)]
    assert rough == sorted(rough)
    assert plasma((9, 17), 2, rng).shape == (9, 17, 1)


@pytest.mark.parametrize(
    ("images", "name", "severity"),
    [
        (torch.rand(1, 1, 8, 8), "rain", 1),
        (torch.rand(1, 1, 8, 8), "fog", 0),
        (torch.rand(1, 1, 8, 8), "fog", 6),
        (torch.rand(1, 1, 7, 8), "fog", 1),
        (torch.rand(1, 8, 8), "fog", 1),
        (torch.ones(1, 1, 8, 8, dtype=torch.uint8), "fog", 1),
    ],
)
def test_wrong_input_is_refused(images: torch.Tensor, name: str, severity: int) -> None:
    with pytest.raises(ValueError, match=r"there are gaussian_noise|at least 8x8"):
        corrupt(images, name, severity)


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy


class Bright(nn.Module):
    """Whether an image is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images.mean((1, 2, 3))
        return torch.stack([0.45 - brightness, brightness - 0.45, torch.full_like(brightness, -9.0)], 1)


def grey_of_three_classes() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    chosen = torch.from_numpy(digits.target[:60] % 3)
    return torch.from_numpy(digits.images[:60]).float()[:, None] / 16, chosen


def test_accuracy_is_counted_image_by_image() -> None:
    images, labels = grey_of_three_classes()
    labels[:50] = (images[:50].mean((1, 2, 3)) > 0.45).long()
    done: list[float] = []
    found = measure_corruptions(Bright(), [(images, labels)], seed=5, progress=done.append)
    assert sum(done) == PASSES * len(images)
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            right = Bright()(corrupt(images, name, severity, seed=5)).argmax(1) == labels
            assert found.accuracy(name, severity).correct == int(right.sum())
    again = measure_corruptions(Bright(), zip(images.split(7), labels.split(7), strict=True), seed=5)
    assert torch.equal(found.right, again.right)
    plain = json.loads(json.dumps(found.as_dict()))
    rows = [row["accuracy"] for kind in plain["corruptions"].values() for row in kind["severities"]]
    assert len(rows) == 75
    assert plain["mean"]["accuracy"] == pytest.approx(np.mean(rows))
    low, high = plain["mean"]["interval_95"]
    assert low < plain["mean"]["accuracy"] < high
    assert plain["clean"]["correct"] == int((Bright()(images).argmax(1) == labels).sum())
    assert plain["categories"]["noise"]["accuracy"] == pytest.approx(np.mean(rows[:15]))
    lines = str(found).splitlines()
    assert len(lines) == 2 + 15 + 4 + 1
    assert all(len(line) <= 80 for line in lines)


def test_no_images_and_broken_networks() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        measure_corruptions(Bright(), [])

    class Broken(Bright):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * float("nan")

    with pytest.raises(UserError, match="not finite"):
        measure_corruptions(Broken(), [grey_of_three_classes()])
