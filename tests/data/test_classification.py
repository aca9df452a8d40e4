"""Labelled pictures: which files, which classes, which views."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eqmambair.data.checking import check_dataset
from eqmambair.data.classification import ImageFolderDataset, TorchvisionDataset
from eqmambair.data.pictures import open_picture
from eqmambair.data.sampler import Key
from eqmambair.data.seeded import SeededDataset
from eqmambair.data.views import Augmentation, Preprocessing, training_view
from eqmambair.errors import UserError
from tests.engine.tiny_recognition import CLASSES, make_class_folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_class_folders(tmp_path / "train")


def test_classes_are_the_folders_by_name(root: Path) -> None:
    dataset = ImageFolderDataset(dataroot=str(root), size=12)
    assert dataset.classes == list(CLASSES)
    assert [dataset.key(index) for index in (0, 4, 11)] == ["left/0.png", "right/0.png", "top/3.png"]
    assert [dataset[index]["label"] for index in (0, 4, 11)] == [0, 1, 2]
    assert dataset[0]["image"].shape == (3, 12, 12)


def test_class_list_chooses_orders_and_names(root: Path) -> None:
    (root.parent / "list.txt").write_text("top  the upper side\nleft\n")
    dataset = ImageFolderDataset(dataroot=str(root), class_list="list.txt", root=root.parent)
    assert dataset.classes == ["the upper side", "left"]
    assert len(dataset) == 8
    assert {dataset.key(index).split("/")[0]: dataset.label(index) for index in range(8)} == {"top": 0, "left": 1}


@pytest.mark.parametrize(
    ("content", "message"), [("left\nleft\n", "names a class twice"), ("\n", "names no class"), ("bottom\n", "Found no valid file.*bottom")]
)
def test_wrong_class_lists_are_refused(root: Path, content: str, message: str) -> None:
    (root.parent / "list.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        ImageFolderDataset(dataroot=str(root), class_list="list.txt", root=root.parent)


@pytest.mark.parametrize("level", ["full", "header", "lazy"])
def test_check_names_every_damaged_file(root: Path, level: str) -> None:
    (root / "left" / "0.png").write_bytes(b"no picture")
    whole = (root / "right" / "1.png").read_bytes()
    (root / "right" / "1.png").write_bytes(whole[: len(whole) // 2])
    dataset = ImageFolderDataset(dataroot=str(root))
    bad = {"full": ["left/0.png", "right/1.png"], "header": ["left/0.png"], "lazy": []}[level]
    kept = check_dataset(dataset, level, "skip", "datasets.train")
    assert len(kept) == 12 - len(bad)
    if bad:
        with pytest.raises(UserError, match=rf"{len(bad)} of 12 .*{bad[0]}"):
            check_dataset(dataset, level, "error", "datasets.train")


def test_every_mode_is_read_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for mode in ("L", "P", "RGBA", "CMYK", "LA"):
        file = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (8, 8)).save(tmp_path / "a" / f"{mode}.{file}")
    dataset = ImageFolderDataset(dataroot=str(tmp_path), size=8, crop_pct=1.0)
    assert {dataset[index]["image"].shape for index in range(5)} == {(3, 8, 8)}


def test_sixteen_bit_gray_keeps_its_shades_and_32_bit_is_refused(tmp_path: Path) -> None:
    shades = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for ending in ("png", "tif"):
        Image.fromarray(shades * 257).save(tmp_path / f"deep.{ending}")
        assert np.array_equal(np.asarray(open_picture(tmp_path / f"deep.{ending}"))[:, :, 1], shades)
    Image.fromarray(shades.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(shades.astype(np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        with pytest.raises(UserError, match=f"^[^ ]*{name}: has pixels of 32 bit"):
            open_picture(tmp_path / name, decode=False)


def test_orientation_tags_are_followed_where_it_is_asked_for(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    tag = Image.Exif()
    tag[0x0112] = 6  # shown turned clockwise: what is left in the file is on top
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=tag)
    stored, shown = (np.asarray(open_picture(tmp_path / "phone.jpg", upright=each)) for each in (False, True))
    assert stored.shape == (16, 32, 3)
    assert np.array_equal(shown, np.rot90(stored, -1))


def test_testing_view_is_timms(root: Path) -> None:
    from timm.data import create_transform

    picture = Image.open(root / "left" / "0.png").convert("RGB").resize((53, 41))
    theirs = create_transform(32, is_training=False, interpolation="bicubic", crop_pct=0.875)
    torch.testing.assert_close(Preprocessing(32)(picture), theirs(picture), rtol=0, atol=1e-6)


def test_same_key_same_view_and_another_epoch_another(root: Path) -> None:
    augment = {"auto_augment": "rand-m9-mstd0.5-inc1", "erase": 1.0, "color_jitter": 0.4, "rotate": 1.0}
    dataset = SeededDataset(ImageFolderDataset(dataroot=str(root), size=12, augment=augment), seed=1)
    first, again, other = dataset[Key(0, 3)], dataset[Key(0, 3)], dataset[Key(1, 3)]
    assert torch.equal(first.batch["image"], again.batch["image"])
    assert not torch.equal(first.batch["image"], other.batch["image"])


@pytest.mark.parametrize("crop", ["resized", "padded", "centre"])
def test_every_crop_has_the_size_that_is_asked_for(root: Path, crop: str) -> None:
    picture = Image.open(root / "left" / "0.png").convert("RGB").resize((16, 16))
    for size in (None, 12):
        view = training_view(Preprocessing(16, 1.0), Augmentation(crop=crop), size)
        assert view(picture).shape == (3, size or 16, size or 16)


def test_padded_crop_without_change_is_the_picture_or_a_shift_of_it() -> None:
    picture = Image.fromarray(np.full((16, 16, 3), 255, np.uint8))
    view = training_view(Preprocessing(16, 1.0, mean=(0, 0, 0), std=(1, 1, 1)), Augmentation(crop="padded", padding=4))
    white = [float(view(picture).mean()) for _ in range(8)]
    assert min(white) >= (12 / 16) ** 2 - 1e-6
    assert len(set(white)) > 1


def _write_mnist(folder: Path, name: str, count: int) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(count * 28 * 28, dtype=np.uint32).astype(np.uint8).tobytes()
    for kind, content in (
        ("images-idx3", struct.pack(">IIII", 0x803, count, 28, 28) + pixels),
        ("labels-idx1", struct.pack(">II", 0x801, count) + bytes(index % 10 for index in range(count))),
    ):
        (raw / f"{name}-{kind}-ubyte").write_bytes(content)
        with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb") as file:
            file.write(content)


def test_torchvisions_sets_are_found_by_name(tmp_path: Path) -> None:
    for name, count in (("train", 20), ("t10k", 10)):
        _write_mnist(tmp_path, name, count)
    dataset = TorchvisionDataset(dataset="MNIST", dataroot=".", size=28, crop_pct=1.0, phase="train", root=tmp_path)
    assert len(dataset) == 20
    assert len(TorchvisionDataset(dataset="MNIST", dataroot=".", phase="val", root=tmp_path)) == 10
    assert dataset.classes[3] == "3 - three"
    assert (dataset[13]["label"], dataset.label(13), dataset[13]["path"]) == (3, 3, "MNIST/train/000013")
    assert dataset[0]["image"].shape == (3, 28, 28)
    assert check_dataset(dataset, "full", "error", "x") == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"dataset": "CIFAR11"}, "no data set 'CIFAR11'"), ({"dataset": "CIFAR10"}, "not found"), ({"dataset": "FakeData"}, "no data set")],
)
def test_unknown_and_missing_sets_are_refused(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TorchvisionDataset(dataroot=str(tmp_path), **arguments)
