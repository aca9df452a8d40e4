"""VMamba: image classification with selective scans along rows and columns, in four stages.

Source: VMamba: Visual State Space Model (Liu et al., arXiv 2401.10166), sections 4 and 5, in the form that its authors call v2. The
skeleton is written over a `LayerKit`, so that `EQVMamba` is the same network built from equivariant layers.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eqmambair.archs.classifier import Classifier, OutputNorms
from eqmambair.archs.mambair_arch import linear_rates
from eqmambair.groups import cross_scan_order, group
from eqmambair.layers.kit import LayerKit, PlainKit
from eqmambair.layers.scan2d import CrossScan2d
from eqmambair.layers.views import divide_exactly, positive_width


class VisionBlock(nn.Module):
    """Residual state-space block: ``x = x + drop(scan(norm x))``, ``x = x + drop(mlp(norm x))``.

    Args:
        kit: the layers to build from.
        channels: channels of the map, d.
        states: state size N of the scan.
        expansion: scan channels as a multiple of d, rounded down.
        mlp_ratio: hidden channels of the MLP as a multiple of d, rounded down.
        conv_bias: whether the depthwise convolution has a bias.
        drop_rate: drop rate of each branch in training.
    """

    def __init__(
        self, kit: LayerKit, channels: int, states: int, expansion: float, mlp_ratio: float, conv_bias: bool = False, drop_rate: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        width = divide_exactly(channels, by=kit.order, name="dims")
        hidden = positive_width(int(mlp_ratio * channels) // kit.order, name="the MLP", rule=f"int({mlp_ratio} * {channels})")
        self.norm1 = kit.norm(width)
        self.scan = kit.scan(width, states, expansion, gated=False, conv_bias=conv_bias)
        self.norm2 = kit.norm(width)
        self.mlp = nn.Sequential(kit.pointwise(width, hidden), nn.GELU(), kit.pointwise(hidden, width))
        self.drop = kit.drop(drop_rate)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w), order (g, h*w) -> (b, c, h, w)."""
        x = x + self.drop(self.scan(self.norm1(x), order))
        return x + self.drop(self.mlp(self.norm2(x)))


class Stage(nn.ModuleList):
    """Blocks of one width, one after the other; with `checkpointing` they are recomputed in the backward pass."""

    def __init__(self, blocks: Sequence[nn.Module], checkpointing: bool) -> None:
        super().__init__(blocks)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w), order (g, h*w) -> (b, c, h, w)."""
        for block in self:
            x = checkpoint(block, x, order, use_reentrant=False) if self.checkpointing and torch.is_grad_enabled() else block(x, order)
        return x


class StateSpacePyramid(Classifier):
    """The skeleton of VMamba and EQ-VMamba; its subclasses document the arguments."""

    def __init__(
        self,
        kit: LayerKit,
        *,
        in_chans: int,
        num_classes: int,
        depths: Sequence[int],
        dims: int | Sequence[int],
        ssm_d_state: int,
        ssm_ratio: float,
        ssm_conv_bias: bool,
        mlp_ratio: float,
        drop_path_rate: float,
        patch_size: int,
        use_checkpoint: bool,
        out_indices: Sequence[int],
    ) -> None:
        widths = [dims << i for i in range(len(depths))] if isinstance(dims, int) else list(dims)
        if not depths or len(widths) != len(depths) or min(ssm_d_state, *depths, *widths) < 1:
            sizes = f"dims = {widths}, depths = {list(depths)}, ssm_d_state = {ssm_d_state}"
            raise ValueError(f"{sizes}: as many widths as depths, and all at least 1")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate = {drop_path_rate}: must be at least 0 and below 1")
        if patch_size < 4 or patch_size % 2:
            raise ValueError(f"patch_size = {patch_size}: an even number of pixels, 4 or more")
        if list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= set(range(len(depths))):
            raise ValueError(f"out_indices = {list(out_indices)}: stages from 0 to {len(depths) - 1}, in order")
        super().__init__(in_chans=in_chans, num_classes=num_classes, feature_channels=widths, kit=kit)
        self.scan_paths, self.out_indices = kit.scan_paths, tuple(out_indices)

        fields = [divide_exactly(width, by=kit.order, name="dims") for width in widths]
        narrow = divide_exactly(widths[0], by=2 * kit.order, name="dims[0]") if kit.order > 1 else widths[0] // 2
        kernel, stride = patch_size // 2 + 1, patch_size // 2
        self.stem = nn.Sequential(
            kit.lift_strided(in_chans, positive_width(narrow, name="the patch embedding", rule="half of dims[0]"), kernel, stride),
            kit.norm(narrow), nn.GELU(), kit.conv_strided(narrow, fields[0], kernel, stride), kit.norm(fields[0]),
        )  # fmt: skip
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            Stage(
                [VisionBlock(kit, width, ssm_d_state, ssm_ratio, mlp_ratio, ssm_conv_bias, next(rates)) for _ in range(depth)],
                use_checkpoint,
            )
            for width, depth in zip(widths, depths, strict=True)
        )
        self.downs = nn.ModuleList(
            nn.Sequential(kit.conv_strided(fields[i], fields[i + 1]), kit.norm(fields[i + 1])) for i in range(len(depths) - 1)
        )
        if self.out_indices:
            self.out_norms = OutputNorms(kit, widths, self.out_indices)
        elif num_classes:
            self.norm = kit.norm(fields[-1])
            self.head = kit.readout(fields[-1], num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The map of every stage, taken before the downsampling behind it and before any output norm.

        Args:
            x: normalised images, (b, in_chans, h, w); any size.

        Returns:
            (b, dims[i], h_i, w_i) with h_i = ceil(h / 2^(i+2)) for patches of 4.
        """
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downs[i - 1](x)
            x = stage(x, self.scan_paths(x.shape[-2], x.shape[-1], x.device))
            maps.append(x)
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """The last stage's map (b, c, h, w) -> logits (b, num_classes): normalise, average over the pixels, one linear layer."""
        return self.head(self.norm(features).mean((2, 3)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which keys make which layer, in timm's words, for rates that fall from layer to layer; ``coarse``: whole stages."""
        last = (99999,)  # behind all that is numbered: a downsampling behind its stage, the classifier behind everything
        blocks = [
            (r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)", None),
            (r"^downs\.(\d+)", last),
            (r"^(?:norm|head|out_norms)", last),
        ]
        return {"stem": r"^stem", "blocks": blocks}

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:  # type: ignore[override]  # two forms of one published class
        """Classify, or with `out_indices` yield maps.

        Args:
            x: normalised images, (b, in_chans, h, w); any size.

        Returns:
            Logits (b, num_classes); with `out_indices` the maps of those stages, each behind a norm of its own.
        """
        if not self.out_indices:
            return super().forward(x)
        return self.out_norms(self.features(x))


@ARCH_REGISTRY.register()
class VMamba(StateSpacePyramid):
    """Classify images, or be the backbone of dense prediction. The default is VMamba-T (s1l8).

    Args:
        in_chans: channels of the image.
        num_classes: logits; 0 builds a backbone without head.
        depths: blocks in each stage.
        dims: channels of each stage; one number is the first stage's, doubled from stage to stage.
        ssm_d_state: state size N of the scan.
        ssm_ratio: scan channels as a multiple of a stage's channels, rounded down.
        ssm_conv_bias: whether the depthwise convolutions have a bias.
        mlp_ratio: hidden channels of the MLPs as a multiple of a stage's channels, rounded down.
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.
        patch_size: pixels a side of the image for one pixel of the first stage; even, 4 or more.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        out_indices: stages whose maps `forward` yields, each behind a norm of its own, instead of logits; then there is no classifier.
        cross_scan: ``plain`` reads rows and columns both ways; ``eq`` the first path and its three turns, all else the same: the
            ablation "EQ cross-scan only" of arXiv 2603.09138 (symmetric paths alone do not make the network equivariant).

    Raises:
        ValueError: for sizes that do not fit, or an unknown choice.
    """

    def __init__(
        self,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: int | Sequence[int] = 96,
        ssm_d_state: int = 1,
        ssm_ratio: float = 1.0,
        ssm_conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        patch_size: int = 4,
        use_checkpoint: bool = False,
        out_indices: Sequence[int] = (),
        cross_scan: Literal["plain", "eq"] = "plain",
    ) -> None:
        if cross_scan not in ("plain", "eq"):
            raise ValueError(f"cross_scan: {cross_scan!r} is not known; choose 'plain' or 'eq'")
        super().__init__(
            PlainKit(cross_scan_order if cross_scan == "plain" else group("c4").scan_order), in_chans=in_chans, num_classes=num_classes,
            depths=depths, dims=dims, ssm_d_state=ssm_d_state, ssm_ratio=ssm_ratio, ssm_conv_bias=ssm_conv_bias, mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate, patch_size=patch_size, use_checkpoint=use_checkpoint, out_indices=out_indices,
        )  # fmt: skip
        draw_linear_layers(self)


def draw_linear_layers(network: nn.Module) -> None:
    """Draw every linear layer from N(0, 0.02^2) without bias, as published; the generators of the scans keep their own range."""
    generators = {id(module.x_proj) for module in network.modules() if isinstance(module, CrossScan2d)}
    for module in network.modules():
        if isinstance(module, nn.Linear) and id(module) not in generators:
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
