"""LAM: which input pixels the detail in a small square of the output comes from, and how widely they are spread.

Source: Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021. Integrated gradients of a gradient
detector, along a path from a blurred input to the input.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from eqmambair.errors import UserError
from eqmambair.layers.attentive_scan import PromptRouter

RouterGradient = Literal["straight_through", "none"]

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
        category_changes: share of the tokens, over all steps and routers, whose category changes from one point of the path to the next:
            jumps that gradients do not see. None for a network without routers.
    """

    map: Tensor
    gini: float
    total: float
    expected: float
    category_changes: float | None = None

    @property
    def diffusion_index(self) -> float:
        """DI: 100 (1 - gini); the larger, the more pixels are made use of."""
        return 100 * (1 - self.gini)


def local_attribution(
    model: nn.Module,
    image: Tensor,
    box: Box,
    *,
    steps: int = 50,
    kernel_size: int = 9,
    sigma: float = 1.2,
    router_gradient: RouterGradient = "straight_through",
) -> Attribution:
    """Attribute the gradients in a square of the output to the input pixels.

    The derivatives are those that the network's backward pass gives. Networks that route (MambaIRv2) do so without noise meanwhile,
    whatever they do otherwise: with noise each point of the path would go through another function.

    Args:
        model: maps images (1, c, h, w) to images of a multiple of their size; its mode is restored.
        image: (1, c, h, w) in [0, 1].
        box: square of the output, at least 2 pixels a side.
        steps: points of the path, each one forward and backward pass.
        kernel_size: side of the blurring kernel, odd.
        sigma: of the blur at the start of the path, input pixels; it falls to 0 in equal steps.
        router_gradient: ``straight_through`` goes through the routers as training does; ``none`` is the true derivative almost everywhere,
            in which a category does not move.

    Raises:
        UserError: the square lies outside the output or is a single pixel, the picture is smaller than the kernel, the router gradient is
            unknown, a gradient is no number, or nothing counts (as in a flat picture, which blurring does not change).
    """
    if box.side < 2:
        raise UserError(f"a square of {box.side} pixels has no gradients; it is at least 2 pixels a side")
    if min(image.shape[-2:]) <= kernel_size // 2:
        raise UserError(f"an input of {image.shape[-1]}x{image.shape[-2]} is too small for a blur of {kernel_size}x{kernel_size} pixels")
    if kernel_size % 2 == 0 or steps < 1 or not 0 < sigma < math.inf:
        raise UserError(f"the kernel is odd, sigma positive and finite, and there is a step; found {kernel_size}, {sigma} and {steps}")
    if router_gradient not in get_args(RouterGradient):
        raise UserError(f"router_gradient: {router_gradient!r} is not known; choose 'straight_through' or 'none'")
    training = model.training
    model.eval()
    with _watched_routers(model, router_gradient == "straight_through") as routes:
        try:
            return _integrated(model, image, box, steps, kernel_size, sigma, routes)
        finally:
            model.train(training)


def _integrated(model: nn.Module, image: Tensor, box: Box, steps: int, kernel_size: int, sigma: float, routes: list[Tensor]) -> Attribution:
    before = blurred(image, kernel_size, sigma)
    with torch.no_grad():
        start = end = _detect(model, before, box)
    categories = _collected(routes)
    changed = compared = 0
    total = torch.zeros_like(image, dtype=torch.float64)
    for step in range(1, steps + 1):
        point = image if step == steps else blurred(image, kernel_size, sigma * (1 - step / steps))
        at = point.detach().clone().requires_grad_()
        end = _detect(model, at, box)
        last, categories = categories, _collected(routes)
        (gradient,) = torch.autograd.grad(end, at)
        routes.clear()  # a network that is recomputed in the backward pass routes a second time
        total += gradient.double() * (point - before).double()
        before = point
        changed += int((categories != last).sum())
        compared += categories.numel()
    if not torch.isfinite(total).all():
        raise UserError("the network's gradients are no numbers")
    spread = total.sum(1)[0].abs().cpu()
    if spread.max() == 0:
        raise UserError("no pixel counts: the blur does not change the picture, or the square does not depend on what it changes")
    changes = changed / compared if compared else None
    return Attribution(spread, gini(spread), total.sum().item(), (end - start).item(), changes)


@contextmanager
def _watched_routers(model: nn.Module, straight_through: bool) -> Iterator[list[Tensor]]:
    """Inside, routers draw no noise, have this gradient, and add the categories of their tokens to the list that is given."""
    seen: list[Tensor] = []
    routers = [module for module in model.modules() if isinstance(module, PromptRouter)]
    kept = [(router.eval_routing, router.straight_through) for router in routers]
    hooks = [router.register_forward_hook(lambda _, __, result: seen.append(result[1].detach().flatten())) for router in routers]
    try:
        for router in routers:
            router.eval_routing, router.straight_through = "argmax", straight_through
        yield seen
    finally:
        for router, (routing, gradient) in zip(routers, kept, strict=True):
            router.eval_routing, router.straight_through = routing, gradient
        for hook in hooks:
            hook.remove()


def _collected(seen: list[Tensor]) -> Tensor:
    """The categories of one pass, (tokens of all routers); the list is emptied."""
    categories = torch.cat(seen) if seen else torch.empty(0, dtype=torch.int64)
    seen.clear()
    return categories


def _detect(model: nn.Module, image: Tensor, box: Box) -> Tensor:
    """The sum, over the square's channels and pixels, of the length of the gradient (differences to the next row and column within it)."""
    output = model(image)
    bottom, right = box.top + box.side, box.left + box.side
    if min(box.top, box.left) < 0 or bottom > output.shape[-2] or right > output.shape[-1]:
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
