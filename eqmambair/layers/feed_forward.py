"""The feed-forward halves of MambaIRv2's blocks: linear layers around a depthwise convolution.

Source: MambaIRv2 (arXiv 2411.15269) and its published code, which uses the gated form in the light network alone.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.linear import small_linear
from eqmambair.layers.norm import ChannelLayerNorm
from eqmambair.layers.views import channels_first_axis, channels_last_axis, divide_exactly


def _depthwise(channels: int, kernel_size: int) -> DepthwiseConv2d:
    if kernel_size % 2 == 0:
        raise ValueError(f"the feed-forward's kernel_size = {kernel_size}: must be odd, so that the map keeps its size")
    return DepthwiseConv2d(channels, channels, kernel_size)


class ConvFeedForward(nn.Module):
    """``squeeze(a + gelu(conv(a)))`` with ``a = gelu(expand(x))``; (b, c_in, h, w) to (b, c, h, w).

    Args:
        channels_in, hidden, channels: widths before, between and after.
        kernel_size: odd side of the depthwise filter, in pixels.
    """

    def __init__(self, channels_in: int, hidden: int, channels: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.expand = small_linear(channels_in, hidden)
        self.conv = _depthwise(hidden, kernel_size)
        self.squeeze = small_linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = channels_first_axis(F.gelu(self.expand(channels_last_axis(x))))
        hidden = hidden + F.gelu(self.conv(hidden))
        return channels_first_axis(self.squeeze(channels_last_axis(hidden)))


class GatedFeedForward(nn.Module):
    """``squeeze(a * conv(norm(b)))``, a and b the halves of ``gelu(expand(x))``; (b, c_in, h, w) to (b, c, h, w).

    Args:
        channels_in, hidden, channels: widths before, between (even) and after.
        kernel_size: odd side of the depthwise filter, in pixels.

    Raises:
        ValueError: if `hidden` is odd.
    """

    def __init__(self, channels_in: int, hidden: int, channels: int, kernel_size: int = 5) -> None:
        super().__init__()
        half = divide_exactly(hidden, by=2, name="the hidden width of the gated feed-forward")
        self.expand = small_linear(channels_in, hidden)
        self.norm = ChannelLayerNorm(half)
        self.conv = _depthwise(half, kernel_size)
        self.squeeze = small_linear(half, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = channels_first_axis(F.gelu(self.expand(channels_last_axis(x)))).chunk(2, dim=1)
        return channels_first_axis(self.squeeze(channels_last_axis(value * self.conv(self.norm(gate)))))
