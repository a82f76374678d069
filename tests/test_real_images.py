"""The whole way on real images, shortened: train, extract, evaluate. Needs PROARD_DATA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proard import evaluate, extract, load_student, train


def shortened(tiny: dict[str, Any], data: dict[str, Any], eps: float) -> dict[str, Any]:
    tiny["data"] = data
    tiny["threat"] = {"eps": eps}
    tiny["supernet"] |= {"widths": [8, 16, 32], "blocks": [1, 1, 1], "dropout": 0.0}
    tiny["phases"] = [
        {"name": "teacher", "epochs": 4, "learning_rate": 0.1, "objective": {"name": "sat"}},
        {
            "name": "students",
            "epochs": 2,
            "learning_rate": 0.1,
            "elastic": ["all"],
            "sampler": {"name": "sandwich", "students": 2},
        },
    ]
    tiny["validation"] |= {"images": 50, "calibration_images": 200, "every": 9}
    tiny["evaluation"] = {"attack": {"steps": 5}, "limit": 150}
    return tiny


def check(config: dict[str, Any], folder: Path, least_clean: float, least_robust: float) -> None:
    run = train(config, run=folder / "run", quiet=True)
    small, large = extract([("flops", "2M"), ("flops", "5M")], run=run, quiet=True)
    assert small.card["multiply_adds"] <= 2e6
    assert large.card["multiply_adds"] <= 5e6
    for student in (small, large):
        assert student.card["clean_accuracy"] >= least_clean
        assert student.card["robust_accuracy"] >= least_robust
        (again,) = evaluate(student.path)
        assert again.measurement.clean.value == student.card["clean_accuracy"]
        (robust,) = again.measurement.robust.values()
        assert robust.value == student.card["robust_accuracy"]
        assert load_student(student.path).card["multiply_adds"] == student.card["multiply_adds"]


def test_fashion_mnist(real_data: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    if not (real_data / "FashionMNIST" / "raw").is_dir():
        pytest.skip(f"no FashionMNIST/raw in {real_data}")
    data = {"name": "fashion_mnist", "root": str(real_data), "limit": 500}
    check(shortened(tiny, data, 0.05), tmp_path, least_clean=0.35, least_robust=0.25)


def test_image_folder_of_cifar10(real_data: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    source = real_data / "cifar10-jpeg"
    if not source.is_dir():
        pytest.skip(f"no cifar10-jpeg in {real_data}")
    for split, count in (("train", 150), ("test", 40)):
        for name in ("airplane", "automobile", "ship", "frog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for image in sorted((source / split / name).iterdir())[:count]:
                (folder / image.name).symlink_to(image)
    data = {"name": "image_folder", "root": str(tmp_path / "images"), "image_size": 32}
    check(shortened(tiny, data, 2 / 255), tmp_path, least_clean=0.35, least_robust=0.28)
