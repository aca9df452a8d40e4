"""Mask R-CNN: boxes and masks of things, on the maps of any classifier of the registry with four stages.

Source: Mask R-CNN (He et al., arXiv 1703.06870) with a feature pyramid (Lin et al., arXiv 1612.03144). Pyramid, proposals and heads are
torchvision's; the recipe around them is that of VMamba and Swin.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from eqmambair.archs.building import build_backbone
from eqmambair.archs.classifier import OutputNorms

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@ARCH_REGISTRY.register()
class MaskRCNN(nn.Module):
    """Find things: a box, a class, a score and a mask for each.

    Pictures of any sizes are resized, normalised and padded to a batch inside; what comes out is in pixels of the pictures as given.

    Args:
        backbone: ``{type: VMamba, ...}``, a network of the registry with four stages, with its options; built without its classifier,
            with an output norm for each stage. On an equivariant backbone the detector is a plain one and the whole is not equivariant.
        num_classes: classes of things, the background not counted; labels are 1 to num_classes.
        fpn_channels: width of the feature pyramid.
        head_channels: width of the four convolutions that draw masks.
        box_features: width of the two layers that find classes and boxes.
        anchor_sizes: side of the anchors at each of the five levels, in pixels of the resized picture.
        min_size: shorter side that pictures are resized to, in pixels; of a list training draws one for each picture, testing takes the
            last.
        max_size: longest side after resizing.
        rois_per_image: proposals of a picture that the heads are trained on.
        score_threshold: detections below it are left out.
        detections: most detections of a picture.
        image_mean, image_std: what pictures in [0, 1] are normalised by.

    Raises:
        UserError: if the backbone is unknown or does not yield four stages.
        ValueError: for sizes that do not fit.
    """

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        num_classes: int = 80,
        fpn_channels: int = 256,
        head_channels: int = 256,
        box_features: int = 1024,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        rois_per_image: int = 512,
        score_threshold: float = 0.05,
        detections: int = 100,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        sides = [min_size] if isinstance(min_size, int) else list(min_size)
        if (
            len(anchor_sizes) != 5
            or not sides
            or min(num_classes, fpn_channels, detections, rois_per_image, head_channels, box_features, *anchor_sizes, *sides) < 1
        ):
            given = f"num_classes = {num_classes}, fpn_channels = {fpn_channels}, anchor_sizes = {list(anchor_sizes)}, min_size = {sides}"
            raise ValueError(f"{given}, detections = {detections}: five anchor sizes, and all at least 1")
        if max(sides) > max_size:
            raise ValueError(f"min_size = {sides}: must not be above max_size = {max_size}")
        self.backbone = build_backbone(backbone)
        if self.backbone.in_chans != 3:
            raise ValueError(f"the backbone takes {self.backbone.in_chans} channels; pictures are RGB here")
        self.in_chans, self.num_classes = 3, num_classes
        channels = self.backbone.feature_channels
        self.out_norms = OutputNorms(self.backbone.kit, channels)
        self.fpn = FeaturePyramidNetwork(list(channels), fpn_channels, LastLevelMaxPool())
        parts = detection.MaskRCNN(
            _Width(fpn_channels), min_size=tuple(sides), max_size=max_size, image_mean=list(image_mean),
            image_std=list(image_std), rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
            box_head=TwoMLPHead(fpn_channels * 7 * 7, box_features), box_predictor=FastRCNNPredictor(box_features, num_classes + 1),
            mask_head=MaskRCNNHeads(fpn_channels, (head_channels,) * 4, dilation=1),
            mask_predictor=MaskRCNNPredictor(head_channels, head_channels, num_classes + 1),
            box_batch_size_per_image=rois_per_image, box_score_thresh=score_threshold, box_detections_per_img=detections,
        )  # fmt: skip
        self.transform, self.rpn, self.roi_heads = parts.transform, parts.rpn, parts.roi_heads

    def pyramid(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Normalised images (b, 3, h, w) -> five maps of `fpn_channels`: at the backbone's strides (4, 8, 16, 32) and twice the last."""
        maps = self.out_norms(self.backbone.features(x))
        pyramid: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), each) for i, each in enumerate(maps)))
        return pyramid

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, things in evaluation.

        Args:
            images: RGB in [0, 1], each (3, h, w) with sides of its own; or a batch (b, 3, h, w).
            targets: for training, one a picture: ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels, ``labels`` (n,) from 1, ``masks`` (n, h, w)
                uint8 0 or 1.

        Returns:
            In training the losses of class, box, mask, objectness and proposals. In evaluation for each picture ``boxes`` (n, 4),
            ``labels`` (n,), ``scores`` (n,) and ``masks`` (n, 1, h, w) in [0, 1].

        Raises:
            ValueError: in training without targets, or with a box without extent.
        """
        if self.training and targets is None:
            raise ValueError("training needs targets")
        given = None if targets is None else [dict(target) for target in targets]
        for number, target in enumerate(given or []):
            boxes = target["boxes"]
            if self.training and bool((boxes[:, 2:] <= boxes[:, :2]).any()):
                raise ValueError(f"picture {number} of the batch has a box without extent")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, resized = self.transform(list(images), given if self.training else None)
        maps = self.pyramid(batch.tensors)
        proposals, losses = self.rpn(batch, maps, resized)
        found, more = self.roi_heads(maps, proposals, batch.image_sizes, resized)
        if self.training:
            return {**losses, **more}
        results: list[dict[str, Tensor]] = self.transform.postprocess(found, batch.image_sizes, sizes)
        return results


class _Width(nn.Module):
    """Tells torchvision how wide the pyramid is; the network runs the pyramid itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
