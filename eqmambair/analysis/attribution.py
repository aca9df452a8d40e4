"""LAM: which input pixels the detail in a small square of the output comes from, and how widely they are spread.

Source: Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021. Integrated gradients of a gradient
detector, along a path from a blurred input to the input.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eqmambair.errors import UserError

_UNDER_ROOT = 1e-12  # the root of the detector has no derivative at 0
_FLOOR = 1e-7  # added to the map, over its largest value, before its Gini index


class Box(NamedTuple):
    """A square of the output: its upper left corner and its side, in output pixels."""

    top: int
    left: int
    side: int


@dataclass(frozen=True)
class Attribution:
    """What the square owes to each input pixel.

    Attributes:
        map: absolute value of the attribution, summed over the channels, (h, w) float64, on the CPU.
        gini: inequality of the map: 0 where all pixels count alike, 1 - 1/(h w) where one counts alone.
        total: sum of the attributions of all pixels and channels.
        expected: the detector's value of the input less that of the blurred input, which ``total`` approaches with more steps.
    """

    map: Tensor
    gini: float
    total: float
    expected: float

    @property
    def diffusion_index(self) -> float:
        """DI: 100 (1 - gini); the larger, the more pixels are made use of."""
        return 100 * (1 - self.gini)


def local_attribution(
    model: nn.Module, image: Tensor, box: Box, *, steps: int = 50, kernel_size: int = 9, sigma: float = 1.2
) -> Attribution:
    """Attribute the gradients in a square of the output to the input pixels.

    The derivatives are those that the network's backward pass gives. A network must give the same output for the same input: MambaIRv2 with
    its default routing does.

    Args:
        model: maps images (1, c, h, w) to images of a multiple of their size; its mode is restored.
        image: (1, c, h, w) in [0, 1].
        box: square of the output, at least 2 pixels a side.
        steps: points of the path, each one forward and backward pass.
        kernel_size: side of the blurring kernel, odd.
        sigma: of the blur at the start of the path, input pixels; it falls to 0 in equal steps.

    Raises:
        UserError: the square lies outside the output, the picture is smaller than the kernel, or a gradient is no number.
    """
    if min(image.shape[-2:]) <= kernel_size // 2:
        raise UserError(f"an input of {image.shape[-1]}x{image.shape[-2]} is too small for a blur of {kernel_size}x{kernel_size} pixels")
    if kernel_size % 2 == 0 or steps < 1 or not sigma > 0:
        raise UserError(f"the kernel is odd, sigma positive and there is a step; found {kernel_size}, {sigma} and {steps}")
    training = model.training
    model.eval()
    try:
        baseline = blurred(image, kernel_size, sigma)
        start = _detect(model, baseline, box)
        before = baseline
        total = torch.zeros_like(image, dtype=torch.float64)
        end = start
        for step in range(1, steps + 1):
            point = image if step == steps else blurred(image, kernel_size, sigma * (1 - step / steps))
            at = point.detach().clone().requires_grad_()
            end = _detect(model, at, box)
            (gradient,) = torch.autograd.grad(end, at)
            total += gradient.double() * (point - before).double()
            before = point
    finally:
        model.train(training)
    if not torch.isfinite(total).all():
        raise UserError("the network's gradients are no numbers")
    spread = total.sum(1)[0].abs().cpu()
    return Attribution(spread, gini(spread), total.sum().item(), (end - start).item())


def _detect(model: nn.Module, image: Tensor, box: Box) -> Tensor:
    """The sum, over the square's channels and pixels, of the length of the gradient (differences to the next row and column within it)."""
    output = model(image)
    bottom, right = box.top + box.side, box.left + box.side
    if box.side < 2 or min(box.top, box.left) < 0 or bottom > output.shape[-2] or right > output.shape[-1]:
        size = f"{output.shape[-1]}x{output.shape[-2]}"
        raise UserError(f"the square of {box.side} pixels at row {box.top}, column {box.left} does not lie in the output of {size}")
    square = output[:, :, box.top : bottom, box.left : right].double()
    down = square[:, :, :-1, :-1] - square[:, :, 1:, :-1]
    across = square[:, :, :-1, :-1] - square[:, :, :-1, 1:]
    return (down.square() + across.square() + _UNDER_ROOT).sqrt().sum()


def blurred(image: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """The picture (b, c, h, w) under a normalised Gaussian on an odd grid; the border is mirrored without repeating the edge."""
    at = torch.arange(kernel_size, dtype=torch.float64) - kernel_size // 2
    line = torch.exp(-at.square() / (2 * (sigma + 1e-5) ** 2))
    line = (line / line.sum()).to(image)
    channels, margin = image.shape[1], kernel_size // 2
    padded = nn.functional.pad(image, (margin,) * 4, mode="reflect")
    rows = nn.functional.conv2d(padded, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return nn.functional.conv2d(rows, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def gini(values: Tensor) -> float:
    """The Gini index of values that are not negative: sum_i (2 i - P - 1) v_i / (P sum_i v_i) over the sorted ones, i from 1 to P."""
    ordered = values.double().flatten().sort().values
    largest = ordered[-1].item()
    if largest > 0:
        ordered = ordered / largest + _FLOOR
    count = ordered.numel()
    total = ordered.sum().item()
    if total == 0:
        return 0.0
    ranks = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
    return float((ranks * ordered).sum() / (count * total))
