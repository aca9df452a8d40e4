"""2-D state-space scans: every row is a sequence, then every column of the result, from several corners with the same parameters.

The grid is never flattened to one path: rows (or columns) are a batch of short sequences for the one scan operator, so there is no
`order` here. Maps are (b, c, h, w) in channels_last memory. Source: V2M (arXiv 2410.10382), sections 3.2 and 3.3, and its published code.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import group
from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.scan2d import initial_A_log, initial_delta_bias, scan_width, step_rank
from eqmambair.layers.views import channels_first_axis, channels_last_axis
from eqmambair.ops import selective_scan

Layout = Literal["corners", "aligned", "released"]

_D4 = group("d4")
_TURNS = (0, 1, 2, 3)
_MIRROR_COLUMNS, _TRANSPOSE, _MIRROR_ROWS = 4, 5, 6
#: Elements of D4 that the map is moved by before a scan from its upper left corner, and those that move the result: back to where it
#: belongs, except for ``released``, where the published code leaves it transposed, or transposed and mirrored.
_BRANCHES: dict[str, tuple[tuple[int, int], ...]] = {
    "corners": tuple((g, _D4.inverse(g)) for g in _TURNS),
    "aligned": tuple((g, _D4.inverse(g)) for g in (0, _TRANSPOSE, _MIRROR_COLUMNS, 3)),
}
_BRANCHES["released"] = tuple(
    (enter, _D4.product(_TRANSPOSE, _D4.product(slip, leave)))
    for (enter, leave), slip in zip(_BRANCHES["aligned"], (0, 0, _MIRROR_ROWS, _MIRROR_COLUMNS), strict=True)
)
#: Which corners `num_directions` keeps: the upper left one, then the lower right one, then the upper right one.
_KEPT = {1: (0,), 2: (0, 2), 3: (0, 1, 2), 4: (0, 1, 2, 3)}


class LineScan(nn.Module):
    """Scan every row, left to right, or every column, downwards, each by itself: one of the two passes of a 2-D scan.

    Rows read the input through a map of their own at each token (B), and all output maps (C) are ones; columns have it the other way round.

    Args:
        width: channels of the map.
        rank: width of the low-rank path to the steps.
        states: state size N of the recurrence.
        axis: ``rows`` or ``columns``.
        taps: taps of the causal depthwise convolution and SiLU ahead of the scan; 0 for none.

    Source: V2M (arXiv 2410.10382), equations 7-12.
    """

    def __init__(self, width: int, rank: int, states: int, axis: Literal["rows", "columns"], taps: int = 4) -> None:
        super().__init__()
        self.axis, self.taps, self.rank, self.states = axis, taps, rank, states
        if taps:
            self.conv = nn.Conv2d(width, width, (1, taps) if axis == "rows" else (taps, 1), groups=width)
        self.x_proj = nn.Linear(width, rank + states, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        self.A_log = nn.Parameter(initial_A_log(width, states))
        self.D = nn.Parameter(torch.ones(width))
        self.reset_generators()

    def reset_generators(self) -> None:
        """Draw what generates steps and maps: uniform in +-1/sqrt(inputs), the bias so that steps are log-uniform in 0.001 to 0.1."""
        self.x_proj.reset_parameters()
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_delta_bias(self.dt_proj.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d, h, w) -> (n, d, h, w)."""
        rows = self.axis == "rows"
        if self.taps:
            x = F.silu(self.conv(F.pad(x, (self.taps - 1, 0, 0, 0) if rows else (0, 0, self.taps - 1, 0))))
        lines = x.permute(0, 2, 3, 1) if rows else x.permute(0, 3, 2, 1)  # (n, lines, tokens of a line, d)
        u = lines.flatten(0, 1)
        low_rank, mapped = self.x_proj(u).split([self.rank, self.states], dim=-1)
        delta = F.linear(low_rank, self.dt_proj.weight)
        ones = torch.ones_like(mapped)
        B, C = (mapped, ones) if rows else (ones, mapped)
        y = selective_scan(
            u.unsqueeze(2), delta.unsqueeze(2), -self.A_log.exp()[None], B.unsqueeze(2), C.unsqueeze(2), self.D[None],
            self.dt_proj.bias[None],
        ).squeeze(2).unflatten(0, lines.shape[:2])  # fmt: skip
        return y.permute(0, 3, 1, 2) if rows else y.permute(0, 3, 2, 1)


class CornerScan2d(nn.Module):
    """Sum of 2-D scans from several corners of the map: rows first and then columns, as seen from each corner.

    Args:
        width: channels of the map.
        rank, states, taps: see `LineScan`.
        layout: ``corners`` scans the map turned by each quarter turn, so the sum commutes with quarter turns (the paper); ``aligned``
            starts at the upper left (twice, the second time columns first), the upper right and the lower left corner, and commutes with
            transposition; ``released`` is that with the published code's slip, which adds the results transposed or mirrored, on square
            maps only.
        num_directions: corners of the layout ``corners``: 1, 2 (opposite ones), 3 or 4.
        window: side of the windows that are scanned by themselves (our reading of the paper's local windows, for which it gives no
            equations); maps are padded with zeros at the lower right. None scans the whole map.

    Raises:
        ValueError: for an unknown layout or number.

    Source: V2M (arXiv 2410.10382), equations 13-15.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        states: int,
        layout: Layout = "corners",
        num_directions: int = 4,
        taps: int = 4,
        window: int | None = None,
    ) -> None:
        super().__init__()
        if layout not in _BRANCHES:
            raise ValueError(f"layout: {layout!r} is not known; choose one of {', '.join(_BRANCHES)}")
        if num_directions not in _KEPT or (layout != "corners" and num_directions != 4):
            raise ValueError(f"num_directions = {num_directions}: must be 1, 2, 3 or 4, and 4 with the layout {layout!r}")
        if window is not None and window < 1:
            raise ValueError(f"window = {window}: must be at least 1")
        self.square, self.window = layout == "released", window
        branches = [_BRANCHES[layout][i] for i in _KEPT[num_directions]]
        # Branches that exchange the sides of the map cannot share a batch with those that keep them.
        self.batches = [part for part in ([b for b in branches if _exchanges(b[0]) == odd] for odd in (False, True)) if part]
        self.rows = LineScan(width, rank, states, "rows", taps)
        self.columns = LineScan(width, rank, states, "columns", taps)

    def scan(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """The scan from the upper left corner, (n, d, h, w) -> (n, d, h, w); `gate` multiplies the result of either pass."""
        if gate is None:
            return self.columns(self.rows(x))
        return self.columns(self.rows(x) * gate) * gate

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """The sum over the corners, (b, d, h, w) -> (b, d, h, w).

        Raises:
            ValueError: if the map is not square and the layout is ``released``.
        """
        height, width = x.shape[2:]
        if self.square and height != width:
            raise ValueError(f"the layout 'released' exists on square maps only, not on {height}x{width}; use 'aligned' or 'corners'")
        if self.window is not None:
            cut = self.window
            windows = self._sum(_windows(x, cut), None if gate is None else _windows(gate, cut))
            return _joined(windows, cut, height, width)
        return self._sum(x, gate)

    def _sum(self, x: Tensor, gate: Tensor | None) -> Tensor:
        total = []
        for branches in self.batches:
            entering = [_stack(each, branches) for each in ([x] if gate is None else [x, gate])]
            # Strides in the scan's own order, w before h, are what torch.export cannot prove for every size.
            scanned = self.scan(*entering).contiguous(memory_format=torch.channels_last).unflatten(0, (len(branches), -1))
            total += [_D4.act(part, leave) for part, (_, leave) in zip(scanned, branches, strict=True)]
        return torch.stack(total).sum(0)


class V2MMixer(nn.Module):
    """The token mixer of V2M: gated 2-D scans at a multiple of the width, halved and projected back.

    Args:
        channels: channels of the map.
        states: state size N of the recurrence.
        expansion: width of the scans as a multiple of `channels`, rounded down.
        scan: the rest of `CornerScan2d`'s arguments.

    Source: V2M (arXiv 2410.10382), section 3.3. The published networks halve the sum; the paper does not.
    """

    def __init__(self, channels: int, states: int = 16, expansion: float = 2.0, **scan: object) -> None:
        super().__init__()
        width = scan_width(expansion, channels)
        self.in_proj = nn.Linear(channels, width, bias=False)
        self.gate_proj = nn.Linear(channels, width, bias=False)
        self.scan = CornerScan2d(width, step_rank(channels), states, **scan)  # type: ignore[arg-type]
        self.out_proj = nn.Linear(width, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        pixels = channels_last_axis(x)
        gate = channels_first_axis(F.silu(self.gate_proj(pixels)))
        y = self.scan(channels_first_axis(self.in_proj(pixels)), gate)
        return channels_first_axis(self.out_proj(channels_last_axis(y) / 2))


class CornerMixer(nn.Module):
    """2-D scans in the place of VMamba's cross-scan: ``out_proj(norm(scans(silu(conv(in_proj x)))))``, without gates.

    The paper says no more of its pyramids than that the scan is replaced; this is the reading whose parameter counts come nearest.

    Args:
        channels: channels of the map.
        states: state size N of the recurrence.
        expansion: width of the scans as a multiple of `channels`, rounded down.
        conv_bias: whether the depthwise convolution has a bias.
        num_directions: see `CornerScan2d`.
    """

    def __init__(self, channels: int, states: int, expansion: float, conv_bias: bool, num_directions: int) -> None:
        super().__init__()
        width = scan_width(expansion, channels)
        self.in_proj = nn.Linear(channels, width, bias=False)
        self.conv = DepthwiseConv2d(width, width, bias=conv_bias, silu=True)
        self.scan = CornerScan2d(width, step_rank(channels), states, "corners", num_directions, taps=0)
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, channels, bias=False)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w); `order` is what other units of a pyramid walk along, and is not used."""
        features = self.conv(channels_first_axis(self.in_proj(channels_last_axis(x))))
        y = self.out_norm(channels_last_axis(self.scan(features)))
        return channels_first_axis(self.out_proj(y.to(features.dtype)))


def _exchanges(element: int) -> bool:
    """Whether an element of D4 exchanges height and width."""
    return _D4.act(torch.empty(1, 2), element).shape != (1, 2)


def _stack(x: Tensor, branches: list[tuple[int, int]]) -> Tensor:
    """The map as every branch sees it, one after the other along the batch."""
    return torch.cat([_D4.act(x, enter) for enter, _ in branches]).contiguous(memory_format=torch.channels_last)


def _windows(x: Tensor, side: int) -> Tensor:
    """(b, c, h, w) -> (b * windows, c, side, side), padded with zeros at the lower right."""
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    cut = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (b, c, rows of windows, side, columns of windows, side)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _joined(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """What `_windows` cut, put together again: (b, c, height, width)."""
    rows, columns = -(-height // side), -(-width // side)
    cut = windows.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)  # (b, c, rows, side, columns, side)
    return cut.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
