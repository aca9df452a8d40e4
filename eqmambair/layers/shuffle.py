"""From channels to pixels and from orientations to one image, without losing the group."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group


class GroupPixelShuffle(nn.Module):
    """Pixel shuffle whose s x s cells turn with their orientation: c*s^2 fields -> c fields, s times as many pixels a side.

    A pure permutation, exact in floating point; commutes with the group. In orientation t the cell is ``t . Q``, where Q is what
    nn.PixelShuffle would put there.

    Args:
        group: what to commute with.
        scale: s, output pixels per input pixel and side.

    Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), EQ-PixelShuffle.
    """

    cells: Tensor

    def __init__(self, group: Group, scale: int) -> None:
        super().__init__()
        self.group, self.scale = group, scale
        cell = torch.arange(scale * scale).view(scale, scale)
        self.register_buffer("cells", torch.stack([group.act(cell, t).reshape(-1) for t in group.elements]), persistent=False)  # (t, s*s)

    def source_channels(self, channels: int) -> Tensor:
        """The channel that nn.PixelShuffle must find at each place, (t * c * s*s)."""
        per_orientation = channels // self.group.order
        t = torch.arange(self.group.order, device=self.cells.device).view(-1, 1, 1) * per_orientation
        field = torch.arange(0, per_orientation, self.scale**2, device=self.cells.device).view(1, -1, 1)
        return (t + field + self.cells[:, None, :]).reshape(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t*c*s*s, h, w) -> (b, t*c, s*h, s*w)."""
        return F.pixel_shuffle(x[:, self.source_channels(x.shape[1])], self.scale)

    def extra_repr(self) -> str:
        return f"group={self.group.name}, scale={self.scale}"


class GroupPool(nn.Module):
    """Mean over the orientations: feature map (b, t*c, h, w) to image (b, c, h, w), which moves with the group."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.group.order, -1)).mean(1)
