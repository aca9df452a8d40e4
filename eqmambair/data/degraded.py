"""Truths that are degraded on the fly: JPEG artefacts or Gaussian noise, from folders or LMDBs."""

import math
import random
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from basicsr.utils.color_util import rgb2ycbcr
from basicsr.utils.registry import DATASET_REGISTRY

from eqmambair.data.datasets import IOBackend, PairedImageDataset
from eqmambair.data.degradations import benchmark_choice, benchmark_noise, crop_and_jpeg, jpeg
from eqmambair.data.stores import ImageStore
from eqmambair.data.transforms import Pixels
from eqmambair.errors import UserError


@DATASET_REGISTRY.register(suffix="eqmambair")
class DegradedImageDataset(PairedImageDataset):
    """Truths, and what JPEG compression or Gaussian noise makes of them on the fly.

    In training a strength, its noise and the crop are drawn anew each time. In validation and tests a picture is degraded alike every time,
    whatever the order, the processes or the seed of the run: noise is that of the papers' tables (`degradations.benchmark_noise`).

    Args:
        dataroot_gt: folder or LMDB of the truths.
        jpeg_quality: quality of OpenCV's JPEG from 1 to 100, or [lowest, highest]; scale 1 and 8-bit pictures only.
        noise_sigma: standard deviation of Gaussian noise in 8-bit steps, or [lowest, highest]; neither clipped nor rounded.
        test_seed: seed of each picture's noise, and of its strength where that is a range, in validation and tests.
        meta_info_file: list of the truths to use, one name a line; all of the folder if absent.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; by the name of the folder if absent.
        gt_size: side of the crops in training, output pixels.
        use_hflip: mirror in training with probability one half.
        use_rot: flip upside down and transpose in training, each with probability one half.
        geometric_augs: both of the above.
        color: channels that are degraded: RGB, the luma of YCbCr (16 to 235) or gray (0 to 255), rounded to whole steps first.
        alpha: what to do with pictures that are partly transparent: refuse them, or drop the channel.
        phase: train, val or test.
        scale: output pixels per input pixel and side; above 1 noise is added to MATLAB's bicubic.
        root: folder that relative paths start from.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        jpeg_quality: int | tuple[int, int] | None = None,
        noise_sigma: float | tuple[float, float] | None = None,
        test_seed: int = 0,
        meta_info_file: str | None = None,
        io_backend: IOBackend | None = None,
        gt_size: int | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        geometric_augs: bool = False,
        color: Literal["rgb", "y", "gray"] = "rgb",
        alpha: Literal["error", "drop"] = "error",
        phase: Literal["train", "val", "test"] = "train",
        scale: int = 1,
        root: Path | None = None,
    ) -> None:
        given = {"jpeg_quality": jpeg_quality, "noise_sigma": noise_sigma, "test_seed": test_seed}
        for key, message in self.argument_problems(given, scale):
            raise UserError(f"{key}: {message}" if key else message)
        super().__init__(
            dataroot_gt=dataroot_gt,
            meta_info_file=meta_info_file,
            io_backend=io_backend,
            gt_size=gt_size,
            use_hflip=use_hflip,
            use_rot=use_rot,
            geometric_augs=geometric_augs,
            color=color,
            alpha=alpha,
            phase=phase,
            scale=scale,
            root=root,
        )
        self.jpeg_quality = None if jpeg_quality is None else _range(jpeg_quality)
        self.noise_sigma = None if noise_sigma is None else _range(noise_sigma)
        self.test_seed = test_seed

    @staticmethod
    def argument_problems(arguments: dict[str, Any], scale: int) -> list[tuple[str | None, str]]:
        """What is wrong with the arguments beyond their types, as (argument or None, message) pairs."""
        quality, sigma = arguments.get("jpeg_quality"), arguments.get("noise_sigma")
        found: list[tuple[str | None, str]] = []
        if (quality is None) == (sigma is None):
            found.append((None, "a degradation is needed: jpeg_quality or noise_sigma, one of the two"))
        if quality is not None:
            low, high = _range(quality)
            if not 1 <= low <= high <= 100:
                found.append(("jpeg_quality", f"expected a number from 1 to 100 or [lowest, highest], found {quality!r}"))
            if scale != 1:
                found.append(("jpeg_quality", f"artefacts are made at scale 1, not {scale}"))
        if sigma is not None:
            low, high = _range(sigma)
            if not 0 <= low <= high < math.inf:
                found.append(("noise_sigma", f"expected a finite number from 0 on or [lowest, highest], found {sigma!r}"))
        if not 0 <= arguments.get("test_seed", 0) < 2**32:
            found.append(("test_seed", f"expected a whole number from 0 to 2**32 - 1, found {arguments['test_seed']!r}"))
        return found

    def draw(self, index: int, gt_size: int | None) -> dict[str, Any]:
        sample = super().draw(index, gt_size)
        if self.noise_sigma is not None:
            channels, height, width = sample["lq"].shape
            sigma = self._strength(self.noise_sigma, index, whole=False)
            if self.phase == "train":
                noise = np.random.normal(0, sigma / 255, (height, width, channels))
            else:
                noise = benchmark_noise((height, width, channels), sigma, self.test_seed)
            sample["lq"] = (sample["lq"].double() + torch.from_numpy(noise.transpose(2, 0, 1))).float()
        return sample

    def _strength(self, between: tuple[float, float], index: int, whole: bool) -> float:
        low, high = between
        if self.phase != "train":
            return benchmark_choice(low, high, self.test_seed, self.keys[index], whole)
        return random.randint(int(low), int(high)) if whole else random.uniform(low, high)

    def _decode(self, store: ImageStore, key: str) -> Pixels:
        image = super()._decode(store, key)
        if self.jpeg_quality is not None and image.dtype != np.uint8:
            raise UserError(f"{store.describe(key)}: has 16 bit; JPEG artefacts are made of 8-bit pictures")
        if self.color == "rgb" or image.shape[2] == 1:
            return image
        return one_channel(image, self.color)

    def _degraded(self, gt: Pixels, index: int) -> Pixels:
        if self.jpeg_quality is None:
            return super()._degraded(gt, index)
        return jpeg(gt.astype(np.uint8, copy=False), int(self._strength(self.jpeg_quality, index, whole=True)))

    def _crop(self, gt: Pixels, lq: Pixels | None, gt_size: int, index: int) -> tuple[Pixels, Pixels]:
        if self.jpeg_quality is None:
            return super()._crop(gt, lq, gt_size, index)
        quality = int(self._strength(self.jpeg_quality, index, whole=True))
        return crop_and_jpeg(gt.astype(np.uint8, copy=False), gt_size, quality)


def one_channel(image: Pixels, color: Literal["y", "gray"]) -> Pixels:
    """Return (h, w, 1) of the type of the RGB picture: the luma of YCbCr (16 to 235 of 255) or gray, rounded."""
    if color == "gray":
        gray: Any = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return gray[:, :, None].astype(image.dtype, copy=False)
    largest = np.iinfo(image.dtype).max
    luma = rgb2ycbcr(image.astype(np.float32) / np.float32(largest), y_only=True)
    return np.rint(luma * largest).astype(image.dtype)[:, :, None]


def _range(value: float | tuple[float, float]) -> tuple[float, float]:
    low, high = value if isinstance(value, (tuple, list)) else (value, value)
    return low, high
