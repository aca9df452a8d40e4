"""Mask R-CNN on the backbones of the registry."""

import pytest
import torch

from eqmambair import UserError, build_network
from eqmambair.archs.mask_rcnn_arch import MaskRCNN

BACKBONES = {
    "VMamba": {"dims": 8, "depths": [1, 1, 1, 1]},
    "EQVMamba": {"dims": 16, "depths": [1, 1, 1, 1]},
    "GroupMamba": {"stem_hidden_dim": 4, "embed_dims": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]},
    "V2M": {"embed_dim": 8, "depth": 4, "d_state": 2, "img_size": 64},
    "V2MPyramid": {"dims": 8, "depths": [1, 1, 1, 1]},
    "SpectralVMamba": {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "rfn_width": 2, "top_k": 2},
}
SMALL = {
    "num_classes": 2,
    "fpn_channels": 8,
    "head_channels": 8,
    "box_features": 16,
    "min_size": 64,
    "max_size": 96,
    "rois_per_image": 16,
    "anchor_sizes": [8, 16, 32, 64, 128],
}


def network(backbone: str = "VMamba", **changes) -> MaskRCNN:
    return build_network({"type": "MaskRCNN", "backbone": {"type": backbone, **BACKBONES[backbone]}, **SMALL, **changes})


def target(height: int, width: int) -> dict[str, torch.Tensor]:
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    masks[:, 5:25, 10:40] = 1
    return {"boxes": torch.tensor([[10.0, 5.0, 40.0, 25.0]]), "labels": torch.tensor([2]), "masks": masks}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_of_four_stages_learns_and_finds(backbone):
    detector = network(backbone)
    images = [torch.rand(3, 60, 80), torch.rand(3, 50, 45)]
    losses = detector(images, [target(60, 80), target(50, 45)])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    unused = [name for name, parameter in detector.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert unused == []
    detector.eval()
    with torch.no_grad():
        found = detector(images)
    assert [each["masks"].shape[-2:] for each in found] == [(60, 80), (50, 45)]
    for each in found:
        assert len(each["boxes"]) == len(each["labels"]) == len(each["scores"]) == len(each["masks"])


def test_targets_are_left_as_they_are_and_pictures_without_things_are_taken():
    detector = network()
    given, empty = target(60, 80), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty["masks"] = torch.zeros(0, 60, 80, dtype=torch.uint8)
    boxes = given["boxes"].clone()
    losses = detector(torch.rand(2, 3, 60, 80), [given, empty])
    assert all(value.isfinite() for value in losses.values())
    assert torch.equal(given["boxes"], boxes)
    assert given["masks"].shape == (1, 60, 80)


def test_size_of_the_published_combination():
    """GroupMamba-T's stages, the pyramid and the heads come to about the 40 million that its paper names."""
    with torch.device("meta"):
        detector = MaskRCNN(backbone={"type": "GroupMamba"})
    assert sum(parameter.numel() for parameter in detector.parameters()) == pytest.approx(40.6e6, rel=0.002)


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"anchor_sizes": [8]}, "five anchor sizes"),
        ({"min_size": 200}, "max_size"),
        ({"num_classes": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            network(**changes)
    with pytest.raises(UserError, match="4 are needed"):
        MaskRCNN(backbone={"type": "V2MPyramid", "dims": [8, 8], "depths": [1, 1]})
    with pytest.raises(ValueError, match="needs targets"):
        network()(torch.rand(1, 3, 64, 64))
    flat = target(60, 80) | {"boxes": torch.tensor([[10.0, 5.0, 10.0, 25.0]])}
    with pytest.raises(ValueError, match="without extent"):
        network()(torch.rand(1, 3, 60, 80), [flat])
