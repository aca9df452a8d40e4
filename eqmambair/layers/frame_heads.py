"""From the frames of a feature map to an image: the output stages of restoration networks whose maps are kept in frames."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.frames import Frames, Framing, each
from eqmambair.layers.upsample import ShuffleUpsample, upsample_steps
from eqmambair.layers.views import divide_exactly

Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", ""]

#: Channels between the body and the image, all orientations together.
UPSAMPLE_CHANNELS = 64


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class SameSizeHead(nn.Module):
    """One convolution: (b, c, h, w) in each frame to an image (b, out, h, w).

    Args:
        width: channels in each frame.
        out_channels: channels of the image.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.project = _conv(width, out_channels)

    def forward(self, frames: Frames, framing: Framing) -> Tensor:
        return framing.merge(each(self.project, frames))


class DirectHead(nn.Module):
    """One convolution and a pixel shuffle: (b, c, h, w) in each frame to an image (b, out, s*h, s*w). Light super-resolution.

    Args:
        order: number of frames.
        width: channels in each frame.
        out_channels: channels of the image.
        scale: s, output pixels per input pixel and side.
    """

    def __init__(self, order: int, width: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = _conv(order * width, scale**2 * out_channels)

    def forward(self, frames: Frames, framing: Framing) -> Tensor:
        images = each(lambda x: F.pixel_shuffle(self.conv(x), self.scale), framing.seen(frames))
        return framing.scaled(self.scale).merge(images)


class ShuffleHead(nn.Module):
    """Convolutions and pixel shuffles in stages: (b, c, h, w) in each frame to an image (b, out, s*h, s*w). Classic super-resolution.

    Args:
        order: number of frames; divides `UPSAMPLE_CHANNELS`.
        width: channels in each frame.
        out_channels: channels of the image.
        scale: s, three or a power of two.
    """

    def __init__(self, order: int, width: int, out_channels: int, scale: int) -> None:
        super().__init__()
        hidden = divide_exactly(UPSAMPLE_CHANNELS, by=order, name="the upsampler's width")
        self.steps = upsample_steps(scale)
        self.before = _conv(order * width, hidden)
        self.upsample = nn.ModuleList(ShuffleUpsample(_conv(order * hidden, hidden * s * s), nn.PixelShuffle(s)) for s in self.steps)
        self.project = _conv(hidden, out_channels)

    def forward(self, frames: Frames, framing: Framing) -> Tensor:
        frames = each(lambda x: F.leaky_relu(self.before(x), 0.01), framing.seen(frames))
        for step, stage in zip(self.steps, self.upsample, strict=True):
            frames = each(stage, framing.seen(frames))
            framing = framing.scaled(step)
        return framing.merge(each(self.project, frames))


class NearestHead(nn.Module):
    """Pixels doubled twice, each time followed by a convolution: (b, c, h, w) in each frame to an image (b, out, 4h, 4w).

    Args:
        order: number of frames; divides `UPSAMPLE_CHANNELS`.
        width: channels in each frame.
        out_channels: channels of the image.
    """

    def __init__(self, order: int, width: int, out_channels: int) -> None:
        super().__init__()
        hidden = divide_exactly(UPSAMPLE_CHANNELS, by=order, name="the upsampler's width")
        self.before = _conv(order * width, hidden)
        self.doubling = nn.ModuleList(_conv(order * hidden, hidden) for _ in range(2))
        self.refine = _conv(order * hidden, hidden)
        self.project = _conv(hidden, out_channels)

    def forward(self, frames: Frames, framing: Framing) -> Tensor:
        frames = each(lambda x: F.leaky_relu(self.before(x), 0.01), framing.seen(frames))
        for conv in self.doubling:
            frames = each(lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), frames)
            framing = framing.scaled(2)
            frames = tuple(F.leaky_relu(conv(seen), 0.2) for seen in framing.seen(frames))
        frames = each(lambda x: F.leaky_relu(self.refine(x), 0.2), framing.seen(frames))
        return framing.merge(each(self.project, frames))


def restoring_head(upsampler: Upsampler, upscale: int | None, order: int, width: int, out_channels: int) -> tuple[int, nn.Module]:
    """The scale and the output stage that two option keys name.

    Raises:
        ValueError: for an unknown upsampler, or a scale that it cannot make.
    """
    if upsampler == "":
        if upscale not in (None, 1):
            raise ValueError(f"upscale = {upscale}: a network without upsampler has upscale 1; name an upsampler")
        return 1, SameSizeHead(width, out_channels)
    if upsampler == "nearest+conv":
        if upscale not in (None, 4):
            raise ValueError(f"upscale = {upscale}: the nearest+conv upsampler makes 4")
        return 4, NearestHead(order, width, out_channels)
    scale = 2 if upscale is None else upscale
    if upsampler == "pixelshuffledirect":
        if scale < 1:
            raise ValueError(f"upscale = {scale}: must be at least 1")
        return scale, DirectHead(order, width, out_channels, scale)
    if upsampler == "pixelshuffle":
        return scale, ShuffleHead(order, width, out_channels, scale)
    raise ValueError(
        f"upsampler: {upsampler!r} is not known; choose 'pixelshuffle', 'pixelshuffledirect', 'nearest+conv' or '' (no upsampling)"
    )
