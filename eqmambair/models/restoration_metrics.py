"""Reference metrics of a restored picture, by basicsr's functions: uint8, BGR, (h, w, c)."""

from typing import Any

import numpy as np

from eqmambair.errors import UserError
from eqmambair.metrics.psnr_ssim import SSIM_WINDOW
from eqmambair.metrics.psnrb import BLOCK
from eqmambair.models.base import Problem
from eqmambair.models.specs import lookup

_SMALLEST = {"calculate_ssim": SSIM_WINDOW, "calculate_niqe": 96, "calculate_psnrb": 2 * BLOCK}  # side of the window that must fit
TENSOR_METRICS = ("calculate_psnr_pt", "calculate_ssim_pt")  # basicsr's for batches of tensors; pictures are measured here


def metric_problems(metrics: dict[str, dict[str, Any]]) -> list[Problem]:
    """What is wrong with the arguments of metrics, beyond their names and types."""
    found: list[Problem] = []
    for key, spec in metrics.items():
        if spec.get("type") in TENSOR_METRICS:
            usual = spec["type"].removesuffix("_pt")
            found.append((("val", "metrics", key, "type"), f"{spec['type']} measures tensors, not pictures; give {usual}"))
        crop = spec.get("crop_border", 0)
        if not isinstance(crop, int) or isinstance(crop, bool) or crop < 0:
            found.append((("val", "metrics", key, "crop_border"), f"expected a whole number from 0 on, found {crop!r}"))
        for name, choices in (("better", ("higher", "lower")), ("input_order", ("HWC",))):
            if spec.get(name, choices[0]) not in choices:
                found.append((("val", "metrics", key, name), f"expected {' or '.join(choices)}, found {spec[name]!r}"))
    return found


def measure(metrics: dict[str, dict[str, Any]], restored: np.ndarray, truth: np.ndarray, name: str) -> dict[str, float]:
    """The value of each metric.

    Args:
        metrics: name -> mapping with a ``type`` and its arguments.
        restored: uint8 RGB or gray, (h, w, c).
        truth: as ``restored``, of the same size.
        name: what errors call the picture.

    Raises:
        UserError: sizes differ, or the picture is too small for the metric and its crop.
    """
    if restored.shape != truth.shape:
        raise UserError(f"{name}: restored is {restored.shape}, the truth is {truth.shape}; do scale, network and data agree?")
    values = {}
    for key, spec in metrics.items():
        arguments = {each: value for each, value in spec.items() if each not in ("type", "better")}
        crop = arguments.get("crop_border", 0)
        left = min(restored.shape[:2]) - 2 * crop
        if left < _SMALLEST.get(spec["type"], 1):
            raise UserError(f"{name}: {restored.shape[1]}x{restored.shape[0]} is too small for the metric {key} with crop_border {crop}")
        value = lookup("metric", spec["type"])(img=_bgr(restored), img2=_bgr(truth), **arguments)
        values[key] = float(value)
    return values


def _bgr(image: np.ndarray) -> np.ndarray:
    return image[:, :, ::-1] if image.shape[2] == 3 else image
