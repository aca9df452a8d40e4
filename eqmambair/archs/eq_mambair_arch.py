"""EQ-MambaIR: image restoration that commutes with quarter turns.

Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138). The network is MambaIR's skeleton built from equivariant
layers, so the guarantee holds layer by layer, for every size and every value of the parameters: f(g x) = g f(x).
"""

from collections.abc import Sequence
from typing import Literal

from basicsr.utils.registry import ARCH_REGISTRY

from eqmambair.archs.mambair_arch import StateSpaceRestorer
from eqmambair.groups import GroupName
from eqmambair.groups import group as find_group
from eqmambair.layers.kit import GroupKit


@ARCH_REGISTRY.register()
class EQMambaIR(StateSpaceRestorer):
    """Restore images; turning the input turns the output.

    Args:
        group: what to commute with: ``c4`` is the published network; ``d4`` also commutes with mirror images.
        in_chans: channels of the image, in and out; 3 is RGB.
        embed_dim: channels of a feature map, all orientations together; a multiple of the group's order, at least 30.
        depths: blocks in each residual group.
        d_state: state size N of the scan.
        mlp_ratio: fields of the scan as a multiple of `embed_dim`, rounded down; the result must be a multiple of the group's order.
        drop_rate: must be 0.
        drop_path_rate: drop rate of the last block's scan branch in training; earlier blocks have less, linearly.
        drop_form: ``sample`` drops the whole branch of a sample; ``element`` single entries, symmetric under the group, as the published
            code does.
        patch_norm: whether a layer norm stands before the first group of blocks.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        upscale: output pixels per input pixel and side: 2, 3, 4 (8 with `pixelshuffle`); 1 without upsampler. None: 2, or 1.
        img_range: the image is multiplied by it behind the mean; 1 in every published network.
        upsampler: ``pixelshuffle`` (classic), ``pixelshuffledirect`` (light) or empty (restoration at the same size).
        resi_connection: ``1conv`` or ``3conv`` at the end of each group of blocks.
        init: ``mamba`` draws the step path in +-R^-1/2; ``published`` repeats the published code's accidents (see `GroupScan2d`).
        img_size, patch_size, window_size: unused; published option files carry them.

    Raises:
        ValueError: for a width that does not divide or vanishes, or an unknown choice.
    """

    def __init__(
        self,
        *,
        group: GroupName = "c4",
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        d_state: int = 16,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        drop_form: Literal["sample", "element"] = "sample",
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int | None = None,
        img_range: float = 1.0,
        upsampler: Literal["pixelshuffle", "pixelshuffledirect", ""] = "",
        resi_connection: Literal["1conv", "3conv"] = "1conv",
        init: Literal["mamba", "published"] = "mamba",
        img_size: int | Sequence[int] = 64,
        patch_size: int = 1,
        window_size: int | None = None,
    ) -> None:
        for name, word, words in (("drop_form", drop_form, ("sample", "element")), ("init", init, ("mamba", "published"))):
            if word not in words:
                raise ValueError(f"{name}: {word!r} is not known; choose one of {', '.join(words)}")
        kit = GroupKit(find_group(group), init, drop_form=drop_form)
        super().__init__(
            kit, in_chans=in_chans, embed_dim=embed_dim, depths=depths, d_state=d_state, mlp_ratio=mlp_ratio, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, patch_norm=patch_norm, use_checkpoint=use_checkpoint, upscale=upscale, img_range=img_range,
            upsampler=upsampler, resi_connection=resi_connection,
        )  # fmt: skip
