"""Random crops and flips of pairs, and the low-resolution picture that MATLAB's bicubic makes of a crop.

Random numbers come from Python's global generator, as in basicsr; ``eqmambair.data.seeded`` seeds it for every sample.
"""

import random

import numpy as np
import torch
from basicsr.data.transforms import paired_random_crop
from numpy.typing import NDArray

from eqmambair.data.prepare import downscale

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_SUPPORT = 4  # the bicubic kernel is 4 input pixels wide, so widened for antialiasing 4 * scale


def crop_pair(gt: Pixels, lq: Pixels, gt_size: int, scale: int, name: str) -> tuple[Pixels, Pixels]:
    """A random crop of both pictures at the same place: gt_size x gt_size, and gt_size / scale of the small one."""
    gt_crop, lq_crop = paired_random_crop(gt, lq, gt_size, scale, name)
    return gt_crop, lq_crop


def crop_and_shrink(gt: Pixels, gt_size: int, scale: int) -> tuple[Pixels, Pixels]:
    """A random crop and its bicubic low-resolution picture, the same as a crop of the whole picture made smaller.

    Only the crop and the margin that the kernel reaches are made smaller. Sides of ``gt`` must be multiples of the scale.
    """
    height, width = gt.shape[0] // scale, gt.shape[1] // scale
    size = gt_size // scale
    top, left = random.randint(0, height - size), random.randint(0, width - size)
    margin = _SUPPORT + 1
    y0, x0 = max(top - margin, 0), max(left - margin, 0)
    y1, x1 = min(top + size + margin, height), min(left + size + margin, width)
    smaller = downscale(gt[y0 * scale : y1 * scale, x0 * scale : x1 * scale], scale)
    lq = smaller[top - y0 : top - y0 + size, left - x0 : left - x0 + size]
    return gt[top * scale : (top + size) * scale, left * scale : (left + size) * scale], lq


def flip_alike(images: list[Pixels], hflip: bool, rotation: bool) -> list[Pixels]:
    """All pictures flipped and transposed alike, each with probability one half; draws as basicsr's ``augment``, but makes views."""
    horizontal = hflip and random.random() < 0.5
    vertical = rotation and random.random() < 0.5
    transposed = rotation and random.random() < 0.5
    if horizontal:
        images = [image[:, ::-1] for image in images]
    if vertical:
        images = [image[::-1] for image in images]
    if transposed:
        images = [image.transpose(1, 0, 2) for image in images]
    return images


def to_tensor(image: Pixels) -> torch.Tensor:
    """(h, w, c) pixels to a float32 (c, h, w) tensor in [0, 1]; the depth is taken from the type."""
    scaled = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(scaled)
