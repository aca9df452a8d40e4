"""Scans over groups of channels: each group has one direction and parameters of its own, and all go through one call of the scan.

Feature maps are (b, c, h, w) in channels_last memory; group g holds the channels from g*c/G on, which is the scan's own layout, so
nothing is split, stacked or copied. Source: GroupMamba (arXiv 2407.13772), section 3, in the form of its published code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.scan2d import initial_A_log, initial_delta_bias, step_rank
from eqmambair.layers.views import channels_first_axis, channels_last_axis, divide_exactly
from eqmambair.ops import selective_scan


class BlockDiagonalLinear(nn.Module):
    """A linear layer for each group of channels, without bias: (..., g, n) -> (..., g, m), weight (g, m, n).

    Args:
        groups: number of groups.
        in_channels, out_channels: channels of one group before and after.
    """

    def __init__(self, groups: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, out_channels, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from U(-1/sqrt(n), 1/sqrt(n))."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...gn,gmn->...gm", x, self.weight)

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}"


class BlockLayerNorm(nn.Module):
    """A layer norm for each group of channels: (..., g, c) -> (..., g, c), weight and bias (g, c)."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, channels))
        self.bias = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class GroupedScan2d(nn.Module):
    """Gated selective scans of G groups of channels, one path each: ``out_proj(norm(scan(silu(conv(in_proj x)))) * silu(gate_proj x))``.

    The published code runs four separate operators ("VSSS") one after another; this is the block-diagonal operator that they make up.

    Args:
        channels: channels of the map, all groups together.
        states: state size N of the recurrence; 1 in the published networks.
        groups: number of groups, and of paths.

    Raises:
        ValueError: if `groups` does not divide `channels`.

    Source: GroupMamba (arXiv 2407.13772), section 3.2, the visual single selective scan.
    """

    def __init__(self, channels: int, states: int = 1, groups: int = 4) -> None:
        super().__init__()
        width = divide_exactly(channels, by=groups, name="the channels of a modulated group Mamba layer")
        rank = step_rank(width)
        self.groups, self.states, self.rank = groups, states, rank
        self.in_proj = BlockDiagonalLinear(groups, width, width)
        self.gate_proj = BlockDiagonalLinear(groups, width, width)
        self.conv = DepthwiseConv2d(channels, channels, silu=True)
        self.x_proj = BlockDiagonalLinear(groups, width, rank + 2 * states)
        self.dt_proj = BlockDiagonalLinear(groups, rank, width)
        self.delta_bias = nn.Parameter(initial_delta_bias(groups, width))
        self.A_log = nn.Parameter(initial_A_log(width, states).repeat(groups, 1, 1))
        self.D = nn.Parameter(torch.ones(groups, width))
        self.out_norm = BlockLayerNorm(groups, width)
        self.out_proj = BlockDiagonalLinear(groups, width, width)

    def forward(self, pixels: Tensor, order: Tensor) -> Tensor:
        """(b, h, w, c), order (groups, h*w) -> (b, h, w, c)."""
        height, width = pixels.shape[1:3]
        x = pixels.unflatten(-1, (self.groups, -1))
        features = self.conv(channels_first_axis(self.in_proj(x).flatten(-2)))
        u = channels_last_axis(features).flatten(1, 2).unflatten(-1, (self.groups, -1))  # (b, l, g, d)
        low_rank, B, C = self.x_proj(u).split([self.rank, self.states, self.states], dim=-1)
        y = selective_scan(u, self.dt_proj(low_rank), -self.A_log.exp(), B, C, self.D, self.delta_bias, order)
        y = self.out_norm(y).unflatten(1, (height, width)) * F.silu(self.gate_proj(x))
        return self.out_proj(y.to(pixels.dtype)).flatten(-2)


class ModulatedGroupMamba(nn.Module):
    """The token mixer of GroupMamba: grouped scans times the normalised input, re-weighted per channel, normalised again and projected.

    With n = norm(x) and one norm used twice: ``proj(norm(skip_scale * scan(n) * n * affinity(n)))``, where the channel affinity
    modulation (CAM) is ``sigmoid(expand(relu(squeeze(mean(n)))))`` over all channels, so that the groups hear of each other.

    Args:
        channels: channels of the map; a multiple of `groups`.
        states: state size N of the scans.
        cam: whether there is a channel affinity modulation.
        reduction: the hidden width of the modulation is ``channels // reduction``.
        groups: number of groups, and of paths.

    Raises:
        ValueError: for a width that does not divide.

    Source: GroupMamba (arXiv 2407.13772), sections 3.2 and 3.3.
    """

    def __init__(self, channels: int, states: int = 1, cam: bool = True, reduction: int = 16, groups: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scan = GroupedScan2d(channels, states, groups)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.squeeze: nn.Linear | None = None
        self.expand: nn.Linear | None = None
        if cam:
            if channels < reduction:
                raise ValueError(f"channels = {channels}: the channel affinity modulation needs at least {reduction}")
            self.squeeze = nn.Linear(channels, channels // reduction)
            self.expand = nn.Linear(channels // reduction, channels)
        self.proj = nn.Linear(channels, channels)

    def affinity(self, normed: Tensor) -> Tensor | float:
        """A factor in (0, 1) for each channel, (b, 1, 1, c), from the normalised map (b, h, w, c); 1 without modulation."""
        if self.squeeze is None or self.expand is None:
            return 1.0
        return self.expand(self.squeeze(normed.mean((1, 2), keepdim=True)).relu()).sigmoid()

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w), order (groups, h*w) -> (b, c, h, w)."""
        normed = self.norm(channels_last_axis(x))
        modulated = self.skip_scale * self.scan(normed, order) * normed * self.affinity(normed)
        return channels_first_axis(self.proj(self.norm(modulated)))
