"""MambaIRv2: image restoration with window attention and one attentive scan a block; plain, or commuting with a group.

Source: MambaIRv2: Attentive State Space Restoration (Guo et al., CVPR 2025, arXiv 2411.15269) and its published code, which decides where
the two disagree. Feature maps are kept in one frame per orientation (`layers.frames`): the plain network has one frame, the equivariant
ones are the same network over several, exact to the last bit although categories are hard decisions.
"""

from collections.abc import Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from eqmambair.archs.mambair_arch import RGB_MEAN
from eqmambair.groups import GroupName
from eqmambair.groups import group as find_group
from eqmambair.layers.attentive_blocks import AttentiveBlock, AttentiveGroup, Connection, MixingHalf, residual_convolution
from eqmambair.layers.attentive_scan import AttentiveScan2d, PromptOrder, PromptRouter, Routing
from eqmambair.layers.feed_forward import ConvFeedForward, GatedFeedForward
from eqmambair.layers.frame_heads import Upsampler, restoring_head
from eqmambair.layers.frames import Framing, each
from eqmambair.layers.norm import ChannelLayerNorm
from eqmambair.layers.scan2d import scan_width, step_rank
from eqmambair.layers.views import divide_exactly
from eqmambair.layers.window_attention import WindowAttention


@ARCH_REGISTRY.register()
class MambaIRv2(nn.Module):
    """Restore images: classic super-resolution, denoising or JPEG artefacts, by the upsampler.

    Args:
        group: what the network commutes with: ``c1`` (nothing) is the published network; ``c2``, ``c4`` and ``d4`` turn the output with the
            input, to the last bit in evaluation on a CPU, and cannot take published weights.
        in_chans: channels of the image, in and out; 3 is RGB.
        embed_dim: channels of a feature map, all orientations together; a multiple of the group's order.
        d_state: state size N of the scan.
        depths: blocks in each group of blocks; every second one has shifted windows.
        num_heads: attention heads in each group of blocks, all orientations together; multiples of the group's order, and divisors of
            `embed_dim`.
        window_size: side of the attention windows, in pixels.
        inner_rank: rank of the prompt pool.
        num_tokens: prompts in the pool, which are the categories of pixels.
        convffn_kernel_size: odd side of the feed-forward's depthwise filter, in pixels.
        mlp_ratio: channels of scan and feed-forward as a multiple of `embed_dim`, rounded down; the result must be a multiple of the
            group's order.
        qkv_bias: whether queries, keys and values have a bias.
        patch_norm: whether a layer norm stands before the first group of blocks.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        upscale: output pixels per input pixel and side. None: 2, 4 with `nearest+conv`, 1 without upsampler.
        img_range: the image is multiplied by it behind the mean; 1 in every published network.
        upsampler: ``pixelshuffle`` (scales 2, 3, 4, 8), ``pixelshuffledirect`` (any), ``nearest+conv`` (4) or empty (the same size).
        resi_connection: ``1conv`` or ``3conv`` at the end of each group of blocks.
        prompt_order: ``raster`` pairs prompts and pixels as the published code does, whose weights need it; ``sorted`` as the paper does.
        train_routing, eval_routing: how categories are chosen: ``argmax``, or ``gumbel``, with noise, as the published code does always.
        shift_single_window: whether shifted windows also cut a map that is one window wide, as the published code does.
        patch_size: 1, ape: false; published option files carry them.
        img_size: unused; published option files carry it.

    Raises:
        ValueError: for a width that does not divide or vanishes, or an unknown choice.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        group: GroupName = "c1",
        in_chans: int = 3,
        embed_dim: int = 174,
        d_state: int = 16,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        window_size: int = 16,
        inner_rank: int = 64,
        num_tokens: int = 128,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int | None = None,
        img_range: float = 1.0,
        upsampler: Upsampler = "",
        resi_connection: Connection = "1conv",
        prompt_order: PromptOrder = "raster",
        train_routing: Routing = "gumbel",
        eval_routing: Routing = "argmax",
        shift_single_window: bool = True,
        patch_size: int = 1,
        ape: bool = False,
        img_size: int | Sequence[int] = 64,
    ) -> None:
        super().__init__()
        if not depths or len(depths) != len(num_heads):
            raise ValueError(f"depths = {list(depths)}, num_heads = {list(num_heads)}: one number each for every group of blocks")
        numbers = {"in_chans": in_chans, "embed_dim": embed_dim, "d_state": d_state, "window_size": window_size, "inner_rank": inner_rank}
        numbers |= {"num_tokens": num_tokens, "the smallest of depths": min(depths), "the smallest of num_heads": min(num_heads)}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} = {number}: must be at least 1")
        if patch_size != 1 or ape:
            raise ValueError("patch_size, ape: the network has patches of one pixel and no absolute position embedding; give 1 and false")
        self.group = find_group(group)
        self.in_chans, self.img_range, self.window_size = in_chans, img_range, window_size
        mean = RGB_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

        order = self.group.order
        width = divide_exactly(embed_dim, by=order, name="embed_dim")
        expanded = scan_width(mlp_ratio, embed_dim)
        inner = divide_exactly(expanded, by=order, name=f"int(mlp_ratio * embed_dim) = int({mlp_ratio} * {embed_dim})")

        def half(mixer: nn.Module) -> MixingHalf:
            return MixingHalf(mixer, self.feed_forward(embed_dim, inner, width, convffn_kernel_size), embed_dim, width)

        def block(heads: int, index: int) -> AttentiveBlock:
            attention = WindowAttention(
                embed_dim, width, divide_exactly(heads, by=order, name="num_heads"), window_size,
                shifted=index % 2 == 1, shift_single=shift_single_window, qkv_bias=qkv_bias,
            )  # fmt: skip
            router = PromptRouter(embed_dim, num_tokens, d_state, inner_rank, train_routing, eval_routing)
            scan = AttentiveScan2d(router, embed_dim, inner, width, d_state, step_rank(expanded), prompt_order)
            return AttentiveBlock(half(attention), half(scan))

        self.lift = nn.Conv2d(in_chans, width, 3, padding=1)
        self.norm_in = ChannelLayerNorm(width) if patch_norm else nn.Identity()
        self.groups = nn.ModuleList(
            AttentiveGroup(
                [block(heads, index) for index in range(depth)], residual_convolution(embed_dim, width, resi_connection), use_checkpoint
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm_out = ChannelLayerNorm(embed_dim)
        self.conv_after = residual_convolution(embed_dim, width, resi_connection)
        self.upscale, self.head = restoring_head(upsampler, upscale, order, width, in_chans)
        self.corrects_input = upsampler == ""

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Args:
            image: (b, in_chans, h, w) in [0, 1]; any size.

        Returns:
            (b, in_chans, s*h, s*w), around [0, 1], not clamped.
        """
        framing = Framing(self.group, image.shape[-2], image.shape[-1], self.window_size, image.device)
        centred = (image - self.mean) * self.img_range
        shallow = each(self.lift, framing.split(centred))
        x = each(self.norm_in, shallow)
        for group in self.groups:
            x = group(x, framing)
        body = each(lambda seen: self.conv_after(self.norm_out(seen)), framing.seen(x))
        restored = self.head(tuple(a + b for a, b in zip(shallow, body, strict=True)), framing)
        if self.corrects_input:
            restored = restored + centred
        return restored / self.img_range + self.mean

    def feed_forward(self, channels_in: int, hidden: int, channels: int, kernel_size: int) -> nn.Module:
        """The second branch of every half of a block; see `ConvFeedForward`."""
        return ConvFeedForward(channels_in, hidden, channels, kernel_size)


@ARCH_REGISTRY.register()
class MambaIRv2Light(MambaIRv2):
    """The light network: gated feed-forwards. Arguments as in `MambaIRv2`, with the light network's values as defaults.

    Args:
        convffn_kernel_size: unused, the gate's filter is 5x5; published option files carry it.
        mlp_ratio: int(mlp_ratio * embed_dim) must be twice a multiple of the group's order.

    Raises:
        ValueError: for a width that does not divide or vanishes, or an unknown choice.
    """

    def __init__(
        self,
        *,
        group: GroupName = "c1",
        in_chans: int = 3,
        embed_dim: int = 48,
        d_state: int = 8,
        depths: Sequence[int] = (5, 5, 5, 5),
        num_heads: Sequence[int] = (4, 4, 4, 4),
        window_size: int = 16,
        inner_rank: int = 32,
        num_tokens: int = 64,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 1.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int | None = None,
        img_range: float = 1.0,
        upsampler: Upsampler = "pixelshuffledirect",
        resi_connection: Connection = "1conv",
        prompt_order: PromptOrder = "raster",
        train_routing: Routing = "gumbel",
        eval_routing: Routing = "argmax",
        shift_single_window: bool = True,
        patch_size: int = 1,
        ape: bool = False,
        img_size: int | Sequence[int] = 64,
    ) -> None:
        super().__init__(
            group=group, in_chans=in_chans, embed_dim=embed_dim, d_state=d_state, depths=depths, num_heads=num_heads,
            window_size=window_size, inner_rank=inner_rank, num_tokens=num_tokens, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            patch_norm=patch_norm, use_checkpoint=use_checkpoint, upscale=upscale, img_range=img_range, upsampler=upsampler,
            resi_connection=resi_connection, prompt_order=prompt_order, train_routing=train_routing, eval_routing=eval_routing,
            shift_single_window=shift_single_window, patch_size=patch_size, ape=ape,
        )  # fmt: skip

    def feed_forward(self, channels_in: int, hidden: int, channels: int, kernel_size: int) -> nn.Module:
        """See `GatedFeedForward`."""
        return GatedFeedForward(channels_in, hidden, channels)
