"""What readers of the pages have, on a small scale: a finished run, a teacher, weights, and folders of images."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from documented.pages import ROOT
from proard.commands.cli import main

BASE: dict[str, Any] = {"data": {"name": "digits"}}  # of configurations that a page shows in part
IMAGES = "path/to/images"


QUICKSTART = (  # what scripts/quickstart.sh calls; a run that was profiled, too
    "train --config quickstart.yaml --run runs/quickstart",
    "extract --flops 130K --flops 600K --flops 4M --run runs/quickstart",
    "evaluate runs/quickstart",
    "profile --run runs/quickstart",
)


def build(folder: Path) -> list[str]:
    """Fill an empty folder, which must be the working directory; what the commands of `QUICKSTART` print."""
    import timm
    from safetensors.torch import save_file

    printed = []
    for command in QUICKSTART:
        code, text = captured(partial(main, command.split()))
        assert code == 0, text
        printed.append(text)
    shutil.copytree("runs/quickstart/students/flops-130K", "runs/teacher/students/student")
    (folder / "weights").mkdir()
    resnet = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    torch.save(resnet.state_dict(), "weights/resnet.pt")
    vit = timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=32)
    save_file(vit.state_dict(), "weights/vit.safetensors")
    _image_folder(folder / IMAGES)
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    return printed


def names() -> dict[str, Any]:
    """What Python on a page may use without having made it: networks, images, and the meter of a family."""
    from proard.supernet import build_supernet
    from proard.supernet.cost import Activation, CostMeter

    supernet = build_supernet("resnet", num_classes=10, input_shape=(3, 32, 32), widths=[8, 16], blocks=[1, 1])
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    small, large = (supernet.extract(at, [images]) for at in (supernet.space.smallest(), supernet.space.largest()))
    return {
        "student": small,
        "teacher": large,
        "network": large,
        "images": images,
        "labels": labels,
        "batches": [(images, labels)],
        "meter": CostMeter(),
        "x": Activation(3, 32, 32),
        "channels": 8,
    }


def captured(work: Callable[[], object]) -> tuple[int, str]:
    """The exit code of work in this process, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            work()
        except SystemExit as left:
            return (left.code if isinstance(left.code, int) else 1), said.getvalue()
    return 0, said.getvalue()


def _image_folder(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
