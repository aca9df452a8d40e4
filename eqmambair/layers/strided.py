"""Strided convolutions that commute with a group, at every size of the map.

A lattice of every s-th pixel that starts in the top left corner is moved by a turn to one that starts in another corner, so an ordinary
strided convolution breaks the symmetry wherever the lattice leaves pixels over. Here every orientation is sampled on the lattice that
starts in its own corner (`Group.corner`), so that moving the map permutes pairs of filter and lattice. Source: Rotation Equivariant Mamba
for Vision Tasks (arXiv 2603.09138), the equivariant patch embedding and downsampling. The published code always shifts by s - 1 pixels,
which is right only where the lattice leaves s - 1 pixels over; here the shift is what it leaves over (`exact_any_size`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group
from eqmambair.layers.convolution import GroupConv2d, LiftingConv2d

Corners = Sequence[tuple[int, int]]


def lattice_blocks(blocks: Sequence[Tensor], corners: Corners, kernel_size: int, stride: int, exact_any_size: bool) -> Tensor:
    """Move each padded block so that a strided convolution samples it on the lattice that starts in its corner.

    Args:
        blocks: maps of one size, zeros around them included, (b, c, h, w) each.
        corners: for each block whether its lattice starts at the last row and the last column, instead of the first.
        kernel_size, stride: of the convolution, in pixels.
        exact_any_size: see `StridedGroupConv2d`.

    Returns:
        The blocks side by side, (b, sum of c, h, w).
    """
    shifts = [(side - kernel_size) % stride if exact_any_size else stride - 1 for side in blocks[0].shape[-2:]]
    moved = []
    for block, corner in zip(blocks, corners, strict=True):
        # What leaves at one end comes in at the other, where no filter looks; so the size stays a simple one for torch.export.
        turned = [(-shift, axis) for shift, axis, far in zip(shifts, (-2, -1), corner, strict=True) if far]
        moved.append(torch.roll(block, *zip(*turned, strict=True)) if turned else block)
    return torch.cat(moved, 1)


class LatticeConv2d(nn.Module):
    """An ordinary strided convolution that reads blocks of channels on lattices of their own: what the strided group layers fold to.

    Args:
        weight: (c_out, c_in / groups, k, k).
        bias: (c_out) or None.
        corners: see `lattice_blocks`; as many equal blocks of input channels.
        stride, padding: in pixels.
        lifting: the input is one image that is read on every lattice, each lattice making its own share of the output channels.
        exact_any_size: see `StridedGroupConv2d`.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, corners: Corners, stride: int, padding: int, lifting: bool, exact_any_size: bool
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.corners, self.stride, self.padding = tuple(corners), stride, padding
        self.lifting, self.exact_any_size = lifting, exact_any_size

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c_out, ceil(h / stride), ceil(w / stride)) for the published sizes."""
        return lattice_conv2d(
            x, self.weight, self.bias, self.corners, self.stride, self.padding, self.lifting, self.exact_any_size
        )  # fmt: skip


def lattice_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, corners: Corners, stride: int, padding: int, lifting: bool, exact_any_size: bool
) -> Tensor:  # fmt: skip
    """The function behind `LatticeConv2d`, with its arguments; (b, c_in, h, w) -> (b, c_out, h', w')."""
    padded = F.pad(x, (padding,) * 4)
    blocks = [padded] * len(corners) if lifting else padded.chunk(len(corners), 1)
    sampled = lattice_blocks(blocks, corners, weight.shape[-1], stride, exact_any_size)
    return F.conv2d(sampled, weight, bias, stride=stride, groups=len(corners) if lifting else 1)


class StridedLiftingConv2d(LiftingConv2d):
    """Image to a smaller feature map; each orientation of the result samples the image on its own lattice.

    Args:
        group: what to commute with.
        in_channels: channels of the image.
        out_fields: fields of the feature map.
        kernel_size: odd side of the filter, in pixels.
        stride: input pixels for an output pixel and side.
        padding: zeros around the image, in pixels.
        bias: whether each output field has a bias.
        exact_any_size: see `StridedGroupConv2d`.
        published_init: see `LiftingConv2d`.
    """

    def __init__(
        self, group: Group, in_channels: int, out_fields: int, kernel_size: int = 3, stride: int = 2, padding: int = 1, bias: bool = True,
        exact_any_size: bool = True, published_init: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(group, in_channels, out_fields, kernel_size, bias, published_init)
        self.stride, self.padding, self.exact_any_size = stride, padding, exact_any_size
        self.corners = tuple(group.corner(t) for t in group.elements)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, t*m, h', w') with h' = floor((h + 2 padding - kernel_size) / stride) + 1."""
        return lattice_conv2d(
            x, self.plain_weight(), self.plain_bias(), self.corners, self.stride, self.padding, True, self.exact_any_size
        )  # fmt: skip

    def fold(self) -> LatticeConv2d:  # type: ignore[override]  # no nn.Conv2d samples on several lattices
        """The strided convolution with the same output, its filters expanded."""
        return LatticeConv2d(
            self.plain_weight(), self.plain_bias(), self.corners, self.stride, self.padding, True, self.exact_any_size
        )  # fmt: skip


class StridedGroupConv2d(GroupConv2d):
    """Feature map to a smaller feature map; each orientation of the input is sampled on its own lattice. Commutes with the group.

    Args:
        group: what to commute with.
        in_fields, out_fields: fields before and after.
        kernel_size: odd side of the filter, in pixels.
        stride: input pixels for an output pixel and side.
        padding: zeros around the map, in pixels.
        bias: whether each output field has a bias.
        exact_any_size: shift the lattices by as many pixels as the first one leaves over, (side + 2 padding - kernel_size) mod stride: this
            commutes with the group at every size. False always shifts by stride - 1, as the published code does, which commutes only
            where that many are left over; for stride 2 and kernel 3 the two agree on even sides.
        published_init: see `GroupConv2d`.
    """

    def __init__(
        self, group: Group, in_fields: int, out_fields: int, kernel_size: int = 3, stride: int = 2, padding: int = 1, bias: bool = True,
        exact_any_size: bool = True, published_init: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(group, in_fields, out_fields, kernel_size, bias, published_init)
        self.stride, self.padding, self.exact_any_size = stride, padding, exact_any_size
        self.corners = tuple(group.corner(t) for t in group.elements)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t*n, h, w) -> (b, t*m, h', w') with h' = floor((h + 2 padding - kernel_size) / stride) + 1."""
        return lattice_conv2d(
            x, self.plain_weight(), self.plain_bias(), self.corners, self.stride, self.padding, False, self.exact_any_size
        )  # fmt: skip

    def fold(self) -> LatticeConv2d:  # type: ignore[override]  # no nn.Conv2d samples on several lattices
        """The strided convolution with the same output, its filters expanded."""
        return LatticeConv2d(
            self.plain_weight(), self.plain_bias(), self.corners, self.stride, self.padding, False, self.exact_any_size
        )  # fmt: skip
