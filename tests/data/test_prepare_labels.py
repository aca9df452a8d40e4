"""Segmentation sets made ready, and read by the data set that wants them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eqmambair.cli import prepare_labels as command
from eqmambair.data.label_sets import LABEL_SETS
from eqmambair.data.prepare_labels import COCO_ABSENT, POTSDAM_TRAIN
from eqmambair.data.segmentation import SegmentationDataset
from eqmambair.errors import UserError


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_potsdam_is_cut_into_tiles_of_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(POTSDAM_TRAIN) == 24
    colours = np.array([*LABEL_SETS["potsdam"].colours, (1, 2, 3)], np.uint8)
    truth = colours[np.arange(600 * 1100).reshape(600, 1100) % 7]
    for area in ("2_10", "7_13"):
        _save(tmp_path / "rgb" / f"top_potsdam_{area}_RGB.tif", np.full((600, 1100, 3), 9))
        _save(tmp_path / "truth" / f"top_potsdam_{area}_label_noBoundary.tif", truth)
    arguments = ["potsdam", "--images", str(tmp_path / "rgb"), "--labels", str(tmp_path / "truth"), "--output", str(tmp_path / "out")]
    command.main(arguments)
    command.main(arguments)
    assert capsys.readouterr().out.split("\n")[:2] == [f"{n} files written in {tmp_path / 'out'}" for n in (24, 0)]
    assert sorted(each.name for each in (tmp_path / "out" / "img_dir" / "val").iterdir())[-1] == "7_13_588_88_1100_600.png"
    dataset = SegmentationDataset(dataroot=str(tmp_path / "out"), layout="potsdam", phase="val")
    assert len(dataset) == 6
    label = dataset[0]["label"]
    assert label[0, :8].tolist() == [0, 1, 2, 3, 4, 5, 255, 0]


def test_potsdam_names_what_is_missing(tmp_path: Path) -> None:
    _save(tmp_path / "top_potsdam_2_10_RGB.tif", np.zeros((512, 512, 3)))
    with pytest.raises(UserError, match="holds no files"):
        command.main(["potsdam", "--images", str(tmp_path), "--labels", str(tmp_path), "--output", str(tmp_path / "out")])


def test_loveda_is_put_together(tmp_path: Path) -> None:
    number = 0
    for part in ("Train", "Val"):
        for region in ("Rural", "Urban"):
            number += 1
            _save(tmp_path / part / region / "images_png" / f"{number}.png", np.zeros((8, 8, 3)))
            _save(tmp_path / part / region / "masks_png" / f"{number}.png", np.full((8, 8), number))
    command.main(["loveda", "--input", str(tmp_path), "--output", str(tmp_path / "out")])
    dataset = SegmentationDataset(dataroot=str(tmp_path / "out"), layout="loveda", phase="val")
    assert [int(dataset[index]["label"][0, 0]) for index in (0, 1)] == [2, 3]
    _save(tmp_path / "Val" / "Urban" / "images_png" / "3.png", np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match="has the same name"):
        command.main(["loveda", "--input", str(tmp_path), "--output", str(tmp_path / "other")])


def test_coco_stuff_is_compressed_to_the_classes_that_occur(tmp_path: Path) -> None:
    present = [number - 1 for number in range(1, 183) if number not in COCO_ABSENT]
    values = np.array([*present, 255]).reshape(2, -1)
    for part in ("train2017", "val2017"):
        _save(tmp_path / "annotations" / part / "a.png", values)
        _save(tmp_path / "images" / part / "a.jpg", np.zeros((*values.shape, 3)))
    command.main(["cocostuff164k", "--root", str(tmp_path)])
    dataset = SegmentationDataset(dataroot=str(tmp_path), layout="cocostuff164k")
    assert dataset[0]["label"].flatten().tolist() == [*range(171), 255]
    assert dataset.classes[present.index(90 - 1)] == "toothbrush"
    assert dataset.classes[present.index(182 - 1)] == "wood"
    _save(tmp_path / "annotations" / "val2017" / "b.png", np.full((2, 2), 11))
    with pytest.raises(UserError, match="no labels of COCO-Stuff"):
        command.main(["cocostuff164k", "--root", str(tmp_path)])
