"""The step from features to more pixels: a convolution that makes s^2 times the channels, and a pixel shuffle."""

from torch import Tensor, nn

from eqmambair.layers.convolution import GroupConv2d
from eqmambair.layers.shuffle import GroupPixelShuffle, GroupPool


class ShuffleUpsample(nn.Module):
    """Convolve, shuffle channels to pixels, and pool the orientations if the result is an image; commutes with a group when the parts do.

    Args:
        conv: from the channels to s^2 times the wanted channels.
        shuffle: nn.PixelShuffle or GroupPixelShuffle of scale s.
        pool: GroupPool where the result is an image, else nothing.
    """

    def __init__(self, conv: nn.Module, shuffle: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.shuffle, self.pool = conv, shuffle, pool or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', s*h, s*w)."""
        return self.pool(self.shuffle(self.conv(x)))

    def fold(self) -> nn.Module:
        """The plain convolution and pixel shuffle with the same output: turned cells are an order of the filters, pooling is their mean."""
        if not (isinstance(self.conv, GroupConv2d) and isinstance(self.shuffle, GroupPixelShuffle)):
            return self
        conv = self.conv.fold()
        rows = self.shuffle.source_channels(conv.out_channels)
        rows = rows.view(self.shuffle.group.order if isinstance(self.pool, GroupPool) else 1, -1)
        conv.out_channels = rows.shape[1]
        conv.weight = nn.Parameter(conv.weight.detach()[rows].mean(0))
        if conv.bias is not None:
            conv.bias = nn.Parameter(conv.bias.detach()[rows].mean(0))
        return ShuffleUpsample(conv, nn.PixelShuffle(self.shuffle.scale))


def upsample_steps(scale: int) -> list[int]:
    """The scales of the stages that make up `scale`: twos for a power of two, one three for three.

    Raises:
        ValueError: for any other scale.
    """
    if scale == 3:
        return [3]
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"upscale = {scale}: the pixel-shuffle upsampler makes 3 and powers of two")
    return [2] * (scale.bit_length() - 1)
