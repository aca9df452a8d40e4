"""Pictures with a label for every pixel, in the folders that the segmentation sets come in."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from eqmambair.data.io import IMAGE_EXTENSIONS, list_images
from eqmambair.data.joint_views import JointAugmentation, augmented, filled
from eqmambair.data.label_sets import IGNORED, NO_CLASS, colours_of, label_set
from eqmambair.data.pictures import absolute, open_picture, opened
from eqmambair.data.views import IMAGENET_MEAN, IMAGENET_STD, check_colours
from eqmambair.errors import UserError

Numbers = tuple[float, float, float]

LayoutName = Literal["ade20k", "voc2012", "voc2012aug", "cityscapes", "cocostuff164k", "loveda", "potsdam", "folder"]


@DATASET_REGISTRY.register(suffix="eqmambair")
class SegmentationDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Pictures and label files, matched by name.

    A training sample holds ``image``, float32 (3, h, w), normalised, and ``label``, int64 (h, w), 255 where a pixel does not count; both
    of the crop's size. In validation ``image`` is the uint8 picture, both have their own size, and ``resize`` tells the size to test at.

    Args:
        dataroot: root of the set.
        layout: where the files lie below it; ``folder`` stands for ``{train,val}/{images,labels}``. docs/vision.md shows all of them.
        split: the part, in the set's own words; by the section if absent.
        classes: names of the classes in the order of their labels; the layout's if absent.
        ignore: values in label files that do not count, beside 255.
        zero_ignored: whether the value 0 does not count and value v stands for class v - 1; the layout's rule if absent.
        resize: long and short side that pictures are fitted into, without a change of aspect; their own size if absent.
        augment: random changes in training; see docs/vision.md.
        mean: of each channel, in [0, 1].
        std: of each channel.
        phase: train, val or test.
        root: folder that relative paths start from.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        layout: LayoutName = "folder",
        split: str | None = None,
        classes: list[str] | None = None,
        ignore: list[int] | None = None,
        zero_ignored: bool | None = None,
        resize: tuple[int, int] | None = None,
        augment: JointAugmentation | None = None,
        mean: Numbers = IMAGENET_MEAN,
        std: Numbers = IMAGENET_STD,
        phase: Literal["train", "val", "test"] = "train",
        root: Path | None = None,
    ) -> None:
        form = label_set(layout)
        self.layout, self.phase = layout, phase
        check_colours(mean, std)
        self.mean, self.std = list(mean), list(std)
        if resize is not None and min(resize) < 1:
            raise UserError(f"resize must be positive, found {list(resize)}")
        self.resize = (int(resize[0]), int(resize[1])) if resize is not None else None
        self.augment = JointAugmentation.model_validate(augment) if isinstance(augment, dict) else augment
        self.classes = list(classes or form.classes)
        if not self.classes:
            raise UserError(f"the layout {layout!r} does not tell the classes; name them (classes)")
        if len(self.classes) == 1:
            raise UserError("one class: a network cannot learn to tell it from nothing; name the rest as a class of its own (classes)")
        if len(self.classes) > NO_CLASS:
            raise UserError(f"{len(self.classes)} classes: at most {NO_CLASS} fit into 8-bit label files")
        if not all(0 <= value < 256 for value in ignore or []):
            raise UserError(f"ignore = {ignore}: values of 8-bit label files, 0 to 255")
        self.colours = colours_of(layout, len(self.classes))
        self._values = _values(len(self.classes), form.zero_ignored if zero_ignored is None else zero_ignored, ignore or [])
        part = split or form.splits["train" if phase == "train" else "val"]
        base = absolute(root, dataroot)
        self.images, self.labels = (base / each.format(split=part) for each in (form.images, form.labels))
        listing = base / form.listing.format(split=part) if form.listing else None
        self._names = _names(self.images, form.image_ending, listing)
        self._label_ending = form.label_ending

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """The name that tells the sample from others."""
        return self._names[index][0]

    def describe(self, index: int) -> str:
        """What messages call the sample."""
        return str(self._image_file(index))

    def inspect(self, index: int, level: str) -> None:
        """Raise ``UserError`` if the sample cannot be used: a missing label file always, ill sizes and values as the level asks."""
        if not self._label_file(index).is_file():
            raise UserError(f"{self._image_file(index)}: has no label file {self._label_file(index)}")
        if level == "header":
            sizes = [open_picture(file, decode=False).size for file in (self._image_file(index), self._label_file(index))]
            if sizes[0] != sizes[1]:
                raise UserError(f"{self._image_file(index)}: is {sizes[0]}, its labels are {sizes[1]}")
        elif level == "full":
            self._read(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self._read(index)
        if self.phase == "train" and self.augment is not None:
            image, label = augmented(image, label, self.resize, self.augment)
            image, label = filled(self.normalised(image), label, self.augment.crop)
        elif self.phase == "train":
            image = self.normalised(image)
        sample = {"image": image, "label": label, "path": self.key(index)}
        return sample | ({"resize": self.resize} if self.phase != "train" and self.resize is not None else {})

    def normalised(self, image: Tensor) -> Tensor:
        """A uint8 picture as networks take it, float32."""
        return F.normalize_image(F.to_dtype_image(image, torch.float32, scale=True), self.mean, self.std)

    def _image_file(self, index: int) -> Path:
        name, ending = self._names[index]
        return self.images / f"{name}{ending}"

    def _label_file(self, index: int) -> Path:
        return self.labels / f"{self._names[index][0]}{self._label_ending}"

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.asarray(open_picture(self._image_file(index)))
        values = read_labels(self._label_file(index))
        if image.shape[:2] != values.shape:
            raise UserError(f"{self._image_file(index)}: is {image.shape[:2]}, its labels are {values.shape}")
        label = self._values[values]
        if bool((label == NO_CLASS).any()):
            wrong = sorted(set(values[label == NO_CLASS].tolist()))
            raise UserError(f"{self._label_file(index)}: holds {wrong[:8]}, which are no labels of {len(self.classes)} classes")
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(label.astype(np.int64))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """The values in a label file, (h, w): numbers of a palette, or gray.

    Raises:
        UserError: it cannot be read, or holds neither.
    """
    with opened(path) as file:
        mode, values = file.mode, np.asarray(file)
    if mode not in ("L", "P", "1"):
        raise UserError(f"{path}: is a {mode} picture; labels are 8-bit gray or numbers of a palette")
    return values.astype(np.uint8)


def _values(count: int, zero_ignored: bool, ignore: list[int]) -> NDArray[np.uint8]:
    """The label that each of the 256 file values stands for."""
    table = np.full(256, NO_CLASS, np.uint8)
    first = 1 if zero_ignored else 0
    table[first : first + count] = np.arange(count)
    table[[255, *ignore]] = IGNORED
    if zero_ignored:
        table[0] = IGNORED
    return table


def _names(folder: Path, ending: str, listing: Path | None) -> list[tuple[str, str]]:
    """Names of the images below their folder, without and with their ending, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (dataroot); docs/vision.md shows the layouts")
    if listing is not None:
        try:
            names = sorted(line.split()[0] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{listing}: cannot be read as a list of names ({error})") from None
        missing = [name for name in names if not (folder / f"{name}{ending}").is_file()]
        if missing or not names:
            raise UserError(f"{listing}: {f'names {missing[0]}, which is not in {folder}' if missing else 'names no image'}")
        return [(name, ending) for name in names]
    files = [path.relative_to(folder).as_posix() for path in list_images(folder, recursive=True, extensions=IMAGE_EXTENSIONS)]
    found = [(name[: -len(ending)], ending) if ending else tuple(name.rsplit(".", 1)) for name in files if name.endswith(ending)]
    if not found:
        raise UserError(f"{folder}: holds no images{f' that end with {ending}' if ending else ''}")
    return [(name, kind if ending else f".{kind}") for name, kind in found]
