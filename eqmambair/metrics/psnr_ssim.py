"""PSNR and SSIM of 8-bit pictures as the super-resolution literature reports them.

The arithmetic is basicsr's (`calculate_psnr`, `calculate_ssim`, under these names in its METRIC_REGISTRY); this module adds what has to
hold before the numbers mean anything: equal sizes, a border that leaves something, room for the SSIM window, and one meaning of "Y".
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from eqmambair.errors import UserError

Image: TypeAlias = NDArray[Any]  # (h, w, c), uint8 or uint16

Channel = Literal["y", "rgb", "gray"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
SSIM_WINDOW = 11  # pixels a side, Gaussian of sigma 1.5, valid positions only


def psnr(image: Image, truth: Image, *, crop_border: int, channel: Channel = "y") -> float:
    """Return the peak signal-to-noise ratio in dB; ``inf`` for equal pictures.

    Args:
        image: result, (h, w, c) uint8 or uint16, c = 1 or 3. 16 bit is rounded to 8 bit first.
        truth: ground truth of the same height and width.
        crop_border: pixels left out at each side; the scale, by convention.
        channel: "y" = luma of BT.601 (16 to 235, not rounded; gray counts as R = G = B, as benchmarks read it), "rgb" = mean squared
            error over the three channels, "gray" = one channel of 0 to 255 (colour is converted with 0.299, 0.587, 0.114 and rounded).

    Raises:
        UserError: sizes differ, alpha is present, or the border leaves no pixel.
    """
    from basicsr.metrics import calculate_psnr

    first, second = comparable(image, truth, channel)
    check_measurable(first.shape, crop_border, window=1)
    return float(calculate_psnr(first, second, crop_border=crop_border, test_y_channel=channel == "y"))


def ssim(image: Image, truth: Image, *, crop_border: int, channel: Channel = "y") -> float:
    """Return the structural similarity (Gaussian 11x11 window, valid region); arguments as for `psnr`.

    Raises:
        UserError: as `psnr`, or less than 11 pixels a side are left by the border.
    """
    from basicsr.metrics import calculate_ssim

    first, second = comparable(image, truth, channel)
    check_measurable(first.shape, crop_border, window=SSIM_WINDOW)
    return float(calculate_ssim(first, second, crop_border=crop_border, test_y_channel=channel == "y"))


def check_measurable(shape: tuple[int, ...], crop_border: int, window: int = SSIM_WINDOW) -> None:
    """Raise `UserError` unless an image of shape (h, w, ...) keeps ``window`` pixels a side after the border is cut."""
    height, width = shape[:2]
    if crop_border < 0:
        raise UserError(f"crop_border is {crop_border}; it must not be negative")
    left = min(height, width) - 2 * crop_border
    if left < 1:
        raise UserError(f"a border of {crop_border} pixels leaves nothing of an image of {width}x{height}")
    if left < window:
        raise UserError(f"SSIM needs {window} pixels a side; an image of {width}x{height} keeps {left} inside a border of {crop_border}")


def average(values: Iterable[float]) -> tuple[float, int]:
    """Return the mean of the finite values and how many were infinite (identical pictures); ``inf`` where all were, ``nan`` of none."""
    listed = list(values)
    if any(math.isnan(value) for value in listed):
        raise ValueError("a metric is not a number")
    finite = [value for value in listed if math.isfinite(value)]
    if not finite:
        return (math.inf if listed else math.nan), len(listed)
    return math.fsum(finite) / len(finite), len(listed) - len(finite)


def to_eight_bit(image: Image) -> NDArray[np.uint8]:
    """Return 16-bit pixels rounded to 8 bit (65535 -> 255); 8-bit pixels as they are."""
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise TypeError(f"pixels must be uint8 or uint16, not {image.dtype}")
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def comparable(image: Image, truth: Image, channel: Channel) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both in BGR order (what basicsr's functions expect) or as one channel, 8 bit."""
    if image.shape[:2] != truth.shape[:2]:
        raise UserError(f"sizes differ: {image.shape[1]}x{image.shape[0]} and {truth.shape[1]}x{truth.shape[0]}")
    return _channels(image, channel), _channels(truth, channel)


def _channels(image: Image, channel: Channel) -> NDArray[Any]:
    pixels = to_eight_bit(image if image.ndim == 3 else image[:, :, None])
    if pixels.shape[2] not in (1, 3):
        raise UserError(f"{pixels.shape[2]} channels; PSNR and SSIM are of gray or RGB, without alpha")
    if channel == "gray":
        if pixels.shape[2] == 1:
            return pixels
        return np.rint(pixels @ np.array([0.299, 0.587, 0.114]))[:, :, None].astype(np.uint8)
    if channel not in ("y", "rgb"):
        raise ValueError(f"channel must be one of {', '.join(CHANNELS)}, not {channel!r}")
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, ::-1]
