"""Pictures with labels: which files, which values, and that both change together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eqmambair.data import joint_views
from eqmambair.data.checking import check_dataset
from eqmambair.data.joint_views import JointAugmentation, augmented, distorted, filled, fitted, resized_labels
from eqmambair.data.label_sets import LABEL_SETS, palette
from eqmambair.data.sampler import Key
from eqmambair.data.seeded import SeededDataset
from eqmambair.data.segmentation import SegmentationDataset
from eqmambair.errors import UserError
from tests.engine.tiny_recognition import make_labelled_pictures

PLACES = {  # layout -> image and label of the training part
    "ade20k": ("images/training/a.jpg", "annotations/training/a.png"),
    "voc2012": ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    "voc2012aug": ("JPEGImages/a.jpg", "SegmentationClassAug/a.png"),
    "cityscapes": ("leftImg8bit/train/ulm/a_leftImg8bit.png", "gtFine/train/ulm/a_gtFine_labelTrainIds.png"),
    "cocostuff164k": ("images/train2017/a.jpg", "annotations/train2017/a_labelTrainIds.png"),
    "loveda": ("img_dir/train/a.png", "ann_dir/train/a.png"),
    "potsdam": ("img_dir/train/a.png", "ann_dir/train/a.png"),
    "folder": ("train/images/a.jpg", "train/labels/a.png"),
}
CLASSES = {"ade20k": 150, "voc2012": 21, "voc2012aug": 21, "cityscapes": 19, "cocostuff164k": 171, "loveda": 7, "potsdam": 6, "folder": 3}


def _set(root: Path, layout: str, values: list[int]) -> SegmentationDataset:
    """One picture whose label file holds these values in its first row."""
    labels = np.zeros((6, 8), np.uint8)
    labels[0, : len(values)] = values
    for place, picture in zip(PLACES[layout], (Image.new("RGB", (8, 6), "red"), Image.fromarray(labels)), strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / place)
    if layout.startswith("voc"):
        listing = root / "ImageSets" / "Segmentation" / ("trainaug.txt" if layout == "voc2012aug" else "train.txt")
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("a\n")
    names: dict[str, Any] = {"classes": ["x", "y", "z"]} if layout == "folder" else {}
    return SegmentationDataset(dataroot=str(root), layout=layout, **names)  # type: ignore[arg-type]


def test_every_layout_is_tested() -> None:
    assert set(PLACES) == set(LABEL_SETS)


@pytest.mark.parametrize("layout", PLACES)
def test_layout_finds_pictures_labels_and_classes(tmp_path: Path, layout: str) -> None:
    zero_ignored = layout in ("ade20k", "loveda", "potsdam")
    last = CLASSES[layout] if zero_ignored else CLASSES[layout] - 1
    dataset = _set(tmp_path, layout, [0, 1, last, 255])
    assert len(dataset.classes) == len(dataset.colours) == CLASSES[layout]
    assert check_dataset(dataset, "full", "error", "x") == [0]
    label = dataset[0]["label"][0, :4].tolist()
    assert label == ([255, 0, last - 1, 255] if zero_ignored else [0, 1, last, 255])


def test_value_beyond_the_classes_is_named(tmp_path: Path) -> None:
    dataset = _set(tmp_path, "loveda", [8])
    with pytest.raises(UserError, match=r"a\.png: holds .8., which are no labels of 7 classes"):
        check_dataset(dataset, "full", "error", "x")


def test_missing_partners_and_other_sizes_are_named(tmp_path: Path) -> None:
    dataset = _set(tmp_path, "potsdam", [1])
    Image.new("L", (7, 6)).save(tmp_path / PLACES["potsdam"][1])
    with pytest.raises(UserError, match=r"is \(8, 6\), its labels are \(7, 6\)"):
        check_dataset(dataset, "header", "error", "x")
    (tmp_path / PLACES["potsdam"][1]).unlink()
    with pytest.raises(UserError, match="has no label file"):
        check_dataset(dataset, "lazy", "error", "x")


def test_coloured_label_files_are_refused(tmp_path: Path) -> None:
    dataset = _set(tmp_path, "loveda", [1])
    Image.new("RGB", (8, 6)).save(tmp_path / PLACES["loveda"][1])
    with pytest.raises(UserError, match="is a RGB picture; labels are 8-bit gray or numbers of a palette"):
        dataset[0]


def test_palette_is_that_of_voc() -> None:
    assert palette(21)[[1, 2, 15, 20]].tolist() == [[128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128]]


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((360, 480), (2048, 512), (512, 683)), ((100, 1000), (2048, 512), (205, 2048)), ((6, 8), (8, 6), (6, 8))],
)
def test_pictures_are_fitted_into_the_scale(size: Any, scale: Any, expected: Any) -> None:
    assert fitted(size, scale) == expected


def test_picture_and_labels_change_together(tmp_path: Path) -> None:
    root = make_labelled_pictures(tmp_path, "train", 4)
    augment = {"crop": [16, 16], "photometric": False, "ratio": [1.0, 2.0]}
    zero = (0.0, 0.0, 0.0)
    dataset = SegmentationDataset(dataroot=str(root), classes=["dark", "bright"], ignore=[11], augment=augment, mean=zero, std=(1, 1, 1))  # type: ignore[arg-type]
    seeded = SeededDataset(dataset, seed=0)
    for epoch in range(6):
        sample = seeded[Key(epoch, epoch % 4)].batch
        assert sample["image"].shape == (3, 16, 16)
        bright = sample["image"].mean(0) * 255 > 110
        counts = sample["label"] != 255
        assert float((bright == (sample["label"] == 1))[counts].float().mean()) > 0.9  # but for interpolated borders


def test_same_key_same_sample(tmp_path: Path) -> None:
    root = make_labelled_pictures(tmp_path, "train", 4)
    dataset = SegmentationDataset(dataroot=str(root), classes=["dark", "bright"], ignore=[11], augment={"crop": [16, 16]})  # type: ignore[arg-type]
    seeded = SeededDataset(dataset, seed=0)
    one, again, other = (seeded[Key(epoch, 1)].batch["image"] for epoch in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_crop_avoids_one_class_alone() -> None:
    labels = torch.zeros(8, 400, dtype=torch.int64)
    labels[:, ::2] = 1
    labels[:, :100] = 0
    image = labels.to(torch.uint8).repeat(3, 1, 1)
    options = JointAugmentation(ratio=(1, 1), crop=(8, 40), photometric=False)
    shares = [float((augmented(image, labels, None, options)[1] == 0).float().mean()) for _ in range(40)]
    assert max(shares) < 0.75


def test_a_crop_is_redrawn_ten_times_where_a_class_may_not_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("random.randint", lambda low, high: drawn.append(high) or low)
    labels = torch.zeros(32, 32, dtype=torch.int64)
    for most, draws in ((0.75, 11), (1.0, 1)):
        drawn.clear()
        assert joint_views._crop(labels, JointAugmentation(crop=(8, 8), cat_max_ratio=most)) == (0, 0, 8, 8)
        assert len(drawn) == 2 * draws  # top and left


def test_small_pictures_are_filled_with_zeros_and_ignored_labels() -> None:
    image, labels = filled(torch.ones(3, 4, 5), torch.ones(4, 5, dtype=torch.int64), (6, 7))
    assert image.shape == (3, 6, 7)
    assert float(image.sum()) == 3 * 20
    assert labels[4:].eq(255).all()
    assert labels[:, 5:].eq(255).all()


def test_labels_are_never_mixed_by_resizing() -> None:
    labels = torch.tensor([[0, 7], [255, 3]]).repeat_interleave(5, 0).repeat_interleave(5, 1)
    assert set(resized_labels(labels, (7, 13)).unique().tolist()) == {0, 3, 7, 255}


def test_distortion_keeps_shape_and_type_and_differs() -> None:
    image = torch.randint(0, 255, (3, 9, 11), dtype=torch.uint8)
    results = [distorted(image) for _ in range(8)]
    assert all(each.shape == image.shape and each.dtype == torch.uint8 for each in results)
    assert sum(not torch.equal(each, image) for each in results) > 4
