"""PSNR-B against a case worked by hand, loops, and the published numbers of JPEG on Classic5."""

import math

import numpy as np
import pytest

from eqmambair.data.degradations import jpeg
from eqmambair.data.io import list_images, read_image
from eqmambair.errors import UserError
from eqmambair.metrics import psnr, psnrb, ssim
from eqmambair.metrics.psnrb import blocking_effect
from eqmambair.models.restoration_metrics import measure
from tests.metrics.test_psnr_ssim import luma, picture


def test_step_between_two_blocks_by_hand():
    """16x16, left half 10, right half 20. 32 pairs of pixels cross a border of blocks, 16 of them with a step of 10: mean square 50; all
    others 0. log2(8) / log2(16) = 3/4, so the effect is 37.5, and nothing else is wrong."""
    image = np.full((16, 16, 1), 10, np.uint8)
    image[:, 8:] = 20
    assert blocking_effect(image[:, :, 0].astype(float)) == pytest.approx(37.5)
    assert psnrb(image, image, crop_border=0) == pytest.approx(10 * math.log10(255**2 / 37.5))


def test_smooth_pictures_have_no_blocking_effect():
    """A ramp steps alike everywhere; and a step within blocks is no fault of theirs."""
    ramp = np.arange(24, dtype=np.uint8)[None, :, None].repeat(24, 0)
    within = np.zeros((16, 16, 1), np.uint8)
    within[:, 4:] = 50
    for image in (ramp, within):
        assert blocking_effect(image[:, :, 0].astype(float)) == 0
        assert psnrb(image, image, crop_border=0) == math.inf
        assert psnrb(image + 1, image, crop_border=0) == pytest.approx(psnr(image + 1, image, crop_border=0, channel="gray"))


def looped_effect(plane, block=8):
    """The formula of the paper, pair by pair."""
    height, width = plane.shape
    borders, others = [], []
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                (borders if (x + 1) % block == 0 else others).append((plane[y, x] - plane[y, x + 1]) ** 2)
            if y + 1 < height:
                (borders if (y + 1) % block == 0 else others).append((plane[y, x] - plane[y + 1, x]) ** 2)
    difference = sum(borders) / len(borders) - sum(others) / len(others)
    return max(difference, 0) * math.log2(block) / math.log2(min(height, width))


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (27, 21)])
def test_every_size_follows_the_formula(size):
    truth = (picture(*size, channels=1) // 4 + 100).astype(np.uint8)
    image = jpeg(truth, 3)
    plane = image[:, :, 0].astype(float)
    assert blocking_effect(plane) == pytest.approx(looped_effect(plane))
    error = np.mean((plane - truth[:, :, 0]) ** 2) + looped_effect(plane)
    assert psnrb(image, truth, crop_border=0) == pytest.approx(10 * math.log10(255**2 / error))


def test_cutting_a_border_leaves_the_grid_where_it_is():
    image = np.full((28, 28, 1), 10, np.uint8)
    image[:, 16:] = 20
    inner = image[3:-3, 3:-3, 0].astype(float)
    assert blocking_effect(inner) == 0  # taken for a picture of its own, the step lies within a block
    assert blocking_effect(inner, 3) > 0
    assert math.isfinite(psnrb(image, image, crop_border=3))


def test_colour_is_measured_on_luma_or_on_the_mean_of_three():
    truth = (picture(24, 40) // 4 + 100).astype(np.uint8)
    image = jpeg(truth, 5)
    plain = luma(image), luma(truth)
    error = np.mean((plain[0] - plain[1]) ** 2) + looped_effect(plain[0])
    assert psnrb(image, truth, crop_border=0, channel="y") == pytest.approx(10 * math.log10(255**2 / error), abs=1e-4)
    effect = np.mean([looped_effect(image[:, :, i].astype(float)) for i in range(3)])
    error = np.mean((image.astype(float) - truth) ** 2) + effect
    assert psnrb(image, truth, crop_border=0, channel="rgb") == pytest.approx(10 * math.log10(255**2 / error))
    spec = {"psnrb": {"type": "calculate_psnrb", "crop_border": 0, "test_y_channel": False}}
    assert measure(spec, image, truth, "a")["psnrb"] == pytest.approx(10 * math.log10(255**2 / error))


def test_pictures_without_a_border_of_blocks_are_refused():
    small = np.zeros((16, 15, 1), np.uint8)
    with pytest.raises(UserError, match="PSNR-B needs 16 pixels a side; 15x16"):
        psnrb(small, small, crop_border=0)
    with pytest.raises(UserError, match="too small for the metric psnrb"):
        measure({"psnrb": {"type": "calculate_psnrb", "crop_border": 0}}, small, small, "tiny")


def test_jpeg_on_classic5_gives_the_published_numbers(shared_dir):
    """27.82 dB / 0.7595 / 25.21 dB at quality 10, as every table of JPEG restorers has it."""
    truths = [read_image(path) for path in list_images(shared_dir / "data/Classic5")]
    pairs = [(jpeg(truth, 10), truth) for truth in truths]
    assert len(pairs) == 5
    means = [np.mean([metric(*pair, crop_border=0, channel="gray") for pair in pairs]) for metric in (psnr, ssim, psnrb)]
    assert means == pytest.approx([27.82, 0.7595, 25.21], abs=0.006)
    assert means[1] == pytest.approx(0.7595, abs=0.0001)
