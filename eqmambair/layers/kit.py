"""Two sets of layers under one set of names, so that a network is written once and built plain or equivariant.

Widths are counted in fields of `kit.order` channels; for the plain kit a field is a channel.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from eqmambair.groups import Group, ScanPaths, cross_scan_order
from eqmambair.layers import fused
from eqmambair.layers.attention import ChannelAttention
from eqmambair.layers.convolution import DepthwiseGroupConv2d, GroupConv2d, LiftingConv2d, ProjectionConv2d
from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.drop import FieldDropout
from eqmambair.layers.linear import GroupLinear, InvariantLinear
from eqmambair.layers.norm import ChannelLayerNorm, ChannelScale, FieldBatchNorm2d, FieldLayerNorm2d, FieldScale
from eqmambair.layers.scan2d import CrossScan2d, GroupScan2d
from eqmambair.layers.shuffle import GroupPixelShuffle, GroupPool
from eqmambair.layers.strided import StridedGroupConv2d, StridedLiftingConv2d
from eqmambair.layers.views import channels_first_axis, channels_last_axis


class Pointwise(nn.Module):
    """A linear layer on the channels of every pixel of (b, c, h, w)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(b, c, h, w) -> (b, c', h, w), of norm(x) where there is one: no pass over memory of its own in inference."""
        pixels = channels_last_axis(x)
        if norm is not None and not fused.fuses(self.linear, pixels):
            pixels, norm = channels_last_axis(norm(x)), None
        return channels_first_axis(fused.linear(self.linear, pixels, norm=norm))


class LayerKit(Protocol):
    """What a network asks its layers of. All map (b, c, h, w) to (b, c', h, w) unless their name says otherwise."""

    order: int
    scan_paths: ScanPaths

    def lift(self, in_channels: int, width: int) -> nn.Module: ...
    def lift_strided(self, in_channels: int, width: int, kernel_size: int = 3, stride: int = 2) -> nn.Module: ...
    def conv(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module: ...
    def conv_strided(self, width_in: int, width_out: int, kernel_size: int = 3, stride: int = 2) -> nn.Module: ...
    def pointwise(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module: ...
    def depthwise(self, width: int, dilation: int = 1) -> nn.Module: ...
    def project(self, width: int, out_channels: int, bias: bool = True) -> nn.Module: ...
    def readout(self, width: int, out_features: int) -> nn.Module:
        """(b, c) -> (b, out_features), which the group leaves alone."""

    def concat(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of one size, side by side as one map: (b, c_i, h, w) -> (b, sum of c_i, h, w)."""

    def norm(self, width: int) -> nn.Module: ...
    def batch_norm(self, width: int) -> nn.Module: ...
    def scale(self, width: int) -> nn.Module: ...
    def drop(self, rate: float) -> nn.Module: ...
    def channel_attention(self, width: int, squeeze: int) -> nn.Module: ...
    def scan(self, width: int, states: int, expansion: float, gated: bool = True, conv_bias: bool = True) -> nn.Module: ...
    def pixel_shuffle(self, scale: int) -> nn.Module: ...
    def pool(self) -> nn.Module: ...


class PlainKit:
    """Ordinary layers.

    Args:
        scan_paths: the four paths of the scan; the default walks rows and columns both ways.
    """

    order = 1

    def __init__(self, scan_paths: ScanPaths = cross_scan_order) -> None:
        self.scan_paths = scan_paths

    def conv(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module:
        return nn.Conv2d(width_in, width_out, 3, padding=1, bias=bias)

    lift = project = conv

    def conv_strided(self, width_in: int, width_out: int, kernel_size: int = 3, stride: int = 2) -> nn.Module:
        return nn.Conv2d(width_in, width_out, kernel_size, stride=stride, padding=1)

    lift_strided = conv_strided

    def pointwise(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module:
        return Pointwise(nn.Linear(width_in, width_out, bias))

    def readout(self, width: int, out_features: int) -> nn.Module:
        return nn.Linear(width, out_features)

    def concat(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(maps), 1)

    def depthwise(self, width: int, dilation: int = 1) -> nn.Module:
        return DepthwiseConv2d(width, width, dilation=dilation)

    def norm(self, width: int) -> nn.Module:
        return ChannelLayerNorm(width)

    def batch_norm(self, width: int) -> nn.Module:
        return nn.BatchNorm2d(width)

    def scale(self, width: int) -> nn.Module:
        return ChannelScale(width)

    def drop(self, rate: float) -> nn.Module:
        return StochasticDepth(rate, "row")

    def channel_attention(self, width: int, squeeze: int) -> nn.Module:
        return ChannelAttention(nn.Linear(width, squeeze), nn.Linear(squeeze, width))

    def scan(self, width: int, states: int, expansion: float, gated: bool = True, conv_bias: bool = True) -> nn.Module:
        return CrossScan2d(width, states, expansion, gated, conv_bias)

    def pixel_shuffle(self, scale: int) -> nn.Module:
        return nn.PixelShuffle(scale)

    def pool(self) -> nn.Module:
        return nn.Identity()


class GroupKit:
    """Layers that commute with a group; the scan walks one path for every element.

    Args:
        group: what to commute with.
        init: see `GroupScan2d`.
        drop_form: ``sample`` drops whole samples, ``element`` single entries (`FieldDropout`), ``published`` the same ones in all samples.
        exact_any_size: see `StridedGroupConv2d`.
        param_generator: see `GroupScan2d`.
    """

    def __init__(
        self, group: Group, init: str = "mamba", drop_form: str = "sample", exact_any_size: bool = True, param_generator: str = "group"
    ) -> None:
        if drop_form not in ("sample", "element", "published"):
            raise ValueError(f"drop_form: {drop_form!r} is not known; choose 'sample', 'element' or 'published'")
        self.group, self.init, self.drop_form = group, init, drop_form
        self.published_init = init == "published"
        self.exact_any_size, self.param_generator = exact_any_size, param_generator
        self.order = group.order
        self.scan_paths: ScanPaths = group.scan_order

    def lift(self, in_channels: int, width: int) -> nn.Module:
        return LiftingConv2d(self.group, in_channels, width, published_init=self.published_init)

    def lift_strided(self, in_channels: int, width: int, kernel_size: int = 3, stride: int = 2) -> nn.Module:
        return StridedLiftingConv2d(
            self.group, in_channels, width, kernel_size, stride, exact_any_size=self.exact_any_size, published_init=self.published_init
        )

    def conv(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module:
        return GroupConv2d(self.group, width_in, width_out, bias=bias, published_init=self.published_init)

    def conv_strided(self, width_in: int, width_out: int, kernel_size: int = 3, stride: int = 2) -> nn.Module:
        return StridedGroupConv2d(
            self.group, width_in, width_out, kernel_size, stride, exact_any_size=self.exact_any_size, published_init=self.published_init
        )

    def pointwise(self, width_in: int, width_out: int, bias: bool = True) -> nn.Module:
        return Pointwise(GroupLinear(self.group, width_in, width_out, bias))

    def depthwise(self, width: int, dilation: int = 1) -> nn.Module:
        return DepthwiseGroupConv2d(self.group, width, width, dilation=dilation, published_init=self.published_init)

    def project(self, width: int, out_channels: int, bias: bool = True) -> nn.Module:
        return ProjectionConv2d(self.group, width, out_channels, bias=bias, published_init=self.published_init)

    def readout(self, width: int, out_features: int) -> nn.Module:
        return InvariantLinear(self.group, width, out_features, true_fan_in=not self.published_init)

    def concat(self, maps: Sequence[Tensor]) -> Tensor:
        by_orientation = [channels_last_axis(x).unflatten(-1, (self.order, -1)) for x in maps]  # (b, h, w, t, c_i)
        return channels_first_axis(torch.cat(by_orientation, -1).flatten(-2))

    def norm(self, width: int) -> nn.Module:
        return FieldLayerNorm2d(self.group, width)

    def batch_norm(self, width: int) -> nn.Module:
        return FieldBatchNorm2d(self.group, width)

    def scale(self, width: int) -> nn.Module:
        return FieldScale(self.group, width)

    def drop(self, rate: float) -> nn.Module:
        if self.drop_form == "sample":
            return StochasticDepth(rate, "row")
        return FieldDropout(self.group, rate, whole_batch=self.drop_form == "published")

    def channel_attention(self, width: int, squeeze: int) -> nn.Module:
        return ChannelAttention(GroupLinear(self.group, width, squeeze), GroupLinear(self.group, squeeze, width))

    def scan(self, width: int, states: int, expansion: float, gated: bool = True, conv_bias: bool = True) -> nn.Module:
        return GroupScan2d(self.group, width, states, expansion, self.init, gated, conv_bias, self.param_generator)

    def pixel_shuffle(self, scale: int) -> nn.Module:
        return GroupPixelShuffle(self.group, scale)

    def pool(self) -> nn.Module:
        return GroupPool(self.group)
