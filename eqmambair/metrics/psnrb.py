"""PSNR-B: the peak signal-to-noise ratio that also counts steps at the borders of JPEG's blocks.

Source: Yim and Bovik, "Quality Assessment of Deblocked Images", IEEE Transactions on Image Processing 20(1), 2011, equations 6 to 14:
the mean squared error is increased by the blocking effect factor of the restored picture, which the truth does not enter.
"""

import math
from typing import Any

import numpy as np
from basicsr.metrics.metric_util import to_y_channel
from basicsr.utils.registry import METRIC_REGISTRY
from numpy.typing import NDArray

from eqmambair.errors import UserError
from eqmambair.metrics.psnr_ssim import Channel, Image, check_measurable, comparable

BLOCK = 8  # pixels a side of JPEG's blocks


def psnrb(image: Image, truth: Image, *, crop_border: int, channel: Channel = "gray") -> float:
    """Return the PSNR-B in dB; arguments as for `psnr`. ``inf`` for equal pictures without steps at the borders of blocks.

    Raises:
        UserError: sizes differ, alpha is present, or the border leaves less than 16 pixels a side, in which no border of blocks need lie.
    """
    first, second = comparable(image, truth, channel)
    return calculate_psnrb(first, second, crop_border=crop_border, test_y_channel=channel == "y")


@METRIC_REGISTRY.register()
def calculate_psnrb(img: NDArray[Any], img2: NDArray[Any], crop_border: int, test_y_channel: bool = False) -> float:
    """Return the PSNR-B in dB of ``img``, the restored picture, against ``img2``; over the channels of colour by their mean.

    Args:
        img: uint8, (h, w, c), gray or BGR; the blocks of 8x8 pixels begin in its upper left corner.
        img2: as ``img``, of the same size.
        crop_border: pixels left out at each side; the grid of blocks stays where it is.
        test_y_channel: measure the luma of colour pictures, not rounded.

    Raises:
        UserError: less than 16 pixels a side are left.
    """
    check_measurable(img.shape, crop_border, window=1)
    if min(img.shape[:2]) - 2 * crop_border < 2 * BLOCK:
        raise UserError(f"PSNR-B needs {2 * BLOCK} pixels a side; {img.shape[1]}x{img.shape[0]} with a border of {crop_border} has less")
    inner = (slice(crop_border, img.shape[0] - crop_border), slice(crop_border, img.shape[1] - crop_border))
    first, second = ((to_y_channel(each) if test_y_channel else each)[inner].astype(np.float64) for each in (img, img2))
    error = float(np.mean((first - second) ** 2))
    error += float(np.mean([blocking_effect(first[:, :, plane], crop_border) for plane in range(first.shape[2])]))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def blocking_effect(plane: NDArray[np.float64], start: int = 0) -> float:
    """Return the blocking effect factor of one channel (h, w): how much larger the mean square step at the borders of blocks is than
    elsewhere, times log2(8) / log2(min(h, w)); 0 where it is not larger.

    Args:
        plane: pixels.
        start: row and column of the block that the first pixel is.
    """
    at_borders, elsewhere = [], []
    for axis in (0, 1):
        steps = np.diff(plane, axis=axis) ** 2
        across = np.moveaxis(steps, axis, 0)
        border = (np.arange(1, plane.shape[axis]) + start) % BLOCK == 0  # of the second pixel of each pair
        at_borders.append(across[border].ravel())
        elsewhere.append(across[~border].ravel())
    difference = np.mean(np.concatenate(at_borders)) - np.mean(np.concatenate(elsewhere))
    return float(max(difference, 0)) * math.log2(BLOCK) / math.log2(min(plane.shape))
