"""Two sets of layers under one set of names, so that a network is written once and built plain or equivariant.

Widths are counted in fields of `kit.order` channels; for the plain kit a field is a channel.
"""

from typing import Protocol

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from eqmambair.groups import Group, ScanPaths, cross_scan_order
from eqmambair.layers.attention import ChannelAttention
from eqmambair.layers.convolution import DepthwiseGroupConv2d, GroupConv2d, LiftingConv2d, ProjectionConv2d
from eqmambair.layers.drop import FieldDropout
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.norm import ChannelLayerNorm, ChannelScale, FieldLayerNorm2d, FieldScale
from eqmambair.layers.scan2d import CrossScan2d, GroupScan2d
from eqmambair.layers.shuffle import GroupPixelShuffle, GroupPool
from eqmambair.layers.views import channels_first_axis, channels_last_axis


class Pointwise(nn.Module):
    """A linear layer on the channels of every pixel of (b, c, h, w)."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return channels_first_axis(self.linear(channels_last_axis(x)))


class LayerKit(Protocol):
    """What a network asks its layers of. All map (b, c, h, w) to (b, c', h, w) unless their name says otherwise."""

    order: int
    scan_paths: ScanPaths

    def lift(self, in_channels: int, width: int) -> nn.Module: ...
    def conv(self, width_in: int, width_out: int) -> nn.Module: ...
    def pointwise(self, width_in: int, width_out: int) -> nn.Module: ...
    def depthwise(self, width: int, dilation: int = 1) -> nn.Module: ...
    def project(self, width: int, out_channels: int) -> nn.Module: ...
    def norm(self, width: int) -> nn.Module: ...
    def scale(self, width: int) -> nn.Module: ...
    def drop(self, rate: float) -> nn.Module: ...
    def channel_attention(self, width: int, squeeze: int) -> nn.Module: ...
    def scan(self, width: int, states: int, expansion: float) -> nn.Module: ...
    def pixel_shuffle(self, scale: int) -> nn.Module: ...
    def pool(self) -> nn.Module: ...


class PlainKit:
    """Ordinary layers; the scan walks rows and columns both ways."""

    order = 1
    scan_paths: ScanPaths = staticmethod(cross_scan_order)

    def conv(self, width_in: int, width_out: int) -> nn.Module:
        return nn.Conv2d(width_in, width_out, 3, padding=1)

    lift = project = conv

    def pointwise(self, width_in: int, width_out: int) -> nn.Module:
        return Pointwise(nn.Linear(width_in, width_out))

    def depthwise(self, width: int, dilation: int = 1) -> nn.Module:
        return nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width)

    def norm(self, width: int) -> nn.Module:
        return ChannelLayerNorm(width)

    def scale(self, width: int) -> nn.Module:
        return ChannelScale(width)

    def drop(self, rate: float) -> nn.Module:
        return StochasticDepth(rate, "row")

    def channel_attention(self, width: int, squeeze: int) -> nn.Module:
        return ChannelAttention(nn.Linear(width, squeeze), nn.Linear(squeeze, width))

    def scan(self, width: int, states: int, expansion: float) -> nn.Module:
        return CrossScan2d(width, states, expansion)

    def pixel_shuffle(self, scale: int) -> nn.Module:
        return nn.PixelShuffle(scale)

    def pool(self) -> nn.Module:
        return nn.Identity()


class GroupKit:
    """Layers that commute with a group; the scan walks one path for every element.

    Args:
        group: what to commute with.
        init: see `GroupScan2d`.
        element_drop: drop single entries (`FieldDropout`) instead of whole samples.
    """

    def __init__(self, group: Group, init: str = "mamba", element_drop: bool = False) -> None:
        self.group, self.init, self.element_drop = group, init, element_drop
        self.order = group.order
        self.scan_paths: ScanPaths = group.scan_order

    def lift(self, in_channels: int, width: int) -> nn.Module:
        return LiftingConv2d(self.group, in_channels, width)

    def conv(self, width_in: int, width_out: int) -> nn.Module:
        return GroupConv2d(self.group, width_in, width_out)

    def pointwise(self, width_in: int, width_out: int) -> nn.Module:
        return Pointwise(GroupLinear(self.group, width_in, width_out))

    def depthwise(self, width: int, dilation: int = 1) -> nn.Module:
        return DepthwiseGroupConv2d(self.group, width, width, dilation=dilation, fan_in=width if self.init == "published" else 1)

    def project(self, width: int, out_channels: int) -> nn.Module:
        return ProjectionConv2d(self.group, width, out_channels)

    def norm(self, width: int) -> nn.Module:
        return FieldLayerNorm2d(self.group, width)

    def scale(self, width: int) -> nn.Module:
        return FieldScale(self.group, width)

    def drop(self, rate: float) -> nn.Module:
        return FieldDropout(self.group, rate) if self.element_drop else StochasticDepth(rate, "row")

    def channel_attention(self, width: int, squeeze: int) -> nn.Module:
        return ChannelAttention(GroupLinear(self.group, width, squeeze), GroupLinear(self.group, squeeze, width))

    def scan(self, width: int, states: int, expansion: float) -> nn.Module:
        return GroupScan2d(self.group, width, states, expansion, self.init)

    def pixel_shuffle(self, scale: int) -> nn.Module:
        return GroupPixelShuffle(self.group, scale)

    def pool(self) -> nn.Module:
        return GroupPool(self.group)
