"""MambaIR: image restoration with selective scans along rows and columns.

Source: MambaIR: A Simple Baseline for Image Restoration with State-Space Model (Guo et al., ECCV 2024, arXiv 2402.15648), section 3.
The skeleton is written over a `LayerKit`, so that `EQMambaIR` is the same network built from equivariant layers.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eqmambair.layers.attention import squeeze_width
from eqmambair.layers.kit import LayerKit, PlainKit, Pointwise
from eqmambair.layers.scan2d import CrossScan2d
from eqmambair.layers.upsample import ShuffleUpsample, upsample_steps
from eqmambair.layers.views import divide_exactly, positive_width

#: Mean of DIV2K's training images, RGB in [0, 1]; the published networks subtract it.
RGB_MEAN = (0.4488, 0.4371, 0.4040)

#: Channels between the body and the pixel-shuffle upsampler.
UPSAMPLE_CHANNELS = 64


def attention_branch(kit: LayerKit, width: int, embed_dim: int, light: bool) -> nn.Sequential:
    """The convolutional half of a block: a bottleneck of two convolutions, then channel attention.

    The light form uses pointwise and depthwise (the second one dilated) layers at half the width, the other 3x3 convolutions at a third.
    """
    attention = kit.channel_attention(width, squeeze_width(embed_dim))
    if light:
        hidden = positive_width(width // 2, name="the attention branch", rule="half the map's width")
        return nn.Sequential(
            kit.pointwise(width, hidden),
            kit.depthwise(hidden),
            nn.GELU(),
            kit.pointwise(hidden, width),
            kit.depthwise(width, dilation=2),
            attention,
        )
    hidden = positive_width(width // 3, name="the attention branch", rule="a third of the map's width")
    return nn.Sequential(kit.conv(width, hidden), nn.GELU(), kit.conv(hidden, width), attention)


class StateSpaceBlock(nn.Module):
    """Residual state-space block: ``x = s1 x + drop(scan(norm x))``, ``x = s2 x + branch(norm x)``.

    Args:
        kit: the layers to build from.
        embed_dim: channels of the map.
        states: state size N.
        expansion: scan channels as a multiple of `embed_dim`.
        light: which attention branch.
        drop_rate: drop rate of the scan branch in training.
    """

    def __init__(self, kit: LayerKit, embed_dim: int, states: int, expansion: float, light: bool, drop_rate: float = 0.0) -> None:
        super().__init__()
        width = divide_exactly(embed_dim, by=kit.order, name="embed_dim")
        self.norm1 = kit.norm(width)
        self.scan = kit.scan(width, states, expansion)
        self.drop = kit.drop(drop_rate)
        self.scale1 = kit.scale(width)
        self.norm2 = kit.norm(width)
        self.branch = attention_branch(kit, width, embed_dim, light)
        self.scale2 = kit.scale(width)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w), order (g, h*w) -> (b, c, h, w)."""
        if self.training:
            x = self.scale1(x) + self.drop(self.scan(self.norm1(x), order))
        else:
            x = self.scan(x, order, self.norm1, self.scale1.weight)
        first, *others, attention = self.branch
        y = first(x, self.norm2) if isinstance(first, Pointwise) else first(self.norm2(x))
        for layer in others:
            y = layer(y)
        return attention(y, self.scale2(x))


def residual_convolution(kit: LayerKit, width: int, form: Literal["1conv", "3conv"]) -> nn.Module:
    """The convolution that ends a residual group: one 3x3, or a bottleneck of a quarter of the width."""
    if form == "1conv":
        return kit.conv(width, width)
    if form == "3conv":
        hidden = positive_width(width // 4, name="the 3conv bottleneck", rule="a quarter of the map's width")
        return nn.Sequential(
            kit.conv(width, hidden), nn.LeakyReLU(0.2), kit.pointwise(hidden, hidden), nn.LeakyReLU(0.2), kit.conv(hidden, width)
        )  # fmt: skip
    raise ValueError(f"resi_connection: {form!r} is not known; choose '1conv' or '3conv'")


class ResidualGroup(nn.Module):
    """Some blocks and a convolution, with a skip around them."""

    def __init__(self, blocks: Sequence[nn.Module], conv: nn.Module, checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv
        self.checkpointing = checkpointing

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(b, c, h, w), order (g, h*w) -> (b, c, h, w)."""
        y = x
        for block in self.blocks:
            recompute = self.checkpointing and torch.is_grad_enabled()
            y = checkpoint(block, y, order, use_reentrant=False) if recompute else block(y, order)
        return self.conv(y) + x


class PixelShuffleHead(nn.Module):
    """Features to a larger image in stages of 64 channels: the output stage of classic super-resolution."""

    def __init__(self, kit: LayerKit, width: int, out_channels: int, upscale: int) -> None:
        super().__init__()
        hidden = UPSAMPLE_CHANNELS // kit.order
        self.before = kit.conv(width, hidden)
        self.upsample = nn.Sequential(
            *(ShuffleUpsample(kit.conv(hidden, hidden * s * s), kit.pixel_shuffle(s)) for s in upsample_steps(upscale))
        )
        self.project = kit.project(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, out, s*h, s*w)."""
        return self.project(self.upsample(nn.functional.leaky_relu(self.before(x), 0.01)))


def linear_rates(rate: float, blocks: int) -> list[float]:
    """Drop rates that grow linearly from 0 at the first block to `rate` at the last."""
    return [rate * j / max(blocks - 1, 1) for j in range(blocks)]


class StateSpaceRestorer(nn.Module):
    """The skeleton of MambaIR and EQ-MambaIR; its subclasses document the arguments."""

    mean: Tensor

    def __init__(
        self,
        kit: LayerKit,
        *,
        in_chans: int,
        embed_dim: int,
        depths: Sequence[int],
        d_state: int,
        mlp_ratio: float,
        drop_rate: float,
        drop_path_rate: float,
        patch_norm: bool,
        use_checkpoint: bool,
        upscale: int | None,
        img_range: float,
        upsampler: str,
        resi_connection: Literal["1conv", "3conv"],
    ) -> None:
        super().__init__()
        if drop_rate:
            raise ValueError(f"drop_rate = {drop_rate}: must be 0, no layer drops single positions; use drop_path_rate")
        if upsampler not in ("pixelshuffle", "pixelshuffledirect", ""):
            raise ValueError(f"upsampler: {upsampler!r} is not known; choose 'pixelshuffle', 'pixelshuffledirect' or '' (no upsampling)")
        if not depths or min(in_chans, embed_dim, d_state, *depths) < 1:
            sizes = f"in_chans = {in_chans}, embed_dim = {embed_dim}, d_state = {d_state}, depths = {list(depths)}"
            raise ValueError(f"{sizes}: all are at least 1")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate = {drop_path_rate}: must be at least 0 and below 1")
        if not upsampler and upscale not in (None, 1):
            raise ValueError(f"upscale = {upscale}: a network without upsampler has upscale 1; name an upsampler")
        self.in_chans, self.img_range = in_chans, img_range
        self.upscale = (2 if upscale is None else upscale) if upsampler else 1
        mean = RGB_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.scan_paths = kit.scan_paths

        width = divide_exactly(embed_dim, by=kit.order, name="embed_dim")
        light = upsampler == "pixelshuffledirect"
        rates = iter(linear_rates(drop_path_rate, sum(depths)))
        self.lift = kit.lift(in_chans, width)
        self.norm_in = kit.norm(width) if patch_norm else nn.Identity()
        self.groups = nn.ModuleList(
            ResidualGroup(
                [StateSpaceBlock(kit, embed_dim, d_state, mlp_ratio, light, next(rates)) for _ in range(depth)],
                residual_convolution(kit, width, resi_connection),
                use_checkpoint,
            )
            for depth in depths
        )
        self.norm_out = kit.norm(width)
        self.conv_after = residual_convolution(kit, width, resi_connection)
        if upsampler == "pixelshuffle":
            self.head: nn.Module = PixelShuffleHead(kit, width, in_chans, self.upscale)
        elif light:
            direct = kit.conv(width, self.upscale**2 * in_chans)
            self.head = ShuffleUpsample(direct, kit.pixel_shuffle(self.upscale), kit.pool())
        else:
            self.head = kit.project(width, in_chans)

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Args:
            image: (b, in_chans, h, w) in [0, 1]; any size.

        Returns:
            (b, in_chans, s*h, s*w), around [0, 1], not clamped.
        """
        centred = (image - self.mean) * self.img_range
        shallow = self.lift(centred).contiguous(memory_format=torch.channels_last)
        order = self.scan_paths(image.shape[-2], image.shape[-1], image.device)
        features = self.norm_in(shallow)
        for group in self.groups:
            features = group(features, order)
        features = self.conv_after(self.norm_out(features)) + shallow
        restored = self.head(features)
        if self.upscale == 1:
            restored = restored + centred
        return restored / self.img_range + self.mean


@ARCH_REGISTRY.register()
class MambaIR(StateSpaceRestorer):
    """Restore images: super-resolution, denoising or JPEG artefacts, by the upsampler.

    Args:
        in_chans: channels of the image, in and out; 3 is RGB.
        embed_dim: channels of a feature map, at least 30.
        depths: blocks in each residual group.
        d_state: state size N of the scan.
        mlp_ratio: channels of the scan as a multiple of `embed_dim`, rounded down.
        drop_rate: must be 0.
        drop_path_rate: stochastic depth of the last block in training; earlier blocks have less, linearly.
        patch_norm: whether a layer norm stands before the first group.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        upscale: output pixels per input pixel and side: 2, 3, 4 (8 with `pixelshuffle`); 1 without upsampler. None: 2, or 1.
        img_range: the image is multiplied by it behind the mean; 1 in every published network.
        upsampler: ``pixelshuffle`` (classic), ``pixelshuffledirect`` (light) or empty (restoration at the same size).
        resi_connection: ``1conv`` or ``3conv`` at the end of each residual group.
        img_size, patch_size, window_size: unused; published option files carry them.

    Raises:
        ValueError: for a width that does not divide or vanishes, or an unknown choice.
    """

    def __init__(
        self,
        *,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        d_state: int = 16,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int | None = None,
        img_range: float = 1.0,
        upsampler: Literal["pixelshuffle", "pixelshuffledirect", ""] = "",
        resi_connection: Literal["1conv", "3conv"] = "1conv",
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        window_size: int | None = None,
    ) -> None:
        super().__init__(
            PlainKit(), in_chans=in_chans, embed_dim=embed_dim, depths=depths, d_state=d_state, mlp_ratio=mlp_ratio, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, patch_norm=patch_norm, use_checkpoint=use_checkpoint, upscale=upscale, img_range=img_range,
            upsampler=upsampler, resi_connection=resi_connection,
        )  # fmt: skip
        start_scans_small(self)


def start_scans_small(network: nn.Module) -> None:
    """Draw the outer linear layers of every plain scan unit from N(0, 0.02^2), as published: the scan branches start small."""
    for module in network.modules():
        if isinstance(module, CrossScan2d):
            for linear in (module.in_proj, module.gate_proj, module.out_proj):
                if linear is not None:
                    nn.init.normal_(linear.weight, std=0.02)
