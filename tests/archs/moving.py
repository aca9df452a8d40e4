"""Weights off their initial values, so that a test sees the whole network: freshly initialised ones hardly use their scan."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from eqmambair.analysis.verification import warmed
from eqmambair.groups import Group

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def moved(network: Network, amount: float = 0.1) -> Network:
    """Move every parameter, and draw what feeds the scans as the golden cases do (their README), so that the state term counts."""
    for parameter in network.parameters():
        size = parameter.square().mean().sqrt() if parameter.dim() > 1 else 1.0  # gains, biases and skips: of the order of one
        parameter.add_(torch.randn_like(parameter) * size * amount)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 2.0)
    return warmed(network).eval()


@torch.no_grad()
def field_error(function: Callable[[Tensor], list[Tensor]], image: Tensor, group: Group) -> float:
    """The largest NMSE between the maps of a moved image and the moved maps, over maps and elements."""
    errors = []
    maps = function(image)
    for element in group.elements:
        for found, x in zip(function(group.act(image, element)), maps, strict=True):
            expected = group.act_field(x, element)
            errors.append(((found - expected).square().sum() / expected.square().sum()).item())
    return max(errors)
