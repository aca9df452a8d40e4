"""UPerNet and EQ-UPerNet: semantic segmentation on any backbone of the registry that yields four stages.

Source: Unified Perceptual Parsing (Xiao et al., ECCV 2018, arXiv 1807.10221), section 3.1, as VMamba (arXiv 2401.10166) uses it; the
equivariant form is EQ-UPerNet of Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138). Both are one skeleton over a `LayerKit`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.archs.building import build_backbone
from eqmambair.archs.classifier import Classifier, OutputNorms
from eqmambair.layers.drop import FieldDropout
from eqmambair.layers.kit import GroupKit, LayerKit, PlainKit
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.views import divide_exactly


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners not aligned: (b, c, h', w') to the size of `like`, (b, c, h, w)."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def conv_norm_relu(conv: nn.Module, norm: nn.Module) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU."""
    return nn.Sequential(conv, norm, nn.ReLU())


class PyramidPooling(nn.Module):
    """The last map beside what its means over coarse grids tell, fused.

    Args:
        kit: the layers to build from.
        width_in, width: fields before and after.
        scales: cells a side of each grid.
    """

    def __init__(self, kit: LayerKit, width_in: int, width: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.kit, self.scales = kit, tuple(scales)
        self.branches = nn.ModuleList(conv_norm_relu(kit.pointwise(width_in, width, bias=False), kit.batch_norm(width)) for _ in scales)
        self.fuse = conv_norm_relu(kit.conv(width_in + len(scales) * width, width, bias=False), kit.batch_norm(width))

    def pooled(self, x: Tensor) -> list[Tensor]:
        """What each grid tells, at the size of x: (b, c, h, w) each."""
        return [resize(branch(F.adaptive_avg_pool2d(x, scale)), x) for branch, scale in zip(self.branches, self.scales, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c, h, w)."""
        return self.fuse(self.kit.concat([x, *self.pooled(x)]))


class PlainHead(nn.Module):
    """The end of both heads: plain channels, drop in training, a linear classifier for each pixel.

    Args:
        to_plain: convolution without bias that makes `channels` plain channels.
        channels: channels.
        num_classes: logits of each pixel.
        drop: drop in training.
    """

    def __init__(self, to_plain: nn.Module, channels: int, num_classes: int, drop: nn.Module) -> None:
        super().__init__()
        self.fuse = conv_norm_relu(to_plain, nn.BatchNorm2d(channels))
        self.drop = drop
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> logits (b, num_classes, h, w)."""
        return self.classify(self.drop(self.fuse(x)))


class PyramidDecoder(nn.Module):
    """Four normalised maps to logits at the size of the first one.

    Args:
        kit: the layers to build from.
        channels_in: channels of the four maps.
        channels: decoder width c, all orientations together.
        num_classes: logits of each pixel.
        pool_scales: cells a side of each grid of the pyramid pooling.
        drop: drop in training, before the classifier.
    """

    def __init__(
        self, kit: LayerKit, channels_in: Sequence[int], channels: int, num_classes: int, pool_scales: Sequence[int], drop: nn.Module
    ) -> None:
        super().__init__()
        self.kit = kit
        width = divide_exactly(channels, by=kit.order, name="channels")
        *below, top = (divide_exactly(c, by=kit.order, name="the backbone's channels") for c in channels_in)
        self.pooling = PyramidPooling(kit, top, width, pool_scales)
        self.laterals = nn.ModuleList(conv_norm_relu(kit.pointwise(w, width, bias=False), kit.batch_norm(width)) for w in below)
        self.smooth = nn.ModuleList(conv_norm_relu(kit.conv(width, width, bias=False), kit.batch_norm(width)) for _ in below)
        self.head = PlainHead(kit.project((len(below) + 1) * width, channels, bias=False), channels, num_classes, drop)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (b, c_i, h_i, w_i), the largest first -> logits (b, num_classes, h_0, w_0)."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=False)] + [self.pooling(maps[-1])]
        for i in range(len(levels) - 1, 0, -1):  # from the top down, so that sums cascade
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1])
        smooth = [conv(x) for conv, x in zip(self.smooth, levels, strict=False)] + [levels[-1]]
        return self.head(self.kit.concat([smooth[0], *(resize(x, smooth[0]) for x in smooth[1:])]))


class PyramidSegmenter(nn.Module):
    """The skeleton of UPerNet and EQ-UPerNet; its subclasses document the arguments."""

    def __init__(
        self,
        backbone: Classifier,
        kit: LayerKit,
        drop: nn.Module,
        *,
        num_classes: int,
        channels: int,
        aux_channels: int,
        aux_index: int,
        pool_scales: Sequence[int],
    ) -> None:
        super().__init__()
        if min(num_classes, channels, *pool_scales) < 1 or aux_channels < 0 or not pool_scales:
            sizes = f"num_classes = {num_classes}, channels = {channels}, pool_scales = {list(pool_scales)}, aux_channels = {aux_channels}"
            raise ValueError(f"{sizes}: at least 1, aux_channels at least 0 (no auxiliary head)")
        if not 0 <= aux_index < len(backbone.feature_channels):
            raise ValueError(f"aux_index = {aux_index}: a stage of the backbone, 0 to {len(backbone.feature_channels) - 1}")
        self.in_chans, self.num_classes, self.aux_index = backbone.in_chans, num_classes, aux_index
        self.backbone = backbone
        self.out_norms = OutputNorms(backbone.kit, backbone.feature_channels)
        self.decoder = PyramidDecoder(kit, backbone.feature_channels, channels, num_classes, pool_scales, drop)
        aux_width = divide_exactly(backbone.feature_channels[aux_index], by=kit.order, name="the backbone's channels")
        self.aux_head = (
            PlainHead(kit.project(aux_width, aux_channels, bias=False), aux_channels, num_classes, drop) if aux_channels else None
        )  # fmt: skip
        draw_head(self.decoder)
        if self.aux_head is not None:
            draw_head(self.aux_head)

    def logits(self, x: Tensor, auxiliary: bool = True) -> dict[str, Tensor]:
        """The logits as the heads make them, in whichever mode the network is.

        Args:
            x: normalised images, (b, in_chans, h, w); any size.
            auxiliary: whether the auxiliary head runs, if there is one.

        Returns:
            ``out``: (b, num_classes, ceil(h/4), ceil(w/4)); ``aux``: the same at stride 16 (of stage `aux_index`), if it ran.
        """
        maps = self.out_norms(self.backbone.features(x))
        logits = {"out": self.decoder(maps)}
        if auxiliary and self.aux_head is not None:
            logits["aux"] = self.aux_head(maps[self.aux_index])
        return logits

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Segment images.

        Args:
            x: normalised images, (b, in_chans, h, w); any size.

        Returns:
            In training mode what the loss needs, as `logits`: ``{"out": stride 4, "aux": stride 16}``; the loss resizes them to the labels.
            In evaluation mode logits at the size of the input, (b, num_classes, h, w), resized bilinearly; the auxiliary head does not run.
        """
        if self.training:
            return self.logits(x)
        return resize(self.logits(x, auxiliary=False)["out"], x)


def draw_head(head: nn.Module) -> None:
    """Draw a head's layers as published: plain ones normal by fan-out, group 1x1 ones uniform, classifiers from N(0, 0.01^2).

    Group and projection 3x3 convolutions keep the range that they were made with, as the published code leaves it.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, GroupLinear):
            bound = math.sqrt(6 / module.weight.shape[1])
            nn.init.uniform_(module.weight, -bound, bound)
    for module in head.modules():
        if isinstance(module, PlainHead):
            nn.init.normal_(module.classify.weight, std=0.01)
            if module.classify.bias is not None:
                nn.init.zeros_(module.classify.bias)


@ARCH_REGISTRY.register()
class UPerNet(PyramidSegmenter):
    """Segment images with a plain decoder.

    Args:
        backbone: ``{type: VMamba, ...}``, a network of the registry with its options; built without its classifier, with an output norm for
            each stage. On an equivariant backbone the decoder still is a plain one, and the whole is not equivariant.
        num_classes: logits of each pixel.
        channels: width of the decoder.
        aux_channels: width of the auxiliary head, which only training uses; 0 for none.
        aux_index: the stage that the auxiliary head reads.
        pool_scales: cells a side of each grid of the pyramid pooling.
        dropout_ratio: share of whole channels that each head drops in training.
        equivariant: unused, published descriptions carry it; must be false.

    Raises:
        UserError: if the backbone is unknown or does not yield four stages.
        ValueError: for sizes that do not fit.
    """

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        num_classes: int = 150,
        channels: int = 512,
        aux_channels: int = 256,
        aux_index: int = 2,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout_ratio: float = 0.1,
        equivariant: bool = False,
    ) -> None:
        if equivariant:
            raise ValueError("equivariant: this is the plain decoder; choose the type EQUPerNet")
        super().__init__(
            build_backbone(backbone), PlainKit(), nn.Dropout2d(dropout_ratio), num_classes=num_classes, channels=channels,
            aux_channels=aux_channels, aux_index=aux_index, pool_scales=pool_scales,
        )  # fmt: skip


@ARCH_REGISTRY.register()
class EQUPerNet(PyramidSegmenter):
    """Segment images; turning the image turns the logits. The group is the backbone's.

    Args:
        backbone: ``{type: EQVMamba, ...}``, an equivariant network of the registry with its options; built without its classifier, with an
            output norm for each stage.
        num_classes: logits of each pixel.
        channels: width of the decoder, all orientations together; a multiple of the group's order.
        aux_channels: width of the auxiliary head, which only training uses; 0 for none. With the published drop a multiple of the order.
        aux_index: the stage that the auxiliary head reads.
        pool_scales: cells a side of each grid of the pyramid pooling.
        dropout_ratio: share that each head drops in training.
        drop_form: ``channel`` drops whole channels of a sample, as the plain decoder; ``published`` single pixels of a quarter of the
            channels, symmetric under the group and the same in all samples, as the published code does.
        equivariant: unused, published descriptions carry it; must be true.

    Raises:
        UserError: if the backbone is unknown or does not yield four stages.
        ValueError: for sizes that do not fit, an unknown choice, or a backbone without a group.
    """

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        num_classes: int = 150,
        channels: int = 512,
        aux_channels: int = 256,
        aux_index: int = 2,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout_ratio: float = 0.1,
        drop_form: Literal["channel", "published"] = "channel",
        equivariant: bool = True,
    ) -> None:
        if not equivariant:
            raise ValueError("equivariant: this is the equivariant decoder; choose the type UPerNet")
        if drop_form not in ("channel", "published"):
            raise ValueError(f"drop_form: {drop_form!r} is not known; choose 'channel' or 'published'")
        network = build_backbone(backbone)
        kit = network.kit
        if not isinstance(kit, GroupKit):
            raise ValueError(f"backbone: {backbone.get('type')} is not equivariant; choose EQVMamba, or the type UPerNet")
        if drop_form == "published":
            divide_exactly(aux_channels, by=kit.order, name="aux_channels")
        drop = nn.Dropout2d(dropout_ratio) if drop_form == "channel" else FieldDropout(kit.group, dropout_ratio, whole_batch=True)
        super().__init__(
            network, kit, drop, num_classes=num_classes, channels=channels, aux_channels=aux_channels, aux_index=aux_index,
            pool_scales=pool_scales,
        )  # fmt: skip
