"""Weights off their initial values, so that a test sees the whole network: freshly initialised ones hardly use their scan."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from eqmambair.groups import Group
from eqmambair.layers.convolution import DepthwiseGroupConv2d
from eqmambair.layers.scan2d import CrossScan2d, GroupScan2d

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def moved(network: Network, amount: float = 0.1) -> Network:
    """Move every parameter, and draw what feeds the scans as the golden cases do (their README), so that the state term counts."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * amount)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 2.0)
        if isinstance(module, CrossScan2d | GroupScan2d):
            mixed = module.conv.group.order if isinstance(module.conv, DepthwiseGroupConv2d) else 1  # orientations that a layer reads
            module.conv.weight.normal_(std=0.4 * mixed**0.5)  # group filters are sqrt(order) times smaller than their weights
            module.x_proj.weight.normal_(std=2 / (mixed * module.D.shape[-1]) ** 0.5)
            step = module.dt_proj if isinstance(module, CrossScan2d) else module.dt_proj.weight
            step.normal_(std=0.8 / (mixed * module.rank) ** 0.5)
            module.delta_bias.normal_(-0.7, 0.8)
            module.A_log.normal_(-0.3, 0.6)
            module.D.normal_(0.5, 0.5)
    return network.eval()


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
