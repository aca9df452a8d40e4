"""Pictures with boxes and masks of things, as COCO keeps them: a folder of images and one JSON file of annotations."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from eqmambair.data.pictures import absolute, open_picture
from eqmambair.errors import UserError


@DATASET_REGISTRY.register(suffix="eqmambair")
class CocoDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples ``{"image": float32 (3, h, w) in [0, 1], "target": {...}, "path": file name}``.

    A target holds ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels, ``labels`` (n,) from 1 in the order of the categories' ids, ``masks``
    (n, h, w) uint8, ``crowd`` (n,) bool and ``area`` (n,). Training leaves out crowds, boxes without extent, and pictures without things.

    Args:
        dataroot: folder of the images.
        annotations: the JSON file.
        hflip: probability of the mirror image in training; left and right.
        keep_empty: whether training uses pictures without things too.
        phase: train, val or test.
        root: folder that relative paths start from.

    Raises:
        UserError: if the folder or file is missing, or the file is not in COCO's form.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        annotations: str,
        hflip: float = 0.0,
        keep_empty: bool = False,
        phase: Literal["train", "val", "test"] = "train",
        root: Path | None = None,
    ) -> None:
        self.folder, self.file, self.phase, self.hflip = absolute(root, dataroot), absolute(root, annotations), phase, hflip
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder (dataroot); docs/detection.md shows the layout")
        content = _read(self.file)
        names = _names(content)
        self.classes = list(names.values())
        self._label = {number: label for label, number in enumerate(names, start=1)}
        self._things: dict[Any, list[dict[str, Any]]] = {}
        sizes = {each["id"]: (each["width"], each["height"]) for each in content["images"]}
        for thing in content["annotations"]:
            if thing["category_id"] not in self._label:
                raise UserError(f"{self.file}: annotation {thing.get('id')} has the category {thing['category_id']}, which is not listed")
            self._check_numbers(thing)
            if phase != "train" or (not thing.get("iscrowd") and _has_extent(thing["bbox"], sizes.get(thing["image_id"]))):
                self._things.setdefault(thing["image_id"], []).append(thing)
        images = sorted(content["images"], key=lambda each: each["file_name"])
        kept = phase != "train" or keep_empty
        self.images = [each for each in images if kept or each["id"] in self._things]

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        """The name that tells the sample from others."""
        return str(self.images[index]["file_name"])

    def describe(self, index: int) -> str:
        """What messages call the sample."""
        return str(self.folder / self.key(index))

    def inspect(self, index: int, level: str) -> None:
        """Raise ``UserError`` if the sample cannot be used: the file is missing; as the level asks, its size or annotations are wrong."""
        if not (self.folder / self.key(index)).is_file():
            raise UserError(f"{self.describe(index)}: no such file, named in {self.file}")
        if level == "header":
            self._check_size(index, open_picture(self.folder / self.key(index), decode=False).size)
        elif level == "full":
            self[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = np.asarray(open_picture(self.folder / self.key(index)))
        height, width = pixels.shape[:2]
        self._check_size(index, (width, height))
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
        target = self._target(index, height, width)
        if self.phase == "train" and self.hflip and float(torch.rand(())) < self.hflip:
            image, boxes = image.flip(-1), target["boxes"]
            target["masks"] = target["masks"].flip(-1)
            target["boxes"] = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        return {"image": image, "target": target, "path": self.key(index)}

    def _check_numbers(self, thing: dict[str, Any]) -> None:
        box, area = thing["bbox"], thing.get("area", 0)
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in (*box, area))):
            found = f"bbox {box!r} and area {area!r}"
            raise UserError(f"{self.file}: annotation {thing.get('id')} has {found}; needed are four numbers (x, y, width, height) and one")

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        entry = self.images[index]
        if size != (entry["width"], entry["height"]):
            raise UserError(f"{self.describe(index)}: is {size[0]}x{size[1]}, {self.file.name} says {entry['width']}x{entry['height']}")

    def _target(self, index: int, height: int, width: int) -> dict[str, Tensor]:
        things = self._things.get(self.images[index]["id"], [])
        boxes = torch.tensor([thing["bbox"] for thing in things], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [self._mask(thing, index, height, width) for thing in things]
        return {
            "boxes": boxes.clamp(min=0).minimum(torch.tensor([width, height] * 2)),
            "labels": torch.tensor([self._label[thing["category_id"]] for thing in things], dtype=torch.int64),
            "masks": torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.uint8),
            "crowd": torch.tensor([bool(thing.get("iscrowd", 0)) for thing in things], dtype=torch.bool),
            "area": torch.tensor([float(thing.get("area", 0)) for thing in things]),
        }

    def _mask(self, thing: dict[str, Any], index: int, height: int, width: int) -> np.ndarray:
        """Polygons, or run lengths as numbers or as text, drawn: (h, w) uint8."""
        coco = mask_tools()
        outline: Any = thing.get("segmentation")
        try:
            if isinstance(outline, list):
                if not np.isfinite(np.concatenate(outline)).all():
                    raise ValueError("a polygon that is not finite")
                runs = coco.merge(coco.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], list):
                runs = coco.frPyObjects(outline, height, width)
            else:
                runs = outline
            size, pixels = tuple(runs["size"]), _covered(runs["counts"])
            # pycocotools leaves what the runs do not cover as it finds it in memory
            mask: np.ndarray | None = coco.decode(runs) if size == (height, width) and pixels == height * width else None
        except (TypeError, KeyError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise UserError(f"{self.file}: annotation {thing.get('id')} of {self.key(index)} has no readable segmentation") from error
        if mask is None:
            found = f"the mask of annotation {thing.get('id')} is {size} with runs over {pixels} pixels"
            raise UserError(f"{self.file}: {found}, {self.key(index)} is {(height, width)}")
        return mask


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _covered(counts: str | bytes) -> int:
    """How many pixels run lengths in COCO's text form cover.

    Each is written in characters of five bits and one that says whether more follow, lowest first, signed; from the fourth run on as the
    difference to the run before the last.

    Raises:
        ValueError: if the text ends within a run, or a run is negative.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii") if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or min(runs, default=0) < 0:
        raise ValueError("run lengths that end early or are negative")
    return sum(runs)


def _has_extent(box: list[float], size: tuple[int, int] | None) -> bool:
    """Whether something of a box (x, y, width, height) lies in a picture of this width and height."""
    width, height = size or (math.inf, math.inf)
    x, y, w, h = box
    return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)


def mask_tools() -> Any:
    """pycocotools.mask.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("detection needs pycocotools: pip install pycocotools, or pip install -e .[detection]") from None
    return mask


def listed(file: Path) -> tuple[dict[str, int | str], dict[int, str]]:
    """What an annotation file calls its pictures, file name -> id, and its classes, id -> name, in the order of the labels.

    Raises:
        UserError: it is missing or not in COCO's form.
    """
    content = _read(file)
    return {each["file_name"]: each["id"] for each in content["images"]}, _names(content)


def _names(content: dict[str, list[dict[str, Any]]]) -> dict[int, str]:
    """The classes of an annotation file, id -> name, in the order of the labels."""
    return {each["id"]: str(each["name"]) for each in sorted(content["categories"], key=lambda each: each["id"])}


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The content of an annotation file, with what every entry must have."""
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    if not file.is_file():
        raise UserError(f"{file}: no such file (annotations); docs/detection.md shows the layout")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is no JSON ({' '.join(str(error).split())[:100]})") from None
    for part, keys in needed.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{file}: has no list {part!r}; it is not in COCO's form")
        for entry in entries:
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise UserError(f"{file}: an entry of {part!r} lacks {missing[0]!r}")
            _check_kinds(file, part, entry)
        for key in ("id", "file_name"):
            seen = Counter(entry[key] for entry in entries if key in entry)
            twice = [value for value, count in seen.items() if count > 1]
            if twice:
                raise UserError(
                    f"{file}: {len(twice)} values of {key!r} stand in {part!r} more than once, first {twice[0]!r}; make each unique"
                )
    return content  # type: ignore[no-any-return]


def _check_kinds(file: Path, part: str, entry: dict[str, Any]) -> None:
    for key, value in entry.items():
        if key == "file_name":
            kind, right = "text", isinstance(value, str)
        elif key in ("width", "height", "category_id") or (part, key) == ("categories", "id"):
            kind, right = "a number", _is_number(value)
        elif key in ("id", "image_id"):
            kind, right = "a number or text", isinstance(value, str) or _is_number(value)
        else:
            continue
        if not right:
            raise UserError(f"{file}: an entry of {part!r} has {key!r}: {value!r}; needed is {kind}")
