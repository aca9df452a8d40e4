"""EQ-VMamba: image classification whose logits do not change when the image is turned, and whose maps turn with it.

Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138). The network is VMamba's skeleton built from equivariant layers, so
the guarantee holds layer by layer, for every value of the parameters.
"""

from collections.abc import Sequence
from typing import Literal

from basicsr.utils.registry import ARCH_REGISTRY

from eqmambair.archs.vmamba_arch import StateSpacePyramid
from eqmambair.groups import GroupName
from eqmambair.groups import group as find_group
from eqmambair.layers.kit import GroupKit


@ARCH_REGISTRY.register()
class EQVMamba(StateSpacePyramid):
    """Classify images, or be the backbone of dense prediction; logits are invariant, maps equivariant. The default is EQ-VMamba-T.

    Maps are (b, t*c, h, w), orientation slowest, as everywhere here; the published code keeps the orientation fastest.

    Args:
        group: what to commute with: ``c4`` is the published network; ``d4`` also commutes with mirror images.
        in_chans: channels of the image.
        num_classes: logits; 0 builds a backbone without head.
        depths: blocks in each stage.
        dims: channels of each stage, all orientations together, multiples of the group's order (the first of twice that); one number is the
            first stage's, doubled from stage to stage.
        ssm_d_state: state size N of the scan.
        ssm_ratio: scan fields as a multiple of a stage's channels (not fields), rounded down; the result must be a multiple of the order.
        ssm_conv_bias: whether the depthwise convolutions have a bias.
        mlp_ratio: hidden channels of the MLPs as a multiple of a stage's channels, rounded down to a multiple of the group's order.
        drop_path_rate: drop rate of the last block in training; earlier blocks have less, linearly.
        drop_form: ``sample`` drops whole branches of a sample (stochastic depth); ``element`` single entries, symmetric under the group;
            ``published`` the same entries in all samples, as the published code does.
        patch_size: pixels a side of the image for one pixel of the first stage; a multiple of 4.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
        out_indices: stages whose maps `forward` yields, each behind a norm of its own, instead of logits; then there is no classifier.
        param_generator: what makes the scan's steps and maps: ``group`` linear layers, or ``independent`` ones for each orientation (the
            paper's ablation).
        exact_any_size: commute with the group at every size. False repeats the published code, which does so only where both sides are
            multiples of 32; the two agree there.
        init: ``published`` repeats the published code's accidents, which leave the scan almost disconnected at first (docs/vision.md);
            ``corrected`` draws with true fan-ins and symmetric ranges.

    Raises:
        ValueError: for sizes that do not fit, or an unknown choice.
    """

    def __init__(
        self,
        *,
        group: GroupName = "c4",
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: int | Sequence[int] = 96,
        ssm_d_state: int = 1,
        ssm_ratio: float = 1.0,
        ssm_conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        drop_form: Literal["sample", "element", "published"] = "sample",
        patch_size: int = 4,
        use_checkpoint: bool = False,
        out_indices: Sequence[int] = (),
        param_generator: Literal["group", "independent"] = "group",
        exact_any_size: bool = True,
        init: Literal["published", "corrected"] = "published",
    ) -> None:
        if init not in ("published", "corrected"):
            raise ValueError(f"init: {init!r} is not known; choose 'published' or 'corrected'")
        kit = GroupKit(
            find_group(group), "published" if init == "published" else "mamba", drop_form=drop_form, exact_any_size=exact_any_size,
            param_generator=param_generator,
        )  # fmt: skip
        super().__init__(
            kit, in_chans=in_chans, num_classes=num_classes, depths=depths, dims=dims, ssm_d_state=ssm_d_state, ssm_ratio=ssm_ratio,
            ssm_conv_bias=ssm_conv_bias, mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, patch_size=patch_size,
            use_checkpoint=use_checkpoint, out_indices=out_indices,
        )  # fmt: skip
