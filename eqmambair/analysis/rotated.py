"""How recognition stands turned pictures: accuracy at any angle, mIoU at the four right angles.

Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), Figure 2 and Table III.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from eqmambair.data.classification import ClassifiedPictures
from eqmambair.data.segmentation import SegmentationDataset
from eqmambair.inference.classification import PictureClassifier
from eqmambair.inference.segmentation import Segmenter
from eqmambair.metrics.segmentation import agreement, set_figures

Figures = dict[float, dict[str, float]]  # angle in degrees -> figure -> percent
Progress = Callable[[Iterable[int]], Iterable[int]]

_TOP = 5
RIGHT_ANGLES = (0.0, 90.0, 180.0, 270.0)


def turned(view: Image.Image, angle: float) -> Image.Image:
    """A view turned counter-clockwise about its centre: nearest neighbour, same canvas, black corners.

    Right angles move the pixels of a square view and change none.
    """
    return view.rotate(angle, Image.Resampling.NEAREST, fillcolor=0)


def rotated_accuracy(
    classifier: PictureClassifier,
    dataset: ClassifiedPictures,
    indices: Sequence[int],
    angles: Sequence[float],
    batch: int = 32,
    progress: Progress = lambda steps: steps,
) -> Figures:
    """Top-1 and top-5 accuracy at every angle: the testing view of each picture is cropped first, then turned.

    Args:
        classifier: gives logits of views.
        dataset: pictures and their classes.
        indices: which of them.
        angles: degrees, counter-clockwise.
        batch: views at once.
    """
    hits = {angle: np.zeros(2, np.int64) for angle in angles}
    for start in progress(range(0, len(indices), batch)):
        chosen = indices[start : start + batch]
        views = [classifier.preprocessing.crop(dataset.picture(index)) for index in chosen]
        labels = torch.tensor([dataset.label(index) for index in chosen])[:, None]
        for angle in angles:
            logits = classifier.logits([turned(view, angle) for view in views]).cpu()
            right = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices == labels
            hits[angle] += np.array([int(right[:, 0].sum()), int(right.any(1).sum())])
    return {angle: {"top1": 100 * counts[0] / len(indices), "top5": 100 * counts[1] / len(indices)} for angle, counts in hits.items()}


def rotated_segmentation(
    segmenter: Segmenter, dataset: SegmentationDataset, indices: Sequence[int], progress: Progress = lambda steps: steps
) -> Figures:
    """mIoU and accuracies at the four right angles: resized pictures are turned, their logits turned back and compared with the labels."""
    counts = {angle: np.zeros((len(dataset.classes), 3), np.int64) for angle in RIGHT_ANGLES}
    for position in progress(range(len(indices))):
        sample = dataset[indices[position]]
        for turns, angle in enumerate(RIGHT_ANGLES):
            found = segmenter.labels(sample["image"], turns)
            counts[angle] += agreement(found.cpu(), sample["label"], len(dataset.classes))
    return {angle: set_figures(each) for angle, each in counts.items()}


def spread(figures: Figures, key: str) -> dict[str, Any]:
    """What a figure does over the angles.

    Returns:
        ``upright`` (angle 0, None if it was not measured), ``mean`` and population ``std`` over all angles, ``right`` and ``right_std``
        over the right angles among them, ``turned`` (mean over the right angles but 0) and ``drop`` (``upright`` less ``right``).
    """
    every = [values[key] for values in figures.values()]
    right = {angle: figures[angle][key] for angle in RIGHT_ANGLES if angle in figures}
    proper = [value for angle, value in right.items() if angle]
    upright = right.get(0.0)
    mean = statistics.fmean(right.values()) if right else None
    return {
        "upright": upright,
        "mean": statistics.fmean(every),
        "std": statistics.pstdev(every),
        "right": mean,
        "right_std": statistics.pstdev(right.values()) if right else None,
        "turned": statistics.fmean(proper) if proper else None,
        "drop": upright - mean if upright is not None and mean is not None else None,
    }
