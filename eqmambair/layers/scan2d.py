"""Selective scans over pixels: every token reads what its paths have seen before it.

Both units look at the map along several paths (`order`, data that the network makes once for all its blocks) and call the one scan
operator; they differ in who owns a path. Feature maps are (b, c, h, w) in channels_last memory.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group
from eqmambair.layers import fused
from eqmambair.layers.convolution import DepthwiseGroupConv2d
from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.linear import GroupLinear, OrientationLinear
from eqmambair.layers.norm import FieldLayerNorm
from eqmambair.layers.views import channels_first_axis, channels_last_axis, divide_exactly, positive_width
from eqmambair.ops import low_rank_scan, selective_scan, takes_low_rank


def step_rank(embed_dim: int) -> int:
    """Width of the low-rank path to the steps: ceil(embed_dim / 16)."""
    return math.ceil(embed_dim / 16)


def scan_width(expansion: float, embed_dim: int) -> int:
    """Width of the scan, int(expansion * embed_dim); the product is a float, and the published networks round it down."""
    return positive_width(int(expansion * embed_dim), name="the scan", rule=f"int({expansion} * {embed_dim})")


def initial_A_log(channels: int, states: int) -> Tensor:
    """log(1), ..., log(N) for every channel, (d, n): the S4D-real initialisation of Mamba (arXiv 2312.00752, section 3.6)."""
    return torch.arange(1, states + 1, dtype=torch.float32).log().repeat(channels, 1)


def initial_delta_bias(*shape: int, step_min: float = 1e-3, step_max: float = 0.1, floor: float = 1e-4) -> Tensor:
    """Biases whose softplus is log-uniform in [step_min, step_max], never below `floor` (Mamba, section 3.6)."""
    step = torch.exp(torch.rand(shape) * math.log(step_max / step_min) + math.log(step_min)).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))


class CrossScan2d(nn.Module):
    """The 2-D scan unit of MambaIR: four paths with parameters of their own read the same features, and their results are added.

    Args:
        channels: width of the map.
        states: state size N of the recurrence.
        expansion: width of the scan as a multiple of `channels`, rounded down.
        gated: whether a second projection of the input gates the result, as in MambaIR; VMamba has none.
        conv_bias: whether the depthwise convolution has a bias.
        paths: number of paths; 4 for rows and columns both ways.
        conv: whether there is a depthwise convolution.

    Source: MambaIR (arXiv 2402.15648), section 3.3, equations 7-9; VMamba (arXiv 2401.10166), SS2D.
    """

    def __init__(
        self, channels: int, states: int = 16, expansion: float = 2.0, gated: bool = True, conv_bias: bool = True, paths: int = 4,
        conv: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        width, rank, k = scan_width(expansion, channels), step_rank(channels), paths
        self.paths, self.states, self.rank = paths, states, rank
        self.in_proj = nn.Linear(channels, width, bias=False)
        self.gate_proj = nn.Linear(channels, width, bias=False) if gated else None
        self.conv = DepthwiseConv2d(width, width, bias=conv_bias, silu=True) if conv else nn.SiLU()
        self.x_proj = nn.Linear(width, k * (rank + 2 * states), bias=False)
        self.dt_proj = nn.Parameter(torch.empty(k, width, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.delta_bias = nn.Parameter(initial_delta_bias(k, width))
        self.A_log = nn.Parameter(initial_A_log(width, states).repeat(k, 1, 1))
        self.D = nn.Parameter(torch.ones(k, width))
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, channels, bias=False)

    def inner(self, x: Tensor) -> Tensor:
        """What the paths read: (b, c, h, w) -> (b, h, w, d)."""
        return channels_last_axis(self.conv(channels_first_axis(self.in_proj(channels_last_axis(x)))))

    def forward(self, x: Tensor, order: Tensor, norm: nn.Module | None = None, skip_scale: Tensor | None = None) -> Tensor:
        """(b, c, h, w), order (paths, h*w) or (b, paths, h*w) -> (b, c, h, w); `norm` and `skip_scale` as of `GroupScan2d`."""
        skip = None if skip_scale is None else channels_last_axis(x)
        x = x if norm is None else norm(x)
        features = self.inner(x)
        u = features.flatten(1, 2)  # (b, l, d)
        mixed = self.x_proj(u).unflatten(-1, (self.paths, -1))
        low_rank, B, C = mixed.split([self.rank, self.states, self.states], dim=-1)
        scanned = (-self.A_log.exp(), B, C, self.D, self.delta_bias, order)
        if takes_low_rank(u, self.rank):
            y = low_rank_scan(u.unsqueeze(2), low_rank, self.dt_proj.mT, *scanned)
        else:
            y = selective_scan(u.unsqueeze(2), torch.einsum("blgr,gdr->blgd", low_rank, self.dt_proj), *scanned)
        y = self.out_norm(y.sum(2).unflatten(1, features.shape[1:3]))
        if self.gate_proj is not None:
            y = y * F.silu(self.gate_proj(channels_last_axis(x)))
        return channels_first_axis(fused.linear(self.out_proj, y, skip=skip, skip_scale=skip_scale))


class GroupScan2d(nn.Module):
    """The equivariant scan unit of EQ-MambaIR: every orientation has one path, and all share one set of parameters.

    Commutes with the group. The depthwise convolution widens the map by the group's order, so the scan runs over as many channels in all
    as in `CrossScan2d`. Nothing is summed over the paths; the linear layer behind the norm mixes the orientations.

    Args:
        group: what to commute with; `order` must come from its `scan_order`.
        fields: fields of the map.
        states: state size N of the recurrence.
        expansion: scan fields as a multiple of the map's channels (not fields), rounded down.
        init: ``mamba`` draws the step path symmetric in +-R^-1/2, as Mamba does, and filters from the range of nn.Conv2d;
            ``published`` repeats the published code, where both ends of the range have one sign (all weights start at R^-1/2), and
            filters start smaller (`eqmambair.layers.convolution`).
        gated: whether a second projection of the input gates the result and a mixing layer stands before the gate, as in EQ-MambaIR;
            EQ-VMamba has neither.
        conv_bias: whether the depthwise convolution has a bias.
        generator: what makes steps and maps from the features: ``group`` linear layers, or ``independent`` ones, the same for every
            orientation but without mixing them (the paper's ablation).

    Raises:
        ValueError: if the scan width is no multiple of the group's order, or `generator` is unknown.

    Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), EQ cross-scan and group Mamba block.
    """

    def __init__(
        self, group: Group, fields: int, states: int = 16, expansion: float = 2.0, init: str = "mamba", gated: bool = True,
        conv_bias: bool = True, generator: str = "group",
    ) -> None:  # fmt: skip
        super().__init__()
        if generator not in ("group", "independent"):
            raise ValueError(f"param_generator: {generator!r} is not known; choose 'group' or 'independent'")
        generate = GroupLinear if generator == "group" else OrientationLinear
        channels = group.order * fields
        width = scan_width(expansion, channels)
        inner = divide_exactly(width, by=group.order, name=f"the scan's width int({expansion} * {channels})")
        rank = step_rank(channels)
        self.orientations, self.states, self.rank = group.order, states, rank
        self.in_proj = GroupLinear(group, fields, inner, bias=False)
        self.gate_proj = GroupLinear(group, fields, inner, bias=False) if gated else None
        self.conv = DepthwiseGroupConv2d(group, inner, width, bias=conv_bias, silu=True, published_init=init == "published")
        self.x_proj = generate(group, width, rank + 2 * states, bias=False)
        self.dt_proj = generate(group, rank, width, bias=False)
        low = rank**-0.5 if init == "published" else -(rank**-0.5)
        nn.init.uniform_(self.dt_proj.weight, low, rank**-0.5)
        self.delta_bias = nn.Parameter(initial_delta_bias(width))
        self.A_log = nn.Parameter(initial_A_log(width, states))
        self.D = nn.Parameter(torch.ones(width))
        self.out_norm = FieldLayerNorm(group, width)
        self.mix_proj = GroupLinear(group, width, inner, bias=False) if gated else None
        self.out_proj = GroupLinear(group, inner if gated else width, fields, bias=False)

    def forward(self, x: Tensor, order: Tensor, norm: nn.Module | None = None, skip_scale: Tensor | None = None) -> Tensor:
        """(b, t*c, h, w), order (t, h*w) -> (b, t*c, h, w).

        With `norm` the unit reads norm(x), with `skip_scale` it adds that times x: no passes over memory of their own in inference.
        """
        t = self.orientations
        pixels = channels_last_axis(x)
        skip = None if skip_scale is None else pixels
        if norm is not None and not fused.fuses(self.in_proj, pixels):
            pixels, norm = channels_last_axis(norm(x)), None
        features = channels_last_axis(self.conv(channels_first_axis(fused.linear(self.in_proj, pixels, norm=norm))))
        u = features.flatten(1, 2)  # (b, l, t*d)
        mixed = self.x_proj(u).unflatten(-1, (t, -1))
        low_rank, B, C = mixed.split([self.rank, self.states, self.states], dim=-1)
        low_rank, tokens = low_rank.flatten(2), u.unflatten(-1, (t, -1))
        decay = (-self.A_log.exp()).expand(t, -1, -1)
        scanned = (decay, B, C, self.D.expand(t, -1), self.delta_bias.expand(t, -1), order)
        if isinstance(self.dt_proj, GroupLinear) and takes_low_rank(u, t * self.rank):
            to_steps = self.dt_proj.plain_weight().unflatten(0, (t, -1)).mT
            y = low_rank_scan(tokens, low_rank.unsqueeze(2), to_steps, *scanned)
        else:
            y = selective_scan(tokens, self.dt_proj(low_rank).unflatten(-1, (t, -1)), *scanned)
        y = y.flatten(2).unflatten(1, features.shape[1:3])
        out_norm: nn.Module | None = self.out_norm
        if self.gate_proj is not None and self.mix_proj is not None:
            gate = fused.linear(self.gate_proj, pixels, norm=norm, silu=True)
            y, out_norm = fused.linear(self.mix_proj, y, norm=self.out_norm, gate=gate), None
        return channels_first_axis(fused.linear(self.out_proj, y, norm=out_norm, skip=skip, skip_scale=skip_scale))
