"""Put the students of a run on a folder of images into the package, as ``zoo:SET/STUDENT``.

python scripts/zoo.py runs/cifar10_small --set cifar10-jpeg --data-root CIFAR --supernet "where the run itself is"

Their weights are rounded to float16, and each is measured anew as it will be read: by the attack of its card on as many
test images as there, and by AutoAttack on 1,000; those are the numbers of its new card. One that loses more than a
third of a point by rounding is refused. A few images of each class go with them, ten of the test split, so that a
student can be seen at work without any others.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from proard import evaluate
from proard.common.files import atomic_directory, sha256, write_json
from proard.export.named import CARD, ZOO_FOLDER
from proard.export.student_directory import WEIGHTS, read_card

TOLERANCE = 1 / 300  # of the accuracies, by rounding; one image, where they are few
IMAGES = {"train": 2, "test": 10}  # of each class; a data set needs some to train on


def add_student(student: Path, place: Path, data_root: Path, autoattack: int) -> dict[str, Any]:
    """Round and measure one student.

    Returns:
        Its new card.

    Raises:
        SystemExit: it loses accuracy by rounding.
    """
    card = read_card(student)
    card["data"] |= {"root": "../images"}
    card.pop("energy", None)  # of the training of all of them
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(place) as folder:
        weights = {name: t.half() if t.is_floating_point() else t for name, t in load_file(student / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS)
        card["bytes"] = (folder / WEIGHTS).stat().st_size
        card["formats"] = {"safetensors": {"file": WEIGHTS, "bytes": card["bytes"], "settings": {"dtype": "float16"}}}
        card["files"] = {WEIGHTS: sha256(folder / WEIGHTS)}
        write_json(folder / CARD, card)
        (measured,) = evaluate(folder, data_root=data_root, quiet=False)
        before, now = card["evaluation"], measured.measurement
        robust = [{**old, **now.robust[old["attack"]["name"]].as_dict()} for old in before["robust"]]
        card["evaluation"] = {**before, "clean": now.clean.as_dict(), "robust": robust}
        for old, new in zip([before["clean"], *before["robust"]], [now.clean, *now.robust.values()], strict=True):
            if abs(old["accuracy"] - new.value) > max(TOLERANCE, 1.5 / new.total):
                raise SystemExit(f"{student}: {old['accuracy']} in float32 and {new.value} in float16")
        card["clean_accuracy"], card["robust_accuracy"] = now.clean.value, robust[0]["accuracy"]
        if autoattack:
            (strong,) = evaluate(folder, ["autoattack"], limit=autoattack, data_root=data_root, quiet=False)
            card["evaluation"]["further"] = [strong.as_dict()["autoattack"]]
        write_json(folder / CARD, card)
    return card


def add_images(data_root: Path, place: Path) -> None:
    """Copy the first images of each class."""
    shutil.rmtree(place, ignore_errors=True)
    for split, count in IMAGES.items():
        for name in sorted(path.name for path in (data_root / split).iterdir() if path.is_dir()):
            (place / split / name).mkdir(parents=True)
            for image in sorted((data_root / split / name).iterdir())[:count]:
                shutil.copyfile(image, place / split / name / image.name)


def main() -> None:
    """Parse and add all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--set", required=True, help="the name of the set in the zoo")
    parser.add_argument("--data-root", type=Path, required=True, help="where the images are")
    parser.add_argument("--supernet", required=True, help="where the run itself is, for who asks for --run zoo:SET")
    parser.add_argument("--autoattack", type=int, default=1000, help="test images for AutoAttack; 0 leaves it out")
    arguments = parser.parse_args()
    place = ZOO_FOLDER / arguments.set
    for student in sorted(path.parent for path in arguments.run.glob(f"students/*/{CARD}")):
        card = add_student(student, place / student.name, arguments.data_root, arguments.autoattack)
        print(f"{student.name}: {card['bytes']:,} bytes, {card['evaluation']}")
    add_images(arguments.data_root, place / "images")
    (place / "supernet.txt").write_text(arguments.supernet + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
