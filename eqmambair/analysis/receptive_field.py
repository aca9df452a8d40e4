"""ERF: how strongly the central output pixel depends on each input pixel, and the area that holds given shares of it.

Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016; positive part and
shares as in Ding et al., "Scaling Up Your Kernels to 31x31", CVPR 2022.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eqmambair.analysis.outputs import picture_of
from eqmambair.errors import UserError

Sign = Literal["positive", "absolute"]
SHARES = (0.2, 0.3, 0.5, 0.99)


@dataclass(frozen=True)
class Square:
    """The smallest centred square that holds a share of an effective receptive field.

    Attributes:
        share: of the sum.
        side: of the square, pixels, odd; beyond the map it is cut off.
        side_ratio: of its side to the shorter side of the map, at most 1.
        area_ratio: of the part of the map that it covers.
    """

    share: float
    side: int
    side_ratio: float
    area_ratio: float


def effective_receptive_field(model: nn.Module, images: Iterable[Tensor], *, sign: Sign = "positive") -> tuple[Tensor, int, int]:
    """Average over pictures the gradient of the central output pixel, summed over channels, with respect to the input.

    Args:
        model: maps images (1, c, h, w) to images; in evaluation mode for the measurement, its mode is restored.
        images: (1, c, h, w) in [0, 1], all of one size.
        sign: keep the positive part of the gradient, or its absolute value.

    Returns:
        The map, (h, w) float64, summed over the input's channels; how many pictures it is the mean of; and how many were left out because a
        gradient was no number.

    Raises:
        UserError: no picture is left, their sizes differ, or the output has no pixels.
    """
    training = model.training
    model.eval()
    total: Tensor | None = None
    used = left_out = 0
    try:
        for image in images:
            at = image.detach().clone().requires_grad_()
            output = picture_of(model, at)
            (gradient,) = torch.autograd.grad(output[:, :, output.shape[2] // 2, output.shape[3] // 2].sum(), at)
            kept = gradient.double().clamp(min=0) if sign == "positive" else gradient.double().abs()
            field = kept.sum((0, 1)).cpu()
            if total is not None and field.shape != total.shape:
                raise UserError(f"pictures of one size are needed, found {tuple(total.shape)} and {tuple(field.shape)}")
            if torch.isfinite(field).all():
                total = field if total is None else total + field
                used += 1
            else:
                left_out += 1
    finally:
        model.train(training)
    if total is None:
        raise UserError("no picture gives gradients that are numbers" if left_out else "no picture to measure the receptive field on")
    return total / used, used, left_out


def centred_squares(field: Tensor, shares: Iterable[float] = SHARES) -> list[Square]:
    """The smallest square around the central pixel (row h // 2, column w // 2) that holds each share of the map's sum.

    Raises:
        UserError: a share is not in (0, 1], or the map is zero.
    """
    height, width = field.shape
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])  # half the side of the square that a pixel is on the edge of
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring.flatten(), field.double().flatten()).cumsum(0)
    pixels = torch.bincount(ring.flatten()).cumsum(0)
    if not sums[-1] > 0:
        raise UserError("the receptive field is zero: the central output pixel depends on no input pixel")
    found = []
    for share in shares:
        if not 0 < share <= 1:
            raise UserError(f"a share lies between 0 and 1, found {share}")
        half = int((sums / sums[-1] >= share - 1e-12).nonzero()[0])
        side = 2 * half + 1
        found.append(Square(share, side, min(side / min(height, width), 1.0), int(pixels[half]) / (height * width)))
    return found
