"""The blocks of MambaIRv2, over frames: every branch is one ordinary network that sees the maps of all orientations.

Source: MambaIRv2 (arXiv 2411.15269), section 3, and its published code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from eqmambair.layers.frames import Frames, Framing
from eqmambair.layers.norm import ChannelLayerNorm, ChannelScale
from eqmambair.layers.views import positive_width

Connection = Literal["1conv", "3conv"]


class MixingHalf(nn.Module):
    """Half of a block: ``y = x + mixer(norm x)``, ``y = y + feed(norm y)``, and ``y + s x``, where s starts at 1e-4.

    Both branches see the maps of all orientations and add to their own: each is one ordinary network for all frames.

    Args:
        mixer, feed: the branches, from `channels` to `width` channels.
        channels: of all orientations together.
        width: of one orientation.
    """

    def __init__(self, mixer: nn.Module, feed: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.norm1, self.mixer = ChannelLayerNorm(channels), mixer
        self.norm2, self.feed = ChannelLayerNorm(channels), feed
        self.scale = ChannelScale(width)
        nn.init.constant_(self.scale.weight, 1e-4)

    def forward(self, x: Frames, framing: Framing) -> Frames:
        """(b, c, h, w) in each frame -> the same."""
        y = tuple(own + self.mixer(self.norm1(seen)) for own, seen in zip(x, framing.seen(x), strict=True))
        y = tuple(own + self.feed(self.norm2(seen)) for own, seen in zip(y, framing.seen(y), strict=True))
        return tuple(self.scale(before) + after for before, after in zip(x, y, strict=True))


class AttentiveBlock(nn.Module):
    """A half that mixes the pixels of a window, and a half that scans all pixels by category."""

    def __init__(self, window: MixingHalf, state_space: MixingHalf) -> None:
        super().__init__()
        self.window, self.state_space = window, state_space

    def forward(self, x: Frames, framing: Framing) -> Frames:
        """(b, c, h, w) in each frame -> the same."""
        return self.state_space(self.window(x, framing), framing)


class AttentiveGroup(nn.Module):
    """Some blocks and a convolution, with a skip around them.

    Args:
        blocks: the blocks.
        conv: what ends the group, from the channels of all orientations to those of one.
        checkpointing: recompute each block in the backward pass.
    """

    def __init__(self, blocks: Sequence[AttentiveBlock], conv: nn.Module, checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv
        self.checkpointing = checkpointing

    def forward(self, x: Frames, framing: Framing) -> Frames:
        """(b, c, h, w) in each frame -> the same."""
        y = x
        for block in self.blocks:
            recompute = self.checkpointing and torch.is_grad_enabled()
            y = checkpoint(block, y, framing, use_reentrant=False) if recompute else block(y, framing)
        return tuple(own + self.conv(seen) for own, seen in zip(x, framing.seen(y), strict=True))


def residual_convolution(channels: int, width: int, form: Connection) -> nn.Module:
    """The convolution that ends a group of blocks, from `channels` to `width`: one 3x3, or a bottleneck of a quarter of the channels."""
    if form == "1conv":
        return nn.Conv2d(channels, width, 3, padding=1)
    if form == "3conv":
        hidden = positive_width(channels // 4, name="the 3conv bottleneck", rule="a quarter of embed_dim")
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(hidden, hidden, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, width, 3, padding=1),
        )  # fmt: skip
    raise ValueError(f"resi_connection: {form!r} is not known; choose '1conv' or '3conv'")
