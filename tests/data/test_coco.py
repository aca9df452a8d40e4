"""Sets in COCO's form: what they hold, what is refused, and the small set that we make."""

import json

import cv2
import numpy as np
import pytest
import torch

from eqmambair.data.checking import check_dataset
from eqmambair.data.coco import CocoDataset, _covered, listed
from eqmambair.data.pasted import CLASSES, make_pasted_set
from eqmambair.errors import UserError

mask_tools = pytest.importorskip("pycocotools.mask", reason="detection needs pycocotools")


@pytest.fixture
def small_set(tmp_path):
    """Two pictures of 40x30: one with a polygon, run lengths as numbers and as text, a crowd; one without things."""
    (tmp_path / "images").mkdir()
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((30, 40, 3), 128, np.uint8))
    square = np.zeros((30, 40), np.uint8, order="F")
    square[10:20, 5:15] = 1
    text = mask_tools.encode(square)
    numbers = {"size": [30, 40], "counts": _runs(square)}
    things = [
        {"id": 1, "image_id": 7, "category_id": 30, "bbox": [5, 10, 10, 10], "area": 100, "segmentation": [[5, 10, 15, 10, 15, 20, 5, 20]]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [5, 10, 10, 10], "area": 100, "iscrowd": 0, "segmentation": numbers},
        {
            "id": 3, "image_id": 7, "category_id": 4, "bbox": [5, 10, 10, 10], "area": 100, "iscrowd": 1,
            "segmentation": {"size": [30, 40], "counts": text["counts"].decode()},
        },
        {"id": 4, "image_id": 7, "category_id": 4, "bbox": [5, 10, 0, 10], "area": 0, "segmentation": numbers},
    ]  # fmt: skip
    content = {
        "images": [{"id": 9, "file_name": "b.png", "width": 40, "height": 30}, {"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 30, "name": "cup"}, {"id": 4, "name": "ball"}],
        "annotations": things,
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    return tmp_path, content


def _runs(mask: np.ndarray) -> list[int]:
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0)) if flat.any() else np.array([], int)
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


def opened(root, phase="train", **changes) -> CocoDataset:
    return CocoDataset(**({"dataroot": "images", "annotations": "set.json", "phase": phase, "root": root} | changes))


def test_a_sample_holds_boxes_labels_and_masks(small_set):
    dataset = opened(small_set[0])
    assert dataset.classes == ["ball", "cup"]
    assert len(dataset) == 1  # the picture without things is left out
    sample = dataset[0]
    assert sample["path"] == "a.png"
    assert sample["image"].shape == (3, 30, 40)
    assert sample["target"]["boxes"].tolist() == [[5, 10, 15, 20], [5, 10, 15, 20]]
    assert sample["target"]["labels"].tolist() == [2, 1]
    assert sample["target"]["masks"].sum((1, 2)).tolist() == [100, 100]
    assert sample["target"]["masks"][:, 10:20, 5:15].all()


def test_validation_keeps_crowds_and_empty_pictures(small_set):
    dataset = opened(small_set[0], "val")
    assert [dataset.key(index) for index in range(2)] == ["a.png", "b.png"]
    assert dataset[0]["target"]["crowd"].tolist() == [False, False, True, False]
    assert dataset[0]["target"]["masks"][2].sum() == 100
    assert dataset[1]["target"]["masks"].shape == (0, 30, 40)
    assert len(opened(small_set[0], keep_empty=True)) == 2


def test_mirror_images_move_boxes_and_masks(small_set):
    sample = opened(small_set[0], hflip=1.0)[0]
    assert sample["target"]["boxes"][0].tolist() == [25, 10, 35, 20]
    assert sample["target"]["masks"][0, 10:20, 25:35].all()


def test_what_is_wrong_is_named(small_set):
    root, content = small_set
    with pytest.raises(UserError, match="no such folder"):
        opened(root, dataroot="nowhere")
    with pytest.raises(UserError, match="no such file"):
        opened(root, annotations="nowhere.json")

    def rewritten(**changes) -> None:
        (root / "set.json").write_text(json.dumps({**content, **changes}))

    (root / "set.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        opened(root)
    rewritten(images=None)
    with pytest.raises(UserError, match="no list 'images'"):
        opened(root)
    rewritten(categories=[{"id": 4, "name": "ball"}])
    with pytest.raises(UserError, match="category 30"):
        opened(root)
    rewritten(images=[{"id": 7, "file_name": "a.png", "width": 40}])
    with pytest.raises(UserError, match="lacks 'height'"):
        opened(root)
    rewritten(images=[{"id": 7, "file_name": "a.png", "width": 41, "height": 30}])
    for level in ("header", "full"):
        with pytest.raises(UserError, match=r"a\.png: is 40x30, set.json says 41x30"):
            check_dataset(opened(root), level, "error", "set")
    rewritten(annotations=[{**content["annotations"][0], "segmentation": None}])
    with pytest.raises(UserError, match="no readable segmentation"):
        check_dataset(opened(root), "full", "error", "set")
    rewritten()
    (root / "images" / "a.png").unlink()
    with pytest.raises(UserError, match="no such file, named in"):
        check_dataset(opened(root), "lazy", "error", "set")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [5, 10, 10]}, "annotation 1 has bbox"),
        ({"bbox": None}, "annotation 1 has bbox"),
        ({"bbox": [5, float("nan"), 10, 10]}, "four numbers"),
        ({"area": "large"}, "area 'large'"),
        ({"segmentation": [[5, float("nan"), 15, 10, 15, 20]]}, "no readable segmentation"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no readable segmentation"),
        ({"segmentation": {"size": [30, 40], "counts": [10, 20]}}, r"\(30, 40\) with runs over 30 pixels, a\.png is \(30, 40\)"),
        ({"segmentation": {"size": [30, 40], "counts": [600, 601]}}, "runs over 1201 pixels"),
        ({"segmentation": {"size": [30, 40], "counts": [600.5, 599.5]}}, "runs over 1199 pixels"),
        ({"segmentation": {"size": [30, 40], "counts": [600, -5, 605]}}, "no readable segmentation"),
        ({"segmentation": {"size": [20, 60], "counts": [1200]}}, r"is \(20, 60\) with runs over 1200 pixels"),
        ({"segmentation": {"size": [30, 40], "counts": "P5:"}}, "runs over 170 pixels"),
        ({"segmentation": {"size": [30, 40], "counts": "P5:d"}}, "no readable segmentation"),
        ({"segmentation": {"size": [30, 40], "counts": "O"}}, "no readable segmentation"),
        ({"segmentation": {"size": [30, 40], "counts": 1200}}, "no readable segmentation"),
        ({"image_id": [7]}, "an entry of 'annotations' has 'image_id': \\[7\\]; needed is a number or text"),
        ({"category_id": "cup"}, "'category_id': 'cup'; needed is a number"),
    ],
)
def test_annotations_that_are_no_numbers_are_named(small_set, changes, message):
    root, content = small_set
    things = [content["annotations"][0] | changes]
    (root / "set.json").write_text(json.dumps({**content, "annotations": things}))
    with pytest.raises(UserError, match=message):
        check_dataset(opened(root), "full", "error", "set")


def test_runs_cover_what_pycocotools_counts():
    random = np.random.default_rng(0)
    for side in (1, 7, 300):
        mask = np.asfortranarray(random.random((side, 2 * side)) > random.random(), np.uint8)
        mask[:, : side // 3] = 0  # long runs too
        assert _covered(mask_tools.encode(mask)["counts"]) == mask.size


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("images", {"id": 7}, "1 values of 'id' stand in 'images' more than once, first 7"),
        ("images", {"file_name": "a.png"}, r"'file_name' stand in 'images' more than once, first 'a\.png'"),
        ("images", {"file_name": 9}, "'images' has 'file_name': 9; needed is text"),
        ("images", {"width": "40"}, "'width': '40'; needed is a number"),
        ("images", {"id": None}, "'images' has 'id': None; needed is a number or text"),
        ("categories", {"id": 4}, "1 values of 'id' stand in 'categories' more than once, first 4"),
        ("categories", {"id": "cup"}, "'categories' has 'id': 'cup'; needed is a number"),
        ("annotations", {"id": 2}, "1 values of 'id' stand in 'annotations' more than once, first 2"),
    ],
)
def test_entries_of_another_kind_or_twice_are_refused(small_set, part, changes, message):
    root, content = small_set
    content[part][0] |= changes
    (root / "set.json").write_text(json.dumps(content))
    for read in (lambda: opened(root), lambda: listed(root / "set.json")):
        with pytest.raises(UserError, match=message):
            read()


def test_training_leaves_out_boxes_outside_of_the_picture(small_set):
    root, content = small_set
    boxes = [[100, 100, 10, 10], [-20, 0, 10, 10], [40, 5, 3, 3], [35, 25, 50, 50]]
    things = [content["annotations"][0] | {"id": number, "bbox": box} for number, box in enumerate(boxes)]
    (root / "set.json").write_text(json.dumps({**content, "annotations": things}))
    assert opened(root)[0]["target"]["boxes"].tolist() == [[35, 25, 40, 30]]


def test_the_pasted_set_is_exact_and_the_same_again(tmp_path):
    for name in ("one", "two"):
        make_pasted_set(tmp_path / name, train=4, val=2, side=64)
    with pytest.raises(UserError, match="exists"):
        make_pasted_set(tmp_path / "one")
    for part, count in (("train", 4), ("val", 2)):
        sets = [CocoDataset(dataroot=str(tmp_path / n / part), annotations=str(tmp_path / n / f"{part}.json")) for n in ("one", "two")]
        assert sets[0].classes == list(CLASSES)
        assert len(sets[0]) == count
        for index in range(count):
            sample, again = sets[0][index], sets[1][index]
            assert torch.equal(sample["image"], again["image"])
            assert sample["image"].shape == (3, 64, 80)
            for box, mask, area in zip(*(sample["target"][key] for key in ("boxes", "masks", "area")), strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert mask.sum() == area
