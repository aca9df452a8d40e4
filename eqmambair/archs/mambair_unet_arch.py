"""MambaIR's U-shaped form for real-world denoising.

Source: MambaIR (arXiv 2402.15648), section 4.1 and its published code: four levels of the same blocks, without mean and outer norms.
"""

from collections.abc import Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from eqmambair.archs.mambair_arch import StateSpaceBlock
from eqmambair.layers.kit import PlainKit


class Level(nn.ModuleList):
    """Some blocks of one width, one after the other."""

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        for block in self:
            x = block(x, order)
        return x


@ARCH_REGISTRY.register()
class MambaIRUNet(nn.Module):
    """Remove real camera noise; any size (sides are padded by reflection to multiples of 8 inside, and cut back).

    Args:
        inp_channels, out_channels: channels of the image, in and out; they must agree unless `dual_pixel_task`.
        dim: channels at full size, d; deeper levels have 2d, 4d, 8d. At least 30.
        num_blocks: blocks at the four levels, used by the encoder and the decoder.
        num_refinement_blocks: blocks behind the decoder, at full size.
        mlp_ratio: channels of the scan as a multiple of a level's width; 1.5 in the published network.
        d_state: state size N of the scan at every level.
        bias: whether the convolutions between the levels have a bias.
        dual_pixel_task: two views of 3 channels in, one out, and no skip from the input (dual-pixel defocus deblurring).

    Raises:
        ValueError: for widths that vanish, or channels that the skip from the input cannot join.
    """

    upscale = 1

    def __init__(
        self,
        *,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        mlp_ratio: float = 2.0,
        d_state: int = 16,
        bias: bool = False,
        dual_pixel_task: bool = False,
    ) -> None:
        super().__init__()
        if not dual_pixel_task and inp_channels != out_channels:
            raise ValueError(f"out_channels = {out_channels}: the input, {inp_channels} channels, is added to the output; they must agree")
        if len(num_blocks) != 4:
            raise ValueError(f"num_blocks = {list(num_blocks)}: the network has four levels")
        self.in_chans = inp_channels
        kit = PlainKit()
        self.scan_paths = kit.scan_paths

        def level(width: int, blocks: int) -> Level:
            return Level(StateSpaceBlock(kit, width, d_state, mlp_ratio, light=False) for _ in range(blocks))

        def down(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

        def up(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(width, width * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

        widths = [dim, 2 * dim, 4 * dim, 8 * dim]
        self.lift = nn.Conv2d(inp_channels, dim, 3, padding=1, bias=bias)
        self.encoder = nn.ModuleList(level(w, n) for w, n in zip(widths, num_blocks, strict=True))  # the last one is the bottom
        self.down = nn.ModuleList(down(w) for w in widths[:3])
        self.up = nn.ModuleList(up(w) for w in widths[1:])  # from level i + 1 to level i
        self.reduce = nn.ModuleList(nn.Conv2d(2 * w, w, 1, bias=bias) for w in widths[1:3])
        self.decoder = nn.ModuleList(level(max(w, 2 * dim), n) for w, n in zip(widths[:3], num_blocks[:3], strict=True))
        self.refinement = level(2 * dim, num_refinement_blocks)
        self.skip = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.project = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        """(b, inp_channels, h, w) in [0, 1] -> (b, out_channels, h, w), not clamped."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, 8)
        orders = [self.scan_paths(padded.shape[-2] // 2**i, padded.shape[-1] // 2**i, image.device) for i in range(4)]
        shallow = self.lift(padded).contiguous(memory_format=torch.channels_last)
        x = self.encoder[0](shallow, orders[0])
        skips = [x]
        for i in range(3):
            x = self.encoder[i + 1](self.down[i](x), orders[i + 1])
            skips.append(x)
        for i in (2, 1):
            x = self.reduce[i - 1](torch.cat([self.up[i](x), skips[i]], 1))
            x = self.decoder[i](x, orders[i])
        x = self.decoder[0](torch.cat([self.up[0](x), skips[0]], 1), orders[0])
        x = self.refinement(x, orders[0])
        restored = self.project(x) + padded if self.skip is None else self.project(x + self.skip(shallow))
        return restored[..., :height, :width]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend (b, c, h, w) at the bottom and the right to multiples, by reflection as often as it takes.

    By index, which has no case of its own for a size: one exported graph serves all.
    """
    for axis in (2, 3):
        length = image.shape[axis]
        steps = torch.arange(-(-length // multiple) * multiple, device=image.device)
        place = torch.remainder(steps, torch.sym_max(2 * length - 2, 1))
        image = image.index_select(axis, torch.where(place < length, place, 2 * length - 2 - place))
    return image
