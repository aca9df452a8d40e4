"""Average precision of boxes and masks, by COCO's own code behind torchmetrics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Figures of a set, as torchmetrics calls them and as we do; percent.
_FIGURES = {"map": "ap", "map_50": "ap50", "map_75": "ap75", "map_small": "ap_small", "map_medium": "ap_medium", "map_large": "ap_large"}


@dataclass(frozen=True)
class Things:
    """What a picture holds, or what was found in it; masks as run lengths, so that many pictures fit into memory.

    Attributes:
        boxes: (n, 4) as x0, y0, x1, y1 in pixels.
        labels: (n,), from 1.
        masks: one a thing: ``{"size": [h, w], "counts": bytes}``.
        scores: (n,), of what was found.
        crowd: (n,), of what is there: a crowd counts neither as found nor as missed.
        area: (n,), of what is there.
    """

    boxes: Tensor
    labels: Tensor
    masks: list[dict[str, Any]]
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    crowd: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    area: Tensor = field(default_factory=lambda: torch.zeros(0))


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (n, h, w), 0 or 1, as pycocotools keeps them."""
    from pycocotools import mask

    return [mask.encode(np.asfortranarray(each)) for each in masks.to("cpu", torch.uint8).numpy()]


def average_precision(
    found: Sequence[Things], true: Sequence[Things], classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures of a whole set and of each class that occurs, in percent; -100 where there is nothing to measure (no small things, say).

    Args:
        found: what was found in each picture.
        true: what is in it.
        classes: their names; label 1 is the first.
    """
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_type=("bbox", "segm"), class_metrics=True, backend="pycocotools")
    metric.update([_for_torchmetrics(each) for each in found], [_for_torchmetrics(each) for each in true])
    measured = metric.compute()
    figures: dict[str, float] = {}
    for kind, word in (("bbox", "box"), ("segm", "mask")):
        figures |= {f"{word}_{ours}": 100 * float(measured[f"{kind}_{theirs}"]) for theirs, ours in _FIGURES.items()}
    present = measured["classes"].flatten().tolist()
    each = {word: measured[f"{kind}_map_per_class"].flatten().tolist() for kind, word in (("bbox", "box"), ("segm", "mask"))}
    return figures, {
        classes[label - 1]: {f"{word}_ap": 100 * values[index] for word, values in each.items()} for index, label in enumerate(present)
    }


def _for_torchmetrics(things: Things) -> dict[str, Tensor]:
    from pycocotools import mask

    masks = mask.decode(things.masks).transpose(2, 0, 1) if things.masks else np.zeros((0, 1, 1))
    entry = {"boxes": things.boxes, "labels": things.labels, "masks": torch.from_numpy(masks.astype(bool))}
    if len(things.scores) or not len(things.labels):
        entry["scores"] = things.scores
    if len(things.crowd):
        entry |= {"iscrowd": things.crowd.long(), "area": things.area}
    return entry
