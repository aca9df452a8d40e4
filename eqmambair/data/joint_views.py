"""Random changes of a picture and its labels together, as UPerNet's recipe draws them; torchvision's v2 functions do the work.

Random numbers come from Python's and numpy's global generators; ``eqmambair.data.seeded`` seeds them for every sample. Pictures are uint8
tensors (3, h, w), labels integer tensors (h, w) in which ``IGNORED`` marks pixels that do not count.
"""

import random

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from eqmambair.data.label_sets import IGNORED
from eqmambair.data.views import in_order

Size = tuple[int, int]  # height, width
_TRIES = 10  # beside the first


class JointAugmentation(BaseModel):
    """Random changes of training pictures and their labels, in the order of these keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    ratio: tuple[float, float] = Field((0.5, 2.0), description="range of the factor of the base scale `resize`")
    crop: tuple[int, int] = Field((512, 512), description="height and width of the crop; smaller pictures are filled up")
    cat_max_ratio: float = Field(0.75, gt=0, le=1, description="a crop is drawn anew (up to ten times) while one class has more of it")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a left-right mirror image")
    photometric: bool = Field(True, description="random brightness, contrast, saturation and hue, each with probability one half")

    _ratio = field_validator("ratio")(in_order)

    @field_validator("crop")
    @classmethod
    def _positive(cls, value: Size) -> Size:
        if min(value) < 1:
            raise ValueError(f"both sides must be at least 1, found {list(value)}")
        return value


def fitted(size: Size, scale: Size) -> Size:
    """The size of a picture made to fit into ``scale`` (long and short side, in any order) without a change of aspect."""
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resized(image: Tensor, size: Size) -> Tensor:
    """A picture in another size; bilinear without antialiasing, as the published pipelines resize."""
    return F.resize_image(image, list(size), InterpolationMode.BILINEAR, antialias=False) if image.shape[-2:] != size else image


def resized_labels(labels: Tensor, size: Size) -> Tensor:
    """Labels in another size, each the nearest one."""
    return F.resize_mask(labels[None], list(size))[0] if labels.shape != size else labels


def augmented(image: Tensor, labels: Tensor, base: Size | None, augmentation: JointAugmentation) -> tuple[Tensor, Tensor]:
    """A random view of a picture and its labels: resized, cropped, mirrored, its colours changed; at most as large as the crop.

    Args:
        base: long and short side that a factor of 1 fits the picture into; None: its own.
    """
    a = augmentation
    factor = random.uniform(*a.ratio)
    scale = base if base is not None else (int(image.shape[-2]), int(image.shape[-1]))
    size = fitted((int(image.shape[-2]), int(image.shape[-1])), (max(int(scale[0] * factor), 1), max(int(scale[1] * factor), 1)))
    image, labels = resized(image, size), resized_labels(labels, size)
    top, left, height, width = _crop(labels, a)
    image, labels = F.crop_image(image, top, left, height, width), labels[top : top + height, left : left + width]
    if random.random() < a.hflip:
        image, labels = image.flip(-1), labels.flip(-1)
    return (distorted(image) if a.photometric else image), labels


def filled(image: Tensor, labels: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Zeros and ignored labels at the right and the bottom, up to a size."""
    border = [0, 0, size[1] - int(image.shape[-1]), size[0] - int(image.shape[-2])]
    return F.pad_image(image, border, fill=0), F.pad_mask(labels[None], border, fill=IGNORED)[0]


def _crop(labels: Tensor, augmentation: JointAugmentation) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop in which no class has too large a share, if one is found soon."""
    height, width = (min(most, int(side)) for most, side in zip(augmentation.crop, labels.shape, strict=True))
    for _ in range(1 + (_TRIES if augmentation.cat_max_ratio < 1 else 0)):
        top, left = random.randint(0, labels.shape[0] - height), random.randint(0, labels.shape[1] - width)
        counts = torch.bincount(labels[top : top + height, left : left + width].flatten(), minlength=IGNORED + 1)
        counts[IGNORED] = 0
        if int((counts > 0).sum()) > 1 and float(counts.max()) < augmentation.cat_max_ratio * float(counts.sum()):
            break
    return top, left, height, width


def distorted(image: Tensor) -> Tensor:
    """Random colours: brightness +-32, contrast 0.5..1.5 before or after the rest, saturation 0.5..1.5, hue +-18 of 180 (OpenCV's HSV)."""
    pixels = image.permute(1, 2, 0).numpy()
    coin = [random.random() < 0.5 for _ in range(5)]
    if coin[0]:
        pixels = _linear(pixels, 1.0, random.uniform(-32, 32))
    early = coin[1]
    if early and coin[2]:
        pixels = _linear(pixels, random.uniform(0.5, 1.5), 0.0)
    if coin[3] or coin[4]:
        hue, saturation, value = cv2.split(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2HSV))
        if coin[3]:
            saturation = _linear(saturation, random.uniform(0.5, 1.5), 0.0)
        if coin[4]:
            hue = ((hue.astype(np.int16) + random.randint(-18, 17)) % 180).astype(np.uint8)
        pixels = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
    if not early and coin[2]:
        pixels = _linear(pixels, random.uniform(0.5, 1.5), 0.0)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _linear(pixels: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(pixels.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)
