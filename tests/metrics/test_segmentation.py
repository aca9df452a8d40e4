"""mIoU and accuracies against torchmetrics' own classes, and by hand."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from eqmambair.metrics.segmentation import agreement, class_figures, set_figures


def test_figures_of_a_set_are_torchmetrics() -> None:
    found, true = torch.randint(0, 4, (3, 13, 17)), torch.randint(0, 4, (3, 13, 17))
    true[:, :3] = 255
    counts = sum(agreement(f, t, 4) for f, t in zip(found, true, strict=True))
    figures = set_figures(counts)
    assert figures["mIoU"] == pytest.approx(100 * float(MulticlassJaccardIndex(4, ignore_index=255)(found, true)))
    assert figures["mAcc"] == pytest.approx(100 * float(MulticlassAccuracy(4, average="macro", ignore_index=255)(found, true)))
    assert figures["aAcc"] == pytest.approx(100 * float(MulticlassAccuracy(4, average="micro", ignore_index=255)(found, true)))


def test_absent_classes_are_left_out() -> None:
    true = torch.tensor([[0, 0, 255, 255]])
    found = torch.tensor([[0, 1, 2, 2]])  # class 2 is found where nothing counts
    counts = agreement(found, true, 4)
    assert class_figures(counts, ["a", "b", "c", "d"]) == {"a": {"IoU": 50, "Acc": 50}, "b": {"IoU": 0}}
    assert set_figures(counts) == {"mIoU": 25, "mAcc": 50, "aAcc": 50}


def test_a_picture_without_labels_has_no_figures() -> None:
    counts = agreement(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255), 3)
    assert all(value != value for value in set_figures(counts).values())
