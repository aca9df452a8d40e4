"""Getting segmentation sets ready whose files do not come in the layout of `LABEL_SETS`: Potsdam, LoveDA, COCO-Stuff.

Every job leaves alone what is there already, so an interrupted one is continued by running it again.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eqmambair.data.label_sets import IGNORED, LABEL_SETS, NO_CLASS
from eqmambair.data.pictures import open_picture
from eqmambair.data.segmentation import read_labels
from eqmambair.errors import UserError
from eqmambair.files import replace_file

TILE = 512
#: Areas of the training part; the rest is for validation.
POTSDAM_TRAIN = {f"{row}_{column}" for row, columns in {2: (10, 12), 3: (10, 12), 4: (10, 12), 5: (10, 12), 6: (7, 12), 7: (7, 12)}.items()
                 for column in range(columns[0], columns[1] + 1)}  # fmt: skip
#: COCO's numbers of things (from 1) that no picture has; label files hold number - 1.
COCO_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def potsdam(images: Path, labels: Path, output: Path) -> Iterator[Path]:
    """Cut the orthophotos ``*_ROW_COLUMN_RGB.tif`` and their ``*_label_noBoundary.tif`` into tiles of 512x512, the last ones overlapping.

    Colours of the label pictures become 1 to 6 in the order of the classes, anything else 0.

    Yields:
        What was written.

    Raises:
        UserError: a folder holds no such file, an area has no labels, or they differ in size.
    """
    areas = _areas(images, "_RGB.tif")
    truths = _areas(labels, "_label_noBoundary.tif")
    missing = sorted(set(areas) - set(truths))
    if missing:
        raise UserError(f"{labels}: has no labels of the area {missing[0]} (potsdam_{missing[0]}_label_noBoundary.tif)")
    for area, file in areas.items():
        part = "train" if area in POTSDAM_TRAIN else "val"
        places = [output / folder / part for folder in ("img_dir", "ann_dir")]
        picture, truth = np.asarray(open_picture(file)), np.asarray(open_picture(truths[area]))
        if picture.shape != truth.shape:
            raise UserError(f"{file}: is {picture.shape[:2]}, its labels are {truth.shape[:2]}")
        for pixels, place in zip((picture, numbers_of_colours(truth)), places, strict=True):
            for top in _starts(pixels.shape[0]):
                for left in _starts(pixels.shape[1]):
                    name = f"{area}_{left}_{top}_{left + TILE}_{top + TILE}.png"
                    yield from _written(place / name, pixels[top : top + TILE, left : left + TILE])


def numbers_of_colours(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Potsdam's coloured labels (h, w, 3) as 1 to 6, and 0 where the colour is no class's."""
    packed = labels.astype(np.int64) @ np.array([65536, 256, 1])
    numbers = np.zeros(packed.shape, np.uint8)
    for number, colour in enumerate(LABEL_SETS["potsdam"].colours, start=1):
        numbers[packed == np.array(colour) @ np.array([65536, 256, 1])] = number
    return numbers


def loveda(source: Path, output: Path) -> Iterator[Path]:
    """Put ``{Train,Val}/{Rural,Urban}/{images_png,masks_png}`` together as ``{img_dir,ann_dir}/{train,val}``.

    Yields:
        What was written.

    Raises:
        UserError: a folder is missing or empty, or two files have one name.
    """
    for part in ("Train", "Val"):
        for folder, place in (("images_png", "img_dir"), ("masks_png", "ann_dir")):
            files: dict[str, Path] = {}
            for region in ("Rural", "Urban"):
                inside = source / part / region / folder
                found = sorted(inside.glob("*.png")) if inside.is_dir() else []
                if not found:
                    raise UserError(f"{inside}: holds no .png files")
                for file in found:
                    if file.name in files:
                        raise UserError(f"{file}: {files[file.name]} has the same name")
                    files[file.name] = file
            for name, file in files.items():
                target = output / place / part.lower() / name
                if not target.exists():
                    replace_file(target, file.read_bytes())
                    yield target


def coco_stuff(root: Path) -> Iterator[Path]:
    """Write beside each label file of ``annotations/{train2017,val2017}`` one with the 171 classes that occur: ``*_labelTrainIds.png``.

    Yields:
        What was written.

    Raises:
        UserError: a folder is missing or empty, or a file holds what is no label.
    """
    table = np.full(256, NO_CLASS, np.uint8)
    present = [number - 1 for number in range(1, 183) if number not in COCO_ABSENT]
    table[present] = np.arange(len(present))
    table[IGNORED] = IGNORED
    for part in ("train2017", "val2017"):
        folder = root / "annotations" / part
        files = [file for file in sorted(folder.glob("*.png")) if not file.stem.endswith("_labelTrainIds")] if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder}: holds no .png files")
        for file in files:
            target = file.with_name(f"{file.stem}_labelTrainIds.png")
            if target.exists():
                continue
            labels = table[read_labels(file)]
            if bool((labels == NO_CLASS).any()):
                raise UserError(f"{file}: holds values that are no labels of COCO-Stuff")
            yield from _written(target, labels)


def _areas(folder: Path, ending: str) -> dict[str, Path]:
    """Files by their area (row_column)."""
    found = {}
    for file in sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []:
        match = re.search(r"(\d+)_(\d+)" + re.escape(ending) + "$", file.name)
        if match:
            found[f"{int(match[1])}_{int(match[2])}"] = file
    if not found:
        raise UserError(f"{folder}: holds no files ...ROW_COLUMN{ending}")
    return found


def _starts(side: int) -> list[int]:
    if side < TILE:
        raise UserError(f"a side of {side} pixels is shorter than a tile ({TILE})")
    return [*range(0, side - TILE, TILE), side - TILE]


def _written(path: Path, pixels: NDArray[np.uint8]) -> Iterator[Path]:
    if path.exists():
        return
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())
    yield path
