"""Learned positions and class tokens that fit maps of any size."""

import torch
from torch import Tensor
from torch.nn import functional as F


def resized(grid: Tensor, height: int, width: int) -> Tensor:
    """A learned map (1, c, h, w) at another size, bicubic (align_corners false); at its own size it comes back to the bit."""
    return F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)


def insert_line(x: Tensor, line: Tensor, at: int, dim: int) -> Tensor:
    """Put one more line into x at the index `at` of an axis; what stands there and behind moves on by one.

    By index, not by slices, so that sizes may be free when a network is exported.

    Args:
        x: any shape.
        line: as x, with length 1 along `dim`, or anything that expands to it.
    """
    count = x.shape[dim]
    shape = [1 if axis == dim % x.dim() else side for axis, side in enumerate(x.shape)]
    index = torch.arange(count + 1, device=x.device)
    index = torch.where(index < at, index, torch.where(index == at, count, index - 1))
    return torch.cat([x, line.expand(shape)], dim).index_select(dim, index)


def remove_line(x: Tensor, at: int, dim: int) -> Tensor:
    """Take out the line at the index `at` of an axis."""
    index = torch.arange(x.shape[dim] - 1, device=x.device)
    return x.index_select(dim, index + (index >= at))


def take_line(x: Tensor, at: int, dim: int) -> Tensor:
    """The line at the index `at` of an axis; the axis stays, with length 1."""
    return x.index_select(dim, torch.arange(1, device=x.device) + at)


def insert_cross(x: Tensor, row: Tensor, column: Tensor, top: int, left: int) -> Tensor:
    """Put a row and a column between those of a map; they cross at (top, left) of the result.

    Args:
        x: (b, c, h, w).
        row: (1 or b, c, 1, w).
        column: (1 or b, c, h + 1, 1), the crossing included.
        top, left: from 0 to h, from 0 to w.

    Returns:
        (b, c, h + 1, w + 1).
    """
    return insert_line(insert_line(x, row, top, 2), column, left, 3)


def remove_cross(x: Tensor, top: int, left: int) -> Tensor:
    """Take out the row and the column that cross at (top, left): (b, c, h + 1, w + 1) -> (b, c, h, w)."""
    return remove_line(remove_line(x, left, 3), top, 2)
