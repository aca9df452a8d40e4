"""How well labels agree: counts of pixels of each class, and the figures that follow from them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]  # (classes, 3): pixels both found and true, found, true


def agreement(found: Tensor, true: Tensor, classes: int, ignored: int = 255) -> Counts:
    """Pixels of each class that are found and true, found, and true; ``ignored`` pixels of the truth do not count.

    Args:
        found: labels, (h, w).
        true: labels, (h, w).
    """
    from torchmetrics.functional.classification import multiclass_stat_scores  # here: torchmetrics takes a second to import

    scores = multiclass_stat_scores(found[None], true[None], classes, average=None, ignore_index=ignored)
    hit, false, _, missed, _ = scores.unbind(-1)
    return torch.stack([hit, hit + false, hit + missed], dim=-1).cpu().numpy()


def class_figures(counts: Counts, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Intersection over union and accuracy (recall) in percent of each class that is found or true somewhere.

    Args:
        counts: sums of `agreement` over a set.
    """
    figures = {}
    for name, (hit, found, true) in zip(names, counts.tolist(), strict=True):
        union = found + true - hit
        if union:
            figures[name] = {"IoU": 100 * hit / union} | ({"Acc": 100 * hit / true} if true else {})
    return figures


def set_figures(counts: Counts) -> dict[str, float]:
    """``mIoU`` and ``mAcc``, the means of the classes' figures, and ``aAcc``, the share of right pixels; in percent.

    Classes that are neither found nor true anywhere have no IoU, and those that are not true have no accuracy: they are left out.
    """
    figures = class_figures(counts, [str(index) for index in range(len(counts))])
    pixels = int(counts[:, 2].sum())
    return {
        "mIoU": _mean([values["IoU"] for values in figures.values()]),
        "mAcc": _mean([values["Acc"] for values in figures.values() if "Acc" in values]),
        "aAcc": 100 * int(counts[:, 0].sum()) / pixels if pixels else float("nan"),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
