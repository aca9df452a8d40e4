"""GroupMamba: an image classifier and backbone whose blocks scan four groups of channels along one direction each.

Source: GroupMamba: Efficient Group-Based Visual State Space Model (Shaker et al., CVPR 2025, arXiv 2407.13772). Where paper and published
code differ (widths, order of the directions, what a block holds) this is the code, whose sizes give the published parameter counts.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from eqmambair.archs.classifier import Classifier
from eqmambair.archs.mambair_arch import linear_rates
from eqmambair.archs.mambair_unet_arch import Level
from eqmambair.groups import cross_scan_order
from eqmambair.layers.channel_groups import BlockDiagonalLinear, GroupedScan2d, ModulatedGroupMamba
from eqmambair.layers.depthwise import DepthwiseConv2d
from eqmambair.layers.kit import PlainKit, Pointwise
from eqmambair.layers.norm import ChannelLayerNorm

#: Paths of the four channel groups, by how many different directions there are: rows, columns, rows backwards, columns backwards.
DIRECTIONS = {1: [0, 0, 0, 0], 2: [0, 1, 0, 1], 4: [0, 1, 2, 3]}


class DistilledLogits(NamedTuple):
    """What a network with two heads returns in training; in evaluation it returns their mean.

    Attributes:
        head: logits for the labels, (b, classes).
        dist_head: logits for what the teacher says, (b, classes).
    """

    head: Tensor
    dist_head: Tensor


class ConvMLP(nn.Sequential):
    """Linear layer, 3x3 depthwise convolution, GELU, linear layer, on (b, c, h, w)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(
            Pointwise(nn.Linear(channels, hidden)),
            DepthwiseConv2d(hidden, hidden),
            nn.GELU(),
            Pointwise(nn.Linear(hidden, channels)),
        )


class GroupMambaBlock(nn.Module):
    """``x + drop(mixer(x))`` (which normalises its own input), then ``x + drop(mlp(norm(x)))``, on (b, c, h, w)."""

    def __init__(self, mixer: ModulatedGroupMamba, channels: int, mlp_ratio: float, drop_rate: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = ChannelLayerNorm(channels, eps=1e-6)
        self.mlp = ConvMLP(channels, int(channels * mlp_ratio))
        self.drop = PlainKit().drop(drop_rate)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        x = x + self.drop(self.mixer(x, order))
        return x + self.drop(self.mlp(self.norm(x)))


class ClassBlock(nn.Module):
    """Refine the pooled vector as a map of one pixel: ``t + norm1(mixer(t))``, then ``t + mlp(norm2(t))``.

    A path of one token has no memory, so the decays of this block have gradient zero.
    """

    def __init__(self, mixer: ModulatedGroupMamba, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, pooled: Tensor, order: Tensor) -> Tensor:
        """(b, c), order (4, 1) -> (b, c)."""
        pooled = pooled + self.norm1(self.mixer(pooled[:, :, None, None], order)[:, :, 0, 0])
        return pooled + self.mlp(self.norm2(pooled))


def stem(in_chans: int, hidden: int, channels: int) -> nn.Sequential:
    """Image to a map at a quarter of its sides: four convolutions, of which the first and the last have stride 2."""
    layers: list[nn.Module] = []
    for width_in, kernel, stride in ((in_chans, 7, 2), (hidden, 3, 1), (hidden, 3, 1)):
        layers += [nn.Conv2d(width_in, hidden, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
    return nn.Sequential(*layers, *downsample(hidden, channels))


def downsample(width_in: int, width_out: int) -> nn.Sequential:
    """Half the sides, rounded up."""
    return nn.Sequential(nn.Conv2d(width_in, width_out, 3, 2, 1), ChannelLayerNorm(width_out))


@ARCH_REGISTRY.register()
class GroupMamba(Classifier):
    """Classify images, or give the maps of four stages to a dense head; any size.

    The defaults are the tiny network. Training returns `DistilledLogits` where there are two heads, evaluation their mean.

    Args:
        in_chans: channels of the image; 3 is RGB.
        num_classes: classes; 0 for a backbone, which has neither class block nor heads.
        stem_hidden_dim: channels inside the stem.
        embed_dims: channels of the four stages; multiples of 4.
        depths: blocks of the four stages.
        mlp_ratios: hidden width of each stage's MLPs as a multiple of its channels, rounded down.
        d_state: state size N of the scans.
        num_directions: different directions among the four channel groups: 4 (published), 2 (rows and columns, forwards) or 1 (rows).
        cam: whether blocks have a channel affinity modulation.
        distillation: whether there is a second head, which learns what a teacher says.
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.

    Raises:
        ValueError: for widths that do not divide, or lists that are not of four numbers.
    """

    def __init__(
        self,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        stem_hidden_dim: int = 32,
        embed_dims: Sequence[int] = (64, 128, 348, 448),
        depths: Sequence[int] = (3, 4, 9, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        d_state: int = 1,
        num_directions: int = 4,
        cam: bool = True,
        distillation: bool = True,
        drop_path_rate: float = 0.05,
    ) -> None:
        for name, values in (("embed_dims", embed_dims), ("depths", depths), ("mlp_ratios", mlp_ratios)):
            if len(values) != 4:
                raise ValueError(f"{name} = {list(values)}: must be four numbers, one a stage")
        if num_directions not in DIRECTIONS:
            raise ValueError(f"num_directions = {num_directions}: must be 1, 2 or 4")
        super().__init__(in_chans=in_chans, num_classes=num_classes, feature_channels=embed_dims, kit=PlainKit())
        self.directions = DIRECTIONS[num_directions]
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        self.embeds = nn.ModuleList([stem(in_chans, stem_hidden_dim, embed_dims[0])])
        self.embeds.extend(downsample(*pair) for pair in itertools.pairwise(embed_dims))
        self.stages = nn.ModuleList(
            Level(GroupMambaBlock(ModulatedGroupMamba(channels, d_state, cam), channels, ratio, next(rates)) for _ in range(depth))
            for channels, depth, ratio in zip(embed_dims, depths, mlp_ratios, strict=True)
        )
        self.norms = nn.ModuleList(ChannelLayerNorm(channels, eps=1e-6) for channels in embed_dims[:3])
        last = embed_dims[3]
        if num_classes:
            self.class_block = ClassBlock(ModulatedGroupMamba(last, d_state, cam), last, mlp_ratios[3])
            self.class_norm = nn.LayerNorm(last, eps=1e-6)
            self.head = nn.Linear(last, num_classes)
            self.dist_head = nn.Linear(last, num_classes) if distillation else None
        self.apply(_initialise)

    def _order(self, height: int, width: int, device: torch.device) -> Tensor:
        return cross_scan_order(height, width, device)[self.directions]

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps of the four stages.

        Args:
            x: normalised images, (b, in_chans, h, w).

        Returns:
            Four maps (b, embed_dims[i], ceil(h / s), ceil(w / s)) for s = 4, 8, 16, 32, before the stage norms.
        """
        maps: list[Tensor] = []
        for embed, blocks, norm in zip(self.embeds, self.stages, [None, *self.norms], strict=True):
            x = embed(x if norm is None else norm(x)).contiguous(memory_format=torch.channels_last)
            order = self._order(x.shape[2], x.shape[3], x.device)
            x = blocks(x, order)
            maps.append(x)
        return maps

    def classify(self, features: Tensor) -> Tensor | DistilledLogits:  # type: ignore[override]
        """The last stage's map (b, c, h, w) -> logits (b, num_classes); in training with two heads, `DistilledLogits`."""
        order = self._order(1, 1, features.device)
        pooled = self.class_norm(self.class_block(features.mean((2, 3)), order))
        logits = self.head(pooled)
        if self.dist_head is None:
            return logits
        if self.training:
            return DistilledLogits(logits, self.dist_head(pooled))
        return (logits + self.dist_head(pooled)) / 2


def _initialise(module: nn.Module) -> None:
    """The published start: linear layers N(0, 0.02), convolutions N(0, 2 / fan_out); what a scan owns keeps its own rule."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight.shape[0] * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, GroupedScan2d):
        for linear in (module.in_proj, module.gate_proj, module.out_proj):
            assert isinstance(linear, BlockDiagonalLinear)
            nn.init.trunc_normal_(linear.weight, std=0.02)
