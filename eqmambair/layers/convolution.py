"""Convolutions that commute with a group of turns and mirror images.

Every layer is an ordinary convolution whose weight is gathered from a few base filters: the filter of output orientation t is the base
filter moved by t, and it sees input orientation s as t^-1 s. Source: Group Equivariant Convolutional Networks (Cohen & Welling 2016),
sections 4 and 6; F-Conv (Xie et al. 2022) for the scale of the coefficients.

The learned `weight` holds sqrt(T) times the filter. The published code learns coefficients over a filter basis with that norm, and Adam is
not invariant under a change of scale: with this one a step moves our filters as it moves theirs. For T = 1 a layer is nn.Conv2d.

Filters start in the range of nn.Conv2d, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), where fan_in counts the inputs of one output. `published_init`
repeats the published code instead: there the coefficients have that range, so the filters start sqrt(T) times smaller; depthwise filters
count the inputs of all fields, which makes them smaller still; a projection does not count its orientations.

Feature maps are (b, t*c, h, w), orientation slowest. `fold()` returns the ordinary convolution with the same output.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group
from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.ops import depthwise_conv2d


class _FilterConv2d(nn.Module):
    """What the four layers share: base filters, bias, and the gathered weight. Stride 1, zero padding that keeps the size."""

    pixels: Tensor

    def __init__(
        self, group: Group, shape: tuple[int, ...], kernel_size: int, bias_fields: int, fan_in: int, published_init: bool, dilation: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size = {kernel_size}: must be odd, so that a turn about a pixel's centre keeps the grid")
        self.group, self.kernel_size, self.dilation = group, kernel_size, dilation
        self.fan_in, self.published_init = fan_in, published_init
        self.padding = dilation * (kernel_size // 2)
        self.weight = nn.Parameter(torch.empty(*shape, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(bias_fields)) if bias_fields else None
        grid = torch.arange(kernel_size**2).view(kernel_size, kernel_size)
        moved = torch.stack([group.act(grid, t).reshape(-1) for t in group.elements])  # (t, k*k)
        self.register_buffer("pixels", moved, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw filters and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)); with `published_init` the weights, sqrt(T) times the filters."""
        bound = 1 / math.sqrt(self.fan_in)
        weight_bound = bound if self.published_init else bound * math.sqrt(self.group.order)
        nn.init.uniform_(self.weight, -weight_bound, weight_bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def base_filter(self) -> Tensor:
        """The filters of orientation 0, (..., k, k)."""
        return self.weight / math.sqrt(self.group.order)

    def _moved(self) -> Tensor:
        """The base filters moved by every element: (..., t, k*k)."""
        return self.base_filter().flatten(-2)[..., self.pixels]

    def plain_weight(self) -> Tensor:
        """The weight of the ordinary convolution, (c_out, c_in / groups, k, k)."""
        raise NotImplementedError

    def plain_bias(self) -> Tensor | None:
        """The bias of the ordinary convolution, (c_out): one value a field, shared by the orientations."""
        return None if self.bias is None else self.bias.repeat(self.group.order)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c_out, h, w)."""
        return F.conv2d(x, self.plain_weight(), self.plain_bias(), padding=self.padding, dilation=self.dilation)

    def fold(self) -> nn.Conv2d:
        """The ordinary convolution with the same output."""
        weight, bias = self.plain_weight().detach(), self.plain_bias()
        conv = self._ordinary(weight.shape[1], weight.shape[0], bias is not None).to(weight)
        conv.weight = nn.Parameter(weight.contiguous())
        if bias is not None:
            conv.bias = nn.Parameter(bias.detach().clone())
        return conv

    def _ordinary(self, in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
        return nn.Conv2d(in_channels, out_channels, self.kernel_size, padding=self.padding, dilation=self.dilation, bias=bias)

    def extra_repr(self) -> str:
        return f"group={self.group.name}, weight={tuple(self.weight.shape)}, dilation={self.dilation}, bias={self.bias is not None}"


class LiftingConv2d(_FilterConv2d):
    """Image to feature map: ``y_t = x * (t . W) + b``. Moving the image transforms the feature map.

    Args:
        group: what to commute with.
        in_channels: channels of the image.
        out_fields: fields of the feature map; it has ``group.order * out_fields`` channels.
        kernel_size: odd side of the filter, in pixels.
        bias: whether each output field has a bias.
        published_init: start in the published range; the head of this file has it.
    """

    def __init__(
        self, group: Group, in_channels: int, out_fields: int, kernel_size: int = 3, bias: bool = True, published_init: bool = False
    ) -> None:  # fmt: skip
        fan_in = in_channels * kernel_size**2
        super().__init__(group, (out_fields, in_channels), kernel_size, out_fields if bias else 0, fan_in, published_init)

    def plain_weight(self) -> Tensor:
        return self._moved().permute(2, 0, 1, 3).flatten(0, 1).unflatten(-1, (self.kernel_size, self.kernel_size))


class GroupConv2d(_FilterConv2d):
    """Feature map to feature map: ``y_t = sum_s x_s * (t . W[t^-1 s]) + b``. Commutes with the group.

    Args:
        group: what to commute with.
        in_fields, out_fields: fields before and after; channels are ``group.order`` times as many.
        kernel_size: odd side of the filter, in pixels.
        bias: whether each output field has a bias.
        published_init: start in the published range; the head of this file has it.
    """

    pick: Tensor

    def __init__(
        self, group: Group, in_fields: int, out_fields: int, kernel_size: int = 3, bias: bool = True, published_init: bool = False
    ) -> None:  # fmt: skip
        fan_in = in_fields * group.order * kernel_size**2
        super().__init__(group, (out_fields, in_fields, group.order), kernel_size, out_fields if bias else 0, fan_in, published_init)
        pick = group.relative[:, :, None] * kernel_size**2 + self.pixels[:, None, :]  # (t, s, k*k) into (l, k*k)
        self.register_buffer("pick", pick, persistent=False)

    def plain_weight(self) -> Tensor:
        taps = self.base_filter().flatten(2).flatten(0, 1).t().contiguous()  # (l*k*k, m*n): whole rows are gathered, three times as fast
        m, n, t, k = *self.weight.shape[:3], self.kernel_size
        gathered = taps[self.pick].view(t, t, k, k, m, n)  # (t, s, k, k, m, n)
        return gathered.permute(0, 4, 2, 3, 1, 5).reshape(t * m, k, k, t * n).permute(0, 3, 1, 2)  # in channels_last memory, as maps are


class DepthwiseGroupConv2d(_FilterConv2d):
    """Feature map to feature map, each field by itself: ``y_{m,t} = x_{m // q, t} * (t . W_m) + b_m``. Commutes with the group.

    Args:
        group: what to commute with.
        in_fields: fields before.
        out_fields: fields after, a multiple q of `in_fields`; the q copies of an input field stand side by side.
        kernel_size: odd side of the filter, in pixels.
        dilation: distance of the filter's taps, in pixels.
        bias: whether each output field has a bias.
        silu: whether SiLU follows.
        published_init: start in the published range; the head of this file has it.

    Raises:
        ValueError: if `in_fields` does not divide `out_fields`.
    """

    def __init__(
        self,
        group: Group,
        in_fields: int,
        out_fields: int,
        kernel_size: int = 3,
        dilation: int = 1,
        bias: bool = True,
        silu: bool = False,
        published_init: bool = False,
    ) -> None:
        if out_fields % in_fields:
            raise ValueError(f"out_fields = {out_fields}: must be a multiple of in_fields = {in_fields}")
        self.in_fields, self.silu = in_fields, silu
        fan_in = kernel_size**2 * (out_fields if published_init else 1)
        super().__init__(group, (out_fields,), kernel_size, out_fields if bias else 0, fan_in, published_init, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c_out, h, w)."""
        return depthwise_conv2d(x, self.plain_weight(), self.plain_bias(), self.dilation, self.silu)

    def plain_weight(self) -> Tensor:
        return self._moved().transpose(0, 1).reshape(-1, 1, self.kernel_size, self.kernel_size)

    def _ordinary(self, in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
        return DepthwiseConv2d(self.group.order * self.in_fields, out_channels, self.kernel_size, self.dilation, bias, self.silu)


class ProjectionConv2d(_FilterConv2d):
    """Feature map to image: ``y = sum_t x_t * (t . W) + b``, a sum over the orientations. A transformed feature map gives the moved image.

    Args:
        group: what to commute with.
        in_fields: fields of the feature map.
        out_channels: channels of the image.
        kernel_size: odd side of the filter, in pixels.
        bias: whether each image channel has a bias.
        published_init: start in the published range; the head of this file has it.
    """

    def __init__(
        self, group: Group, in_fields: int, out_channels: int, kernel_size: int = 3, bias: bool = True, published_init: bool = False
    ) -> None:  # fmt: skip
        fan_in = in_fields * kernel_size**2 * (1 if published_init else group.order)
        super().__init__(group, (out_channels, in_fields), kernel_size, out_channels if bias else 0, fan_in, published_init)

    def plain_weight(self) -> Tensor:
        return self._moved().transpose(1, 2).flatten(1, 2).unflatten(-1, (self.kernel_size, self.kernel_size))

    def plain_bias(self) -> Tensor | None:
        return self.bias
