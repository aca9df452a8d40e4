"""V2M: classifiers that read a picture as a 2-D state-space model, rows first and then columns, from its corners.

Source: V2M: Visual 2-Dimensional Mamba for Image Representation Learning (Wang et al., arXiv 2410.10382). The published code holds the
plain network alone; pyramid, local windows and class tokens follow the paper's words.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from timm.layers import lecun_normal_, to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.archs.classifier import Classifier
from eqmambair.archs.mambair_arch import linear_rates
from eqmambair.archs.vmamba_arch import StateSpacePyramid, draw_linear_layers
from eqmambair.layers.corner_scan import CornerMixer, Layout, LineScan, V2MMixer
from eqmambair.layers.kit import PlainKit
from eqmambair.layers.positions import insert_cross, insert_line, remove_cross, remove_line, resized, take_line
from eqmambair.layers.views import channels_first_axis, channels_last_axis


class V2MBlock(nn.Module):
    """``x + drop(mixer(norm x))`` with a root-mean-square norm; the sum is kept in float32. There is no MLP."""

    def __init__(self, channels: int, mixer: V2MMixer, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.mixer = mixer
        self.drop = PlainKit().drop(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return x + self.drop(self.mixer(channels_first_axis(self.norm(channels_last_axis(x)))))


def four_scales(channels: int) -> nn.ModuleList:
    """Maps of one grid to 4, 2, 1 and 1/2 times its sides: transposed convolutions, nothing, the largest of 2x2 pixels (sides rounded up).

    Source: the pyramid of Vim's segmentation networks, which is BEiT's (Bao et al., arXiv 2106.08254).
    """

    def twice() -> nn.Module:
        return nn.ConvTranspose2d(channels, channels, 2, 2)

    first = nn.Sequential(twice(), nn.BatchNorm2d(channels), nn.GELU(), twice())
    return nn.ModuleList([first, twice(), nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)])


@ARCH_REGISTRY.register()
class V2M(Classifier):
    """Classify images with a plain network: one width and one grid of patches throughout. The default is V2M-T.

    The learned positions belong to a picture of `img_size` and are interpolated for other sizes; pixels beyond the last whole patch are
    left out. As a backbone (``num_classes = 0``) it fills pictures up to whole patches with zeros and yields four maps, from four depths.

    Args:
        img_size: side of the training pictures, or height and width, in pixels.
        patch_size: side of a patch, in pixels.
        stride: distance of patches, in pixels; None: `patch_size`.
        in_chans: channels of the image; 3 is RGB.
        num_classes: logits; 0 builds a backbone without final norm and head, with the layers that make four scales of its one.
        embed_dim: channels of the map.
        depth: blocks.
        d_state: state size N of the scans.
        d_conv: taps of the causal convolutions.
        expand: scan channels as a multiple of `embed_dim`.
        layout: ``corners`` (the paper), ``aligned`` or ``released`` (the published code, square pictures only): see `CornerScan2d`.
        num_directions: corners that are scanned from.
        window_size: side of local windows, in patches; None scans the whole grid.
        cls: where the logits are read: ``middle``, at the crossing of a learned row and column in the middle (the paper); ``edge``, the
            same at the lower right corner; ``mean`` over all patches, without class tokens (the published code).
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.
        released_init: start the steps of the second pass at about 0.69, as the published code does by accident, and not like the first's.

    Raises:
        ValueError: for sizes that do not fit, or an unknown choice.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2.0,
        layout: Layout = "corners",
        num_directions: int = 4,
        window_size: int | None = None,
        cls: Literal["mean", "edge", "middle"] = "middle",
        drop_path_rate: float = 0.0,
        released_init: bool = False,
    ) -> None:
        maps = 1 if num_classes else 4
        super().__init__(in_chans=in_chans, num_classes=num_classes, feature_channels=[embed_dim] * maps, kit=PlainKit())
        if cls not in ("mean", "edge", "middle"):
            raise ValueError(f"cls: {cls!r} is not known; choose one of mean, edge, middle")
        stride = patch_size if stride is None else stride
        if min(patch_size, stride, embed_dim, depth, d_state, d_conv) < 1:
            sizes = f"patch_size = {patch_size}, stride = {stride}, embed_dim = {embed_dim}, depth = {depth}"
            raise ValueError(f"{sizes}, d_state = {d_state}, d_conv = {d_conv}: all are at least 1")
        sides = to_2tuple(img_size)
        if min(sides) < patch_size:
            raise ValueError(f"img_size = {img_size}: must hold a patch of {patch_size} pixels")
        self.cls, self.patch_size, self.stride = cls, patch_size, stride
        height, width = self.grid = tuple((side - patch_size) // stride + 1 for side in sides)
        extra = int(cls != "mean")
        self.patch_embed = nn.Conv2d(in_chans, embed_dim, patch_size, stride)
        self.pos_embed = nn.Parameter(torch.empty(1, (height + extra) * (width + extra), embed_dim))
        self.cls_token = nn.Parameter(torch.zeros(1, width + height + 1, embed_dim)) if extra else None
        self.blocks = nn.Sequential(
            *(
                V2MBlock(
                    embed_dim,
                    V2MMixer(
                        embed_dim, d_state, expand, layout=layout, num_directions=num_directions, taps=d_conv, window=window_size
                    ),
                    rate,
                )
                for rate in linear_rates(drop_path_rate, depth)
            )
        )  # fmt: skip
        if num_classes:
            self.norm = nn.RMSNorm(embed_dim, eps=1e-5)
            self.head = nn.Linear(embed_dim, num_classes)
        else:
            self.scales = four_scales(embed_dim)
        self._initialise(depth, released_init)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, whatever their shape: timm's convention."""
        return {"pos_embed"} if self.cls_token is None else {"pos_embed", "cls_token"}

    def _initialise(self, depth: int, released: bool) -> None:
        lecun_normal_(self.patch_embed.weight)
        nn.init.zeros_(self.patch_embed.bias)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.num_classes:
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        for module in self.modules():
            if isinstance(module, V2MMixer):
                bound = 1 / math.sqrt(module.out_proj.in_features * depth)
                nn.init.uniform_(module.out_proj.weight, -bound, bound)
            elif isinstance(module, LineScan) and module.axis == "columns" and released:
                nn.init.zeros_(module.dt_proj.bias)

    def _crossing(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self.cls == "edge" else (height // 2, width // 2)

    def _learned(self, height: int, width: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Positions for a grid of this size, cross included, and the class tokens of the row and the column."""
        rows, columns = self.grid
        positions = self.pos_embed.transpose(1, 2)
        if self.cls_token is None:
            return resized(positions.unflatten(2, (rows, columns)), height, width), None
        top, left = self._crossing(rows, columns)
        whole = positions.unflatten(2, (rows + 1, columns + 1))
        inner = resized(remove_cross(whole, top, left), height, width)
        row = remove_line(whole[:, :, top : top + 1], left, 3)
        cross = self._fitted(row, whole[..., left : left + 1], top, height, width)
        tokens = self.cls_token.transpose(1, 2)
        fitted = self._fitted(tokens[:, :, None, :columns], tokens[:, :, columns:, None], top, height, width)
        return insert_cross(inner, *cross, *self._crossing(height, width)), fitted

    def _fitted(self, row: Tensor, column: Tensor, top: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """A learned row (1, c, 1, w) and column (1, c, h + 1, 1) at another size; the crossing in the column keeps its value."""
        rest = resized(remove_line(column, top, 2), height, 1)
        return resized(row, 1, width), insert_line(rest, column[:, :, top : top + 1], self._crossing(height, width)[0], 2)

    def _tokens(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The map ahead of the first block, with the class tokens in it, and where these cross."""
        if min(image.shape[2:]) < self.patch_size:
            raise ValueError(f"a picture of {tuple(image.shape[2:])} pixels holds no patch of {self.patch_size}")
        x = self.patch_embed(image)
        at = self._crossing(x.shape[2], x.shape[3])
        positions, tokens = self._learned(x.shape[2], x.shape[3])
        if tokens is not None:
            row, column = tokens
            x = insert_cross(x, row.to(x.dtype), column.to(x.dtype), *at)
        x = (x + positions).float() if x.dtype != torch.float64 else x + positions
        return x.contiguous(memory_format=torch.channels_last), at

    def _patches(self, x: Tensor, at: tuple[int, int]) -> Tensor:
        return x if self.cls_token is None else remove_cross(x, *at)

    def fresh_as_backbone(self) -> set[str]:
        """Prefixes of the keys that a backbone has and a classifier's weights have not."""
        return {"scales."}

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps, without class tokens and before the final norm.

        Returns:
            Of a classifier one map, (b, embed_dim, h / stride, w / stride), sides rounded down. Of a backbone four, of the depths 1/4, 1/2,
            3/4 and 1, at 4, 2, 1 and 1/2 times the sides of the grid (rounded up): strides 4, 8, 16, 32 where patches have 16 pixels.
        """
        if self.num_classes:
            stream, at = self._tokens(x)
            return [self._patches(self.blocks(stream), at)]
        height, width = (self.patch_size + -(-max(side - self.patch_size, 0) // self.stride) * self.stride for side in x.shape[2:])
        stream, at = self._tokens(F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])))
        depth, done, maps = len(self.blocks), 0, []
        for quarter, scale in enumerate(self.scales, start=1):
            until = -(-depth * quarter // 4)
            stream, done = self.blocks[done:until](stream), until
            maps.append(scale(self._patches(stream, at)))
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """A map (b, c, h, w) -> logits (b, num_classes): the final norm, the mean over its pixels, a linear layer."""
        return self.head(self.norm(channels_last_axis(features)).mean((1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (b, in_chans, h, w) -> logits (b, num_classes).

        Raises:
            ValueError: for a picture smaller than a patch, or an oblong one with the layout ``released``.
            RuntimeError: the network has no head (``num_classes = 0``).
        """
        if self.cls_token is None or not self.num_classes:
            return super().forward(x)
        stream, (top, left) = self._tokens(x)
        return self.classify(take_line(take_line(self.blocks(stream), top, 2), left, 3))


class CornerKit(PlainKit):
    """Ordinary layers whose scan units scan rows and columns from the corners of the map."""

    def __init__(self, num_directions: int) -> None:
        super().__init__()
        self.num_directions = num_directions

    def scan(self, width: int, states: int, expansion: float, gated: bool = True, conv_bias: bool = True) -> nn.Module:
        if gated:
            raise ValueError("the pyramid of V2M has no gates")
        return CornerMixer(width, states, expansion, conv_bias, self.num_directions)


@ARCH_REGISTRY.register()
class V2MPyramid(StateSpacePyramid):
    """Classify images, or be the backbone of dense prediction: VMamba with its scans replaced. The default is V2M-S*.

    Args:
        in_chans: channels of the image.
        num_classes: logits; 0 builds a backbone without head.
        depths: blocks in each stage.
        dims: channels of each stage; one number is the first stage's, doubled from stage to stage.
        ssm_d_state: state size N of the scan.
        ssm_ratio: scan channels as a multiple of a stage's channels, rounded down.
        ssm_conv_bias: whether the depthwise convolutions have a bias.
        mlp_ratio: hidden channels of the MLPs as a multiple of a stage's channels, rounded down.
        num_directions: corners that are scanned from: 1, 2 (opposite ones), 3 or 4.
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ValueError: for sizes that do not fit.
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
        num_directions: int = 4,
        drop_path_rate: float = 0.2,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(
            CornerKit(num_directions), in_chans=in_chans, num_classes=num_classes, depths=depths, dims=dims, ssm_d_state=ssm_d_state,
            ssm_ratio=ssm_ratio, ssm_conv_bias=ssm_conv_bias, mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, patch_size=4,
            use_checkpoint=use_checkpoint, out_indices=(),
        )  # fmt: skip
        draw_linear_layers(self)
        for module in self.modules():
            if isinstance(module, LineScan):
                module.reset_generators()
