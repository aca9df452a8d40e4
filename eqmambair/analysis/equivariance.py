"""How far a network is from commuting with a group."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.analysis.outputs import picture_of, tensor_of
from eqmambair.errors import UserError
from eqmambair.groups import Group, GroupName
from eqmambair.groups import group as find_group


@dataclass(frozen=True)
class ElementError:
    """The error of one group element.

    Attributes:
        nmse: sum of squared differences between f(g x) and g f(x), over the sum of squares of f(x).
        max_abs: the largest difference.
    """

    nmse: float
    max_abs: float


@torch.no_grad()
def equivariance_maps(model: nn.Module, x: Tensor, group: GroupName | Group = "c4") -> tuple[Tensor, dict[str, Tensor]]:
    """Where f(g x) and g f(x) differ, for every element of a group but the identity, in evaluation mode.

    Args:
        model: maps images to images; its mode is restored.
        x: one image, (1, c, h, w).
        group: ``c2``, ``c4`` or ``d4``.

    Returns:
        f(x), (1, c, s*h, s*w), and by the element's name the root mean square over the channels of g^-1 f(g x) - f(x), (s*h, s*w): turned
        back, so that all maps show the same places.

    Raises:
        UserError: the output has no pixels.
    """
    g = find_group(group)
    training = model.training
    model.eval()
    try:
        y = picture_of(model, x)
        maps = {}
        for element in range(1, g.order):
            upright = g.act(model(g.act(x, element)), g.inverse(element))
            maps[g.element_name(element)] = (upright.double() - y.double()).square().mean(1)[0].sqrt()
    finally:
        model.train(training)
    return y, maps


@torch.no_grad()
def equivariance_error(model: nn.Module, x: Tensor, group: GroupName | Group = "c4") -> dict[str, Any]:
    """Compare f(g x) with g f(x) for every element of a group, in evaluation mode and in the network's own precision.

    Args:
        model: maps images to images (then g moves the output too), or to anything without pixels, such as logits (then it must not change).
            Its mode is restored.
        x: images, (b, c, h, w); any size.
        group: ``c2``, ``c4`` or ``d4``.

    Returns:
        ``{"group": name, "nmse": worst, "max_abs": worst, "elements": {"rot90": {"nmse": .., "max_abs": ..}, ...}}``; the identity is left
        out.

    Raises:
        UserError: the output is no tensor, or has values that are no numbers.
    """
    g = find_group(group)
    training = model.training
    model.eval()
    try:
        y = tensor_of(model, x)
        if not torch.isfinite(y).all():
            raise UserError("the network's outputs are no numbers; there is nothing to compare")
        energy = y.double().square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        elements = {}
        for element in range(1, g.order):
            expected = g.act(y, element) if y.dim() == 4 else y
            difference = (model(g.act(x, element)).double() - expected.double()).abs()
            elements[g.element_name(element)] = ElementError((difference.square().sum() / energy).item(), difference.max().item())
    finally:
        model.train(training)
    return {
        "group": g.name,
        "nmse": max((error.nmse for error in elements.values()), default=0.0),
        "max_abs": max((error.max_abs for error in elements.values()), default=0.0),
        "elements": {name: asdict(error) for name, error in elements.items()},
    }
