"""PSNR and SSIM against plain formulas, and what is refused."""

import math

import numpy as np
import pytest

from eqmambair.errors import UserError
from eqmambair.metrics import average, psnr, ssim, to_eight_bit


def picture(height=24, width=31, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def luma(image):
    red, green, blue = (image[:, :, i].astype(np.float64) / 255 for i in range(3))
    return 16 + 65.481 * red + 128.553 * green + 24.966 * blue


def plain_psnr(first, second):
    return 10 * math.log10(255**2 / np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))


def plain_ssim(first, second):
    """The mean over all 11x11 windows, by the formula of Wang et al. 2004."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(first.shape[0] - 10):
        for left in range(first.shape[1] - 10):
            a, b = (image[top : top + 11, left : left + 11].astype(np.float64) for image in (first, second))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * a**2).sum() - mean_a**2, (weights * b**2).sum() - mean_b**2
            both = (weights * a * b).sum() - mean_a * mean_b
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("border", [0, 2, 4])
def test_luma_is_not_rounded_and_the_border_is_cut(border):
    first, second = picture(), picture(seed=1)
    inner = (slice(border, 24 - border), slice(border, 31 - border))
    # basicsr computes luma in float32, the formula above in float64
    assert psnr(first, second, crop_border=border) == pytest.approx(plain_psnr(luma(first)[inner], luma(second)[inner]), abs=1e-4)
    assert ssim(first, second, crop_border=border) == pytest.approx(plain_ssim(luma(first)[inner], luma(second)[inner]), abs=1e-5)


def test_rgb_takes_the_error_over_all_channels():
    first, second = picture(), picture(seed=1)
    assert psnr(first, second, crop_border=0, channel="rgb") == pytest.approx(plain_psnr(first, second), abs=1e-9)
    wanted = np.mean([plain_ssim(first[:, :, i], second[:, :, i]) for i in range(3)])
    assert ssim(first, second, crop_border=0, channel="rgb") == pytest.approx(wanted, abs=1e-9)


def test_gray_is_the_full_range_and_luma_of_gray_is_not():
    first, second = picture(channels=1), picture(channels=1, seed=1)
    full = psnr(first, second, crop_border=0, channel="gray")
    assert full == pytest.approx(plain_psnr(first, second), abs=1e-9)
    # the luma of gray spans 16 to 235, so its errors are smaller by 219 / 255
    assert psnr(first, second, crop_border=0, channel="y") == pytest.approx(full + 20 * math.log10(255 / 219), abs=1e-3)


def test_red_and_blue_are_not_swapped():
    black = np.zeros((16, 16, 3), np.uint8)
    red, blue = black.copy(), black.copy()
    red[:, :, 0] = blue[:, :, 2] = 100
    assert psnr(red, black, crop_border=0) < psnr(blue, black, crop_border=0)


def test_sixteen_bit_is_rounded_to_eight_first():
    first, second = picture(), picture(seed=1)
    jitter = np.random.default_rng(2).integers(-128, 129, first.shape)
    wide = np.clip(first.astype(int) * 257 + jitter, 0, 65535).astype(np.uint16)
    np.testing.assert_array_equal(to_eight_bit(wide), first)
    assert psnr(wide, second, crop_border=2) == psnr(first, second, crop_border=2)


def test_equal_pictures_give_infinity_and_one():
    assert psnr(picture(), picture(), crop_border=2) == math.inf
    assert ssim(picture(), picture(), crop_border=2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "border", "said"),
    [
        (picture(20, 20), picture(20, 21), 0, "sizes differ: 20x20 and 21x20"),
        (picture(20, 20), picture(20, 20), 10, "leaves nothing"),
        (picture(20, 20), picture(20, 20), 5, "SSIM needs 11 pixels"),
        (picture(20, 20), picture(20, 20), -1, "negative"),
        (picture(20, 20, 4), picture(20, 20, 4), 0, "without alpha"),
    ],
)
def test_meaningless_measurements_are_refused_by_name(first, second, border, said):
    with pytest.raises(UserError, match=said):
        ssim(first, second, crop_border=border)


def test_psnr_needs_no_window():
    assert math.isfinite(psnr(picture(5, 5), picture(5, 5, seed=1), crop_border=2))


def test_an_unknown_channel_is_an_error():
    with pytest.raises(ValueError, match="channel"):
        psnr(picture(), picture(), crop_border=0, channel="yuv")


def test_infinite_values_are_counted_not_averaged():
    assert average([30, math.inf, 34]) == (32, 1)
    assert average([math.inf, math.inf]) == (math.inf, 2)
    assert math.isnan(average([])[0])
    with pytest.raises(ValueError, match="not a number"):
        average([1, math.nan])
