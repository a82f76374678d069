"""Image folders: decoding, the cache, streaming, and what is said when something is wrong."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from proard.common.errors import UserError
from proard.config import DataConfig
from proard.data import DataSplits, ImageSet, StreamedImageSet, load_data, sequential_batches
from proard.data import folder as folder_module
from proard.data.decode import decode_image

SIZE = 8


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def noise(width: int, height: int, mode: str, seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; odd sizes, colour modes and formats."""
    root = tmp_path / "images"
    for part, count in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                kind = index % 5
                image = noise(7 + 3 * index, 9 + 2 * kind, ("RGB", "L", "RGBA", "RGB", "RGB")[kind], seed=index)
                if kind == 3:
                    image = image.quantize(16)
                image.save(root / part / name / f"{index:02}.{('jpg', 'png', 'png', 'png', 'JPEG')[kind]}")
    return root


def config(root: Path, **options: object) -> DataConfig:
    return DataConfig(name="image_folder", root=root, image_size=SIZE, validation=0.2, **options)  # type: ignore[arg-type]


def everything(images: ImageSet) -> torch.Tensor:
    return torch.cat([batch for batch, _ in images.batches(sequential_batches(len(images), 3), "cpu")])


def assert_equal(first: DataSplits, second: DataSplits) -> None:
    for name in ("train", "validation", "test"):
        one, other = getattr(first, name), getattr(second, name)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(everything(one), everything(other))
    assert (first.class_names, first.input_shape) == (second.class_names, second.input_shape)
    assert first.mean == pytest.approx(second.mean)
    assert first.std == pytest.approx(second.std)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were decoded, rather than read from the cache."""
    calls: list[str] = []
    decode_files = folder_module.decode_files

    def recording(folder: Path, files: list[str], size: int) -> np.ndarray:
        calls.append(folder.name)
        return decode_files(folder, files, size)

    monkeypatch.setattr(folder_module, "decode_files", recording)
    return calls


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def test_reading_a_folder(root: Path) -> None:
    splits = load_data(config(root))
    assert splits.class_names == ("cat", "dog")
    assert splits.input_shape == (3, SIZE, SIZE)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 6)
    assert splits.validation.labels.bincount().tolist() == [2, 2]
    assert splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    files = sorted((root / "test").rglob("*.*"))
    expected = np.stack([decode_image(path, SIZE) for path in files])
    assert torch.equal((everything(splits.test) * 255).byte(), torch.from_numpy(expected))


def test_val_is_the_test_split_where_there_is_no_other(root: Path) -> None:
    (root / "test").rename(root / "val")
    assert len(load_data(config(root)).test) == 6


def test_subfolders_and_hidden_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train" / "cat" / "more").mkdir()
    noise(9, 9, "RGB").save(root / "train" / "cat" / "more" / "deep.png")
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (root / "train" / ".git").mkdir()
    (root / "train" / "dog" / "boxes.txt").write_text("1 2 3")
    splits = load_data(config(root))
    assert len(splits.train) + len(splits.validation) == 21
    assert splits.num_classes == 2
    notice = capsys.readouterr().err.strip()
    assert "boxes.txt" in notice
    assert "\n" not in notice


def test_a_split_that_is_not_read_and_a_class_that_is_not_tested_are_said(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "test", root / "val")
    shutil.rmtree(root / "test" / "dog")
    assert len(load_data(config(root)).test) == 3
    split, untested = capsys.readouterr().err.splitlines()
    assert "left out val/" in split
    assert "test: has no images of dog" in untested


def test_whatever_is_no_training_image_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat = root / "train" / "cat"
    load_data(config(root))
    assert capsys.readouterr().err == ""
    noise(9, 9, "RGB").save(root / "train" / "alone.png")
    for number in range(3):
        (cat / f".hidden{number}.png").touch()
    (cat / "gone.png").symlink_to(root / "nowhere.png")
    (cat / "circle").symlink_to(root / "train" / "cat", target_is_directory=True)
    (cat / "notes.txt").touch()
    os.mkfifo(cat / "pipe.png")
    before = len(load_data(config(root)).train)
    (line,) = capsys.readouterr().err.splitlines()
    for words in (
        "1 in no class folder, such as alone.png",
        "3 hidden, such as cat/.hidden0.png",
        "1 a link to nothing, such as cat/gone.png",
        "1 a link to a folder that it is in, such as cat/circle",
        "1 not named like an image, such as cat/notes.txt",
        "1 no file, such as cat/pipe.png",
    ):
        assert words in line
    outside = root.parent / "elsewhere"
    outside.mkdir()
    for number in range(6):
        noise(9, 9, "RGB").save(outside / f"{number}.png")
    (cat / "more").symlink_to(outside, target_is_directory=True)
    (cat / "again").symlink_to(outside, target_is_directory=True)  # twice on purpose, or not: both count
    splits = load_data(config(root))
    assert len(splits.train) + len(splits.validation) == 20 + 12
    assert before == 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_camera_was(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    stored = {  # what a camera that was held so writes, for the same scene (EXIF 2.3, tag 274)
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "a.png", 4).transpose(1, 2, 0), upright)


@pytest.mark.parametrize("limit", [4e9, 10], ids=["in memory", "streamed"])
def test_every_broken_image_is_named_at_once(root: Path, limit: float, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (root / "train" / "cat" / "00.jpg").read_bytes()
    for number in range(9):
        (root / "train" / "cat" / f"broken{number}.jpg").write_bytes(whole[: len(whole) // 2])
    for number in range(3):
        (root / "test" / "dog" / f"broken{number}.png").write_text("<html>not found</html>")
    settings = config(root).model_copy(update={"memory_limit": limit})
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(UserError, match=r"12 images cannot be read.*and 2 more.*data.skip_broken") as raised:
            load_data(settings)
        assert "\n" not in str(raised.value)
        for name in [f"cat/broken{number}.jpg" for number in range(9)] + ["dog/broken0.png"]:
            assert name in str(raised.value)
    for _ in range(2):
        capsys.readouterr()
        splits = load_data(settings.model_copy(update={"skip_broken": True}))
        assert (len(splits.train) + len(splits.validation), len(splits.test)) == (20, 6)
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "broken" in text]
        assert "12 images cannot be read" in line
        assert line.endswith("left out")
        assert everything(splits.train).shape[0] == 16
    (root / "train" / "cat" / "broken0.jpg").write_bytes(whole)  # repaired: the files are looked at anew
    with pytest.raises(UserError, match="11 images cannot be read"):
        load_data(settings)


def test_an_image_of_the_right_size_is_not_resampled(tmp_path: Path) -> None:
    image = noise(SIZE, SIZE, "RGB")
    image.save(tmp_path / "a.png")
    assert np.array_equal(decode_image(tmp_path / "a.png", SIZE), np.asarray(image).transpose(2, 0, 1))
    wide = noise(SIZE + 6, SIZE, "RGB")
    wide.save(tmp_path / "b.png")
    assert np.array_equal(decode_image(tmp_path / "b.png", SIZE), np.asarray(wide)[:, 3:-3].transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (41, 33), (3, 5)])
def test_resizing_keeps_the_centre_and_the_proportions(tmp_path: Path, width: int, height: int) -> None:
    """A colour ramp, whose value at each pixel says where the pixel came from."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ramp = np.stack([x * 3, y * 3, np.full_like(x, 50)], axis=-1)
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "ramp.png")
    result = decode_image(tmp_path / "ramp.png", SIZE).astype(float)
    side = min(width, height)
    steps = (np.arange(SIZE) + 0.5) * side / SIZE
    inner = slice(1, -1)  # the filter sees less at the border of a square image
    assert np.abs(result[0, 4, inner] - ((width - side) // 2 + steps)[inner] * 3).max() < 3
    assert np.abs(result[1, inner, 4] - ((height - side) // 2 + steps)[inner] * 3).max() < 3
    assert (result[2] == 50).all()


def test_colour_modes(tmp_path: Path) -> None:
    grey = noise(SIZE, SIZE, "L")
    grey.save(tmp_path / "grey.png")
    expected = np.broadcast_to(np.asarray(grey), (3, SIZE, SIZE))
    assert np.array_equal(decode_image(tmp_path / "grey.png", SIZE), expected)

    deep = np.asarray(grey).astype(np.uint16) * 256 + 17
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(decode_image(tmp_path / "deep.png", SIZE), expected)

    alpha = noise(SIZE, SIZE, "RGBA")
    alpha.save(tmp_path / "alpha.png")
    assert np.array_equal(decode_image(tmp_path / "alpha.png", SIZE), np.asarray(alpha)[..., :3].transpose(2, 0, 1))

    palette = noise(SIZE, SIZE, "RGB").quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode_image(tmp_path / "palette.png", SIZE)
    assert np.array_equal(result, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))

    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UserError, match="no known range"):
        decode_image(tmp_path / "float.tiff", SIZE)


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def test_the_second_time_nothing_is_decoded(root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = load_data(config(root))
    assert decoded == ["train", "test"]
    assert_equal(first, load_data(config(root)))
    assert decoded == ["train", "test"]
    assert capsys.readouterr().err == ""
    cache = root / ".proard-cache"
    assert sorted(path.name for path in cache.iterdir()) == [f"test-{SIZE}.safetensors", f"train-{SIZE}.safetensors"]
    assert (cache / f"test-{SIZE}.safetensors").stat().st_mode & 0o400
    load_data(DataConfig(name="image_folder", root=root, image_size=SIZE + 1))
    assert decoded == ["train", "test"] * 2


def damage_data(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace_by_garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x04not a cache")


@pytest.mark.parametrize("damage", [damage_data, truncate, replace_by_garbage])
def test_a_corrupt_cache_is_made_anew(
    root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str], damage: object
) -> None:
    first = load_data(config(root))
    path = root / ".proard-cache" / f"train-{SIZE}.safetensors"
    damage(path)  # type: ignore[operator]
    assert_equal(first, load_data(config(root)))
    assert decoded == ["train", "test", "train"]
    notice = capsys.readouterr().err.strip()
    assert str(path) in notice
    assert "\n" not in notice
    load_data(config(root))
    assert decoded == ["train", "test", "train"]


@pytest.mark.parametrize("change", ["edit", "touch", "add", "remove", "rename", "class"])
def test_a_stale_cache_is_made_anew(
    root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str], change: str
) -> None:
    load_data(config(root))
    image = root / "test" / "cat" / "00.jpg"
    if change == "edit":
        noise(9, 9, "RGB", seed=5).save(image)
    elif change == "touch":
        os.utime(image, ns=(1, 1))
    elif change == "add":
        noise(9, 9, "RGB", seed=5).save(root / "test" / "dog" / "new.png")
    elif change == "remove":
        image.unlink()
    elif change == "rename":
        image.rename(image.with_name("zz.jpg"))
    else:  # a class that comes first changes every label
        (root / "train" / "ant").mkdir()
        for index in range(2):
            noise(9, 9, "RGB").save(root / "train" / "ant" / f"{index}.png")
    splits = load_data(config(root))
    assert decoded[2:] == (["train", "test"] if change == "class" else ["test"])
    assert "changed" in capsys.readouterr().err
    if change == "class":
        assert splits.test.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert_equal(splits, load_data(config(root, memory_limit=1, workers=0)))


def test_a_root_that_cannot_be_written(root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".proard-cache").write_text("a file where the folder should be")  # permissions do not stop a superuser
    first = load_data(config(root))
    assert_equal(first, load_data(config(root)))
    assert decoded == ["train", "test"]
    assert len(list((Path.home() / ".cache" / "proard").rglob("*.safetensors"))) == 2
    assert capsys.readouterr().err == ""


def test_no_place_for_a_cache(root: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".proard-cache").write_text("")
    Path.home().write_text("")
    assert len(load_data(config(root)).test) == 6
    assert "cannot be written" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Streaming


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_set_equals_the_one_in_memory(root: Path, workers: int, decoded: list[str]) -> None:
    streamed = load_data(config(root, memory_limit=100, workers=workers))
    assert isinstance(streamed.train, StreamedImageSet)
    assert not decoded
    state = torch.random.get_rng_state()
    in_memory = load_data(config(root))
    assert not isinstance(in_memory.train, StreamedImageSet)
    if workers:  # starting processes takes time, so only once per split
        assert torch.equal(everything(streamed.test), everything(in_memory.test))
    else:
        assert_equal(streamed, in_memory)
        part = streamed.train.subset(6, seed=1)
        assert len(part) == 6
        assert torch.equal(everything(part), everything(in_memory.train.subset(6, seed=1)))
        assert streamed.train.to("cpu") is streamed.train
    order = [torch.tensor([5, 1]), torch.tensor([2])]
    for one, other in zip(streamed.test.batches(order, "cpu"), in_memory.test.batches(order, "cpu"), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_streaming_to_a_gpu(root: Path) -> None:
    splits = load_data(config(root, memory_limit=100))
    images, labels = next(splits.test.batches([torch.arange(6)], "cuda"))
    assert images.device.type == labels.device.type == "cuda"
    assert torch.equal(images.cpu(), everything(load_data(config(root)).test))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_set_names_an_unreadable_image(root: Path, workers: int) -> None:
    splits = load_data(config(root, memory_limit=100, workers=workers))
    bad = root / "test" / "dog" / "01.png"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        everything(splits.test)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def error_line(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_data(config(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_missing_folders(root: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in error_line(tmp_path / "nowhere")
    remove(root / "test")
    message = error_line(root)
    assert str(root) in message
    assert "neither test/ nor val/" in message
    remove(root / "train")
    assert "no folder train/" in error_line(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_no_class_folders_or_an_empty_one(root: Path, part: str) -> None:
    remove(root / part / "dog")
    (root / part / "dog").mkdir()
    assert str(root / part / "dog") in error_line(root)
    (root / part / "dog" / "notes.txt").write_text("")
    assert "no images" in error_line(root)
    remove(root / part)
    (root / part).mkdir()
    message = error_line(root)
    assert str(root / part) in message
    assert "no class folders" in message


def test_a_single_class(root: Path) -> None:
    remove(root / "train" / "dog")
    message = error_line(root)
    assert "single class" in message
    assert "'cat'" in message


def test_classes_that_only_the_test_split_has(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "dogs")
    message = error_line(root)
    assert "dogs" in message
    assert str(root / "test") in message


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named(root: Path, content: bytes | None) -> None:
    bad = root / "train" / "dog" / "04.JPEG"
    bad.write_bytes(bad.read_bytes()[:-200] if content is None else content)
    assert str(bad) in error_line(root)


def test_one_image_per_class_cannot_be_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            noise(9, 9, "RGB").save(tmp_path / part / name / "only.png")
    assert "validation" in error_line(tmp_path)
