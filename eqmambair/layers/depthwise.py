"""The depthwise convolution of plain networks, and what an equivariant one folds to."""

from torch import Tensor, nn

from eqmambair.ops import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """An ordinary convolution of each channel by itself, padded to keep the size, in `ops.depthwise_conv2d`.

    Args:
        in_channels: channels before.
        out_channels: channels after, a multiple q of `in_channels`; the q copies of a channel stand side by side.
        kernel_size: odd side of the filter, in pixels.
        dilation: distance of the filter's taps, in pixels.
        bias: whether each channel has a bias.
        silu: whether SiLU follows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, dilation: int = 1, bias: bool = True, silu: bool = False
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, groups=in_channels, bias=bias)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, q*c, h, w)."""
        return depthwise_conv2d(x, self.weight, self.bias, self.dilation[0], self.silu)

    def extra_repr(self) -> str:
        return super().extra_repr() + ", silu=True" * self.silu
