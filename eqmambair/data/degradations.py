"""JPEG compression and Gaussian noise as the papers make them: the one place where pictures are degraded, for training and for measuring.

JPEG is OpenCV's codec (libjpeg; colour with 4:2:0 chroma) at an integer quality. Noise is independent, normal, and neither clipped nor
rounded.
"""

import random
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eqmambair.data.transforms import Pixels

JPEG_UNIT = 16  # pixels a side of the largest unit that JPEG codes by itself (2x2 blocks of 8x8 with 4:2:0 chroma)


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return the picture after JPEG compression: (h, w, 1) gray or (h, w, 3) RGB, uint8.

    Args:
        image: of the same kind.
        quality: from 1 (worst) to 100.
    """
    planes = image if image.shape[2] == 1 else np.ascontiguousarray(image[:, :, ::-1])
    written, data = cv2.imencode(".jpg", planes, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"a picture of {image.shape[1]}x{image.shape[0]} cannot be written as JPEG")
    decoded: Any = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if image.shape[2] == 1 else cv2.IMREAD_COLOR)
    pixels: NDArray[np.uint8] = decoded[:, :, None] if image.shape[2] == 1 else decoded[:, :, ::-1]
    return pixels


def crop_and_jpeg(gt: NDArray[np.uint8], gt_size: int, quality: int) -> tuple[Pixels, Pixels]:
    """A random crop, and the same crop of the compressed picture; only the units that the crop and its neighbours lie in are compressed.

    The grid of blocks is that of the whole picture, so a crop begins anywhere within a block, as in a picture that was compressed whole.
    """
    height, width = gt.shape[:2]
    top, left = random.randint(0, height - gt_size), random.randint(0, width - gt_size)
    y0, x0 = (max(start // JPEG_UNIT - 1, 0) * JPEG_UNIT for start in (top, left))
    y1, x1 = (((start + gt_size - 1) // JPEG_UNIT + 2) * JPEG_UNIT for start in (top, left))
    compressed = jpeg(gt[y0:y1, x0:x1], quality)
    lq = compressed[top - y0 : top - y0 + gt_size, left - x0 : left - x0 + gt_size]
    return gt[top : top + gt_size, left : left + gt_size], lq


def benchmark_noise(shape: tuple[int, int, int], sigma: float, seed: int = 0) -> NDArray[np.float64]:
    """Return the noise that the papers measure with, (h, w, c) in units of the pixel range, c = 1 or 3 (RGB).

    numpy's legacy generator is seeded for every picture anew and draws in the order (h, w, c) with the channels as blue, green, red.

    Args:
        shape: of the picture, (h, w, c).
        sigma: standard deviation in 8-bit steps.
        seed: 0 in the papers' tables.
    """
    noise: NDArray[np.float64] = np.random.RandomState(seed).normal(0, sigma / 255, shape)
    return noise[:, :, ::-1].copy()


def benchmark_choice(low: float, high: float, seed: int, name: str, whole: bool) -> float:
    """Return a strength between low and high (both included) that depends on the seed and the picture's name alone."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
    return int(generator.integers(int(low), int(high) + 1)) if whole else float(generator.uniform(low, high))
