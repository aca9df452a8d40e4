"""Pictures with a class each: folders of classes, and the sets that torchvision knows by name."""

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from basicsr.utils.registry import DATASET_REGISTRY
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from eqmambair.data.pictures import absolute, open_picture
from eqmambair.data.views import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Interpolation, Preprocessing, View, training_view
from eqmambair.errors import UserError

Numbers = tuple[float, float, float]
Phase = Literal["train", "val", "test"]


class ClassifiedPictures(torch.utils.data.Dataset[dict[str, Any]], ABC):
    """Samples ``{"image": float32 (3, size, size), "label": int, "path": name}``; what all sets of classified pictures share.

    Args:
        classes: their names; a label is a position in this list.
        view: how pictures are seen when testing.
        augment: how they are changed when training; None: not at all.
        phase: train, val or test.
    """

    def __init__(self, classes: list[str], view: Preprocessing, augment: Augmentation | dict[str, Any] | None, phase: Phase) -> None:
        self.classes, self.preprocessing, self.phase = classes, view, phase
        self.augment = Augmentation.model_validate(augment) if isinstance(augment, dict) else augment
        self._views: dict[int | None, View] = {None: self._view(None)}

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The picture, RGB; ``UserError`` naming it where it cannot be read."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Its class."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The name that tells the sample from others."""

    def labelled(self, index: int) -> tuple[Image.Image, int]:
        """The picture and its class."""
        return self.picture(index), self.label(index)

    def describe(self, index: int) -> str:
        """What messages call the sample."""
        return self.key(index)

    def inspect(self, index: int, level: str) -> None:
        """Raise ``UserError`` if the sample cannot be used; ``header`` and ``full`` decode it as far."""
        if level == "full":
            self.picture(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(index, None)

    def draw(self, index: int, size: int | None) -> dict[str, Any]:
        """A sample with a view of this side."""
        if size not in self._views:
            self._views[size] = self._view(size)
        picture, label = self.labelled(index)
        return {"image": self._views[size](picture), "label": label, "path": self.key(index)}

    def _view(self, size: int | None) -> View:
        if self.phase != "train" or self.augment is None:
            return self.preprocessing
        return training_view(self.preprocessing, self.augment, size)


@DATASET_REGISTRY.register(suffix="eqmambair")
class ImageFolderDataset(ClassifiedPictures):
    """A folder with one sub-folder a class, as ImageNet's ``train`` and ``val``.

    Args:
        dataroot: the folder of the classes' folders.
        class_list: text file, one class a line: its folder, then its name for people (the folder's if absent). Only these classes are used,
            in this order; without it all sub-folders by name.
        size: side of the view, pixels.
        crop_pct: side of the view over the shorter side of the resized picture, when testing.
        interpolation: of resizing.
        mean: of each channel, in [0, 1].
        std: of each channel.
        augment: random changes in training; see docs/vision.md.
        phase: train, val or test.
        root: folder that relative paths start from.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        class_list: str | None = None,
        size: int = 224,
        crop_pct: float = 0.875,
        interpolation: Interpolation = "bicubic",
        mean: Numbers = IMAGENET_MEAN,
        std: Numbers = IMAGENET_STD,
        augment: Augmentation | None = None,
        phase: Phase = "train",
        root: Path | None = None,
    ) -> None:
        self.folder = absolute(root, dataroot)
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder}: no such folder (dataroot); docs/vision.md shows the layout: a folder of pictures for each class"
            )
        names = read_class_list(absolute(root, class_list)) if class_list else _sub_folders(self.folder)
        try:
            self.samples = make_dataset(str(self.folder), {folder: label for label, folder in enumerate(names)}, IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise UserError(f"{self.folder}: {' '.join(str(error).split())}") from None
        super().__init__(list(names.values()), Preprocessing(size, crop_pct, interpolation, mean, std), augment, phase)

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        return Path(self.samples[index][0]).relative_to(self.folder).as_posix()

    def describe(self, index: int) -> str:
        return str(self.samples[index][0])

    def label(self, index: int) -> int:
        return int(self.samples[index][1])

    def picture(self, index: int) -> Image.Image:
        return open_picture(self.samples[index][0])

    def inspect(self, index: int, level: str) -> None:
        if level == "header":
            open_picture(self.samples[index][0], decode=False)
        super().inspect(index, level)


@DATASET_REGISTRY.register(suffix="eqmambair")
class TorchvisionDataset(ClassifiedPictures):
    """A classification set of torchvision's, by the name of its class there: CIFAR10, SVHN, Food101, Flowers102 and so on.

    Args:
        dataset: name of the class in ``torchvision.datasets``.
        dataroot: folder that torchvision keeps it in.
        split: train, test or what else the set knows; by the section (train, otherwise test or val) if absent.
        download: fetch it if it is not there.
        size: side of the view, pixels.
        crop_pct: side of the view over the shorter side of the resized picture, when testing.
        interpolation: of resizing.
        mean: of each channel, in [0, 1].
        std: of each channel.
        augment: random changes in training; see docs/vision.md.
        phase: train, val or test.
        root: folder that relative paths start from.
    """

    def __init__(
        self,
        *,
        dataset: str,
        dataroot: str,
        split: str | None = None,
        download: bool = False,
        size: int = 224,
        crop_pct: float = 0.875,
        interpolation: Interpolation = "bicubic",
        mean: Numbers = IMAGENET_MEAN,
        std: Numbers = IMAGENET_STD,
        augment: Augmentation | None = None,
        phase: Phase = "train",
        root: Path | None = None,
    ) -> None:
        kind = getattr(datasets, dataset, None)
        if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset) and "root" in inspect.signature(kind).parameters):
            raise UserError(f"torchvision has no data set {dataset!r} (dataset); CIFAR10, SVHN, Food101, ... are")
        known = inspect.signature(kind).parameters
        arguments: dict[str, Any] = {"root": str(absolute(root, dataroot))}
        if "download" in known:
            arguments["download"] = download
        if "train" in known:
            arguments["train"] = (split or phase) == "train"
        elif "split" in known:
            arguments["split"] = split or ("train" if phase == "train" else "test")
        elif split is not None:
            raise UserError(f"torchvision's {dataset} has no parts; leave 'split' out, and make the parts as folders instead")
        try:
            self.data = kind(**arguments)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"torchvision's {dataset} in {arguments['root']}: {' '.join(str(error).split())}") from error
        self.name = f"{dataset}/{split or phase}"
        super().__init__(_class_names(self.data, dataset), Preprocessing(size, crop_pct, interpolation, mean, std), augment, phase)

    def __len__(self) -> int:
        return len(self.data)

    def key(self, index: int) -> str:
        return f"{self.name}/{index:06d}"

    def label(self, index: int) -> int:
        return self.labelled(index)[1]

    def picture(self, index: int) -> Image.Image:
        return self.labelled(index)[0]

    def labelled(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self.data[index]  # once for both: torchvision decodes at every access
        return picture.convert("RGB"), int(label)


def read_class_list(path: Path) -> dict[str, str]:
    """Folder -> name of each line ``folder [name]``.

    Raises:
        UserError: the file is missing, names nothing, or a folder twice.
    """
    try:
        lines = [line.split(None, 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of classes ({error})") from None
    names = {line[0]: line[-1].strip() for line in lines}
    if not lines or len(names) < len(lines):
        raise UserError(f"{path}: {'names no class' if not lines else 'names a class twice'}")
    return names


def _sub_folders(folder: Path) -> dict[str, str]:
    found = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: holds no folders; one for each class is needed (dataroot)")
    return {name: name for name in found}


def _class_names(data: Any, name: str) -> list[str]:
    """Names of a torchvision set's classes; numbers where it tells none."""
    classes = getattr(data, "classes", getattr(data, "categories", None))
    if classes is not None:
        return [each if isinstance(each, str) else str(each[0]) for each in classes]
    labels = next((getattr(data, each) for each in ("targets", "labels", "_labels") if hasattr(data, each)), None)
    if labels is None:
        raise UserError(f"torchvision's {name} tells no classes; make folders of it and use ImageFolderDataset")
    return [str(each) for each in range(int(max(labels)) + 1)]
