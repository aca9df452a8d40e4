"""How pictures become the tensors that recognition networks see: views for testing, augmented views for training. timm does the work.

Random numbers come from Python's, numpy's and torch's global generators; ``eqmambair.data.seeded`` seeds them for every sample.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torchvision import transforms

from eqmambair.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
View = Callable[[Image.Image], Tensor]


def in_order(value: tuple[float, float], most: float = math.inf) -> tuple[float, float]:
    """A range, if its ends are positive and in order.

    Raises:
        ValueError: if they are not, or above `most`.
    """
    if not 0 < value[0] <= value[1]:
        raise ValueError(f"both ends must be positive and in order, found {list(value)}")
    if value[1] > most:
        raise ValueError(f"at most {most:g}, found {list(value)}")
    return value


def check_colours(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ``UserError`` unless pictures can be normalised with these."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"mean and std need three numbers each, the latter positive, found {list(mean)} and {list(std)}")


class Augmentation(BaseModel):
    """Random changes of training pictures, in the order of these keys; timm's. Without any of them: a centre crop.

    ``crop``: ``resized`` (a box of random area and aspect, resized), ``padded`` (zeros around, then a box of the final size), ``centre``.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    rotate: float = Field(0.0, ge=0, le=1, description="probability of a turn by a uniform angle in +-180 degrees (nearest, black corners)")
    crop: Literal["resized", "padded", "centre"] = Field("resized", description="which part is seen")
    area: tuple[float, float] = Field((0.08, 1.0), description="share of the picture in a resized crop")
    aspect: tuple[float, float] = Field((3 / 4, 4 / 3), description="aspect of a resized crop")
    padding: int = Field(4, ge=0, description="pixels of black on each side before a padded crop")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a left-right mirror image")
    vflip: float = Field(0.0, ge=0, le=1, description="probability of a top-bottom mirror image")
    auto_augment: str | None = Field(
        None, description="timm's words: rand-m9-mstd0.5-inc1 (RandAugment), original (AutoAugment), augmix-m3-w3"
    )
    color_jitter: float = Field(
        0.0, ge=0, description="strength for brightness, contrast and saturation; without effect beside auto_augment"
    )
    erase: float = Field(0.0, ge=0, le=1, description="probability of random erasing")
    erase_mode: Literal["const", "rand", "pixel"] = Field("pixel", description="what is put there: 0, one colour, noise")
    erase_count: int = Field(1, ge=1, description="boxes at most")

    _area = field_validator("area")(functools.partial(in_order, most=1.0))
    _aspect = field_validator("aspect")(in_order)


@dataclass(frozen=True)
class Preprocessing:
    """The view that a network is tested with: shorter side resized, centre cropped, normalised.

    Args:
        size: side of the square view, pixels.
        crop_pct: side of the view over the shorter side of the resized picture.
        interpolation: of resizing.
        mean: of each channel, in [0, 1].
        std: of each channel.

    Raises:
        UserError: a value is impossible.
    """

    size: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: Sequence[float] = field(default=IMAGENET_MEAN)
    std: Sequence[float] = field(default=IMAGENET_STD)

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop_pct <= 1:
            raise UserError(f"a view needs a size of at least 1 and a crop_pct in (0, 1], found {self.size} and {self.crop_pct}")
        check_colours(self.mean, self.std)

    def crop(self, picture: Image.Image) -> Image.Image:
        """The 8-bit view of an RGB picture, (size, size)."""
        mode = transforms.InterpolationMode(self.interpolation)
        resized = transforms.functional.resize(picture, int(self.size / self.crop_pct), mode)
        return transforms.functional.center_crop(resized, self.size)

    def normalised(self, view: Image.Image) -> Tensor:
        """A view as the network takes it, float32 (3, size, size)."""
        return transforms.functional.normalize(transforms.functional.to_tensor(view), self.mean, self.std)

    def __call__(self, picture: Image.Image) -> Tensor:
        return self.normalised(self.crop(picture))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be kept with weights."""
        return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in asdict(self).items()}


def training_view(view: Preprocessing, augmentation: Augmentation, size: int | None = None) -> View:
    """The random view of a picture that a network is trained with.

    Args:
        size: side, if it is to differ from the testing view's.

    Raises:
        UserError: timm knows no such ``auto_augment``.
    """
    from timm.data import create_transform  # here: timm imports all of its models

    a, side = augmentation, size or view.size
    try:
        parts = create_transform(
            side, is_training=True, separate=True, scale=a.area, ratio=a.aspect, hflip=a.hflip, vflip=a.vflip,
            color_jitter=a.color_jitter, auto_augment=a.auto_augment, interpolation=view.interpolation,
            mean=tuple(view.mean), std=tuple(view.std), re_prob=a.erase, re_mode=a.erase_mode, re_count=a.erase_count,
        )  # fmt: skip
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"augment.auto_augment: {a.auto_augment!r} is no augmentation of timm's ({error})") from error
    crop, change, normalise = parts
    if a.crop != "resized":
        box = transforms.RandomCrop(side, a.padding) if a.crop == "padded" else transforms.Lambda(Preprocessing(side, view.crop_pct).crop)
        crop = transforms.Compose([box, transforms.RandomHorizontalFlip(a.hflip), transforms.RandomVerticalFlip(a.vflip)])
    turn = [transforms.RandomApply([transforms.RandomRotation(180)], p=a.rotate)] if a.rotate else []
    return transforms.Compose([*turn, crop, change, normalise])
