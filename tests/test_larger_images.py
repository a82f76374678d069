"""The configurations for larger images, shortened, from files of any size and format to an evaluated student."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from proard import evaluate, extract, load_student, train
from proard.config import load_config
from proard.data import StreamedImageSet, load_data

# Modes and formats as they are found in the wild: colour, grey, palette, transparency, print colours, 16 bits, bilevel.
KINDS = [
    ("RGB", "jpg"),
    ("L", "jpg"),
    ("P", "png"),
    ("RGBA", "png"),
    ("CMYK", "jpg"),
    ("P", "gif"),
    ("L", "tiff"),
    ("RGB", "webp"),
    ("1", "bmp"),
    ("LA", "png"),
]
SHORT = [
    "data.memory_limit=1",  # bytes: everything is streamed
    "data.workers=1",
    "data.validation=0.2",
    "supernet.width_multiplier=0.35",
    "supernet.depth_choices=[1, 2]",
    "supernet.expand_choices=[1, 2]",
    "attack.steps=1",
    "batch_size=8",
    "validation.images=4",
    "validation.calibration_images=8",
    "validation.students=0",
    "validation.attack.steps=1",
    "search.candidates=1",
    "search.mutations=0",
    "search.images=4",
    "search.attack.steps=1",
    "evaluation.attack.steps=2",
    "energy.enabled=false",
    *(f"phases.{phase}.sampler={{name: sandwich, students: 2}}" for phase in (1, 2, 3)),
    *(f"phases.{phase}.{key}" for phase in range(4) for key in ("epochs=1", "warmup_epochs=0")),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, dark and bright; every image has another size, mode or format. val/ is the test split."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, low in (("dark", 0), ("bright", 128)):
            folder = root / part / name / "images"  # nested, as in Tiny ImageNet
            folder.mkdir(parents=True)
            for index, (mode, extension) in enumerate(KINDS):
                pixels = rng.integers(low, low + 128, (30 + 40 * index, 300 - 25 * index, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{index:02}.{extension}")
    return root


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param("imagenet.yaml", 224, marks=pytest.mark.slow),
        pytest.param("tiny_imagenet.yaml", 64, marks=pytest.mark.slow),
    ],
)
def test_end_to_end(name: str, side: int, images: Path, tmp_path: Path) -> None:
    config = load_config(name, [f"data.root={images}", *SHORT])
    data = load_data(config.data)
    assert isinstance(data.train, StreamedImageSet)
    assert data.input_shape == (3, side, side)
    run = train(config, run=tmp_path / "run", quiet=True)
    (student,) = extract(flops="60M", run=run, quiet=True)
    assert student.card["multiply_adds"] <= 60e6
    assert student.card["input_shape"] == [3, side, side]
    assert student.card["evaluation"]["clean"]["images"] == 2 * len(KINDS)
    (again,) = evaluate(student.path)
    assert again.measurement.clean.value == student.card["clean_accuracy"]
    assert load_student(student.path)(torch.rand(1, 3, side, side)).shape == (1, 2)
    shutil.rmtree(run)


def test_every_format_is_read_as_what_it_shows(images: Path) -> None:
    data = load_data(load_config("tiny_imagenet.yaml", [f"data.root={images}", *SHORT]).data)
    assert data.class_names == ("bright", "dark")
    for pixels, labels in data.test.batches([torch.arange(len(data.test))], "cpu"):
        assert pixels.shape == (2 * len(KINDS), 3, 64, 64)
        bright = pixels.mean((1, 2, 3)) > 0.5
        assert torch.equal(bright, labels == 0)
