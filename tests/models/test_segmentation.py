"""What segmentation does with a batch, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from eqmambair.engine.options import load_options
from eqmambair.models import SegmentationModel, ValidationRequest, find_model
from tests.engine.tiny_recognition import make_labelled_pictures, segmentation_options, write


def _model(root: Path, **changes: Any) -> SegmentationModel:
    for split in ("train", "val"):
        make_labelled_pictures(root, split, 3)
    options, _ = load_options(write(root, segmentation_options(root, **changes)))
    model = SegmentationModel(options, torch.device("cpu"))
    model.build_dataset(options.datasets["train"], "train")
    return model


@pytest.fixture
def batch() -> dict[str, Any]:
    return {"image": torch.rand(2, 3, 16, 16), "label": torch.randint(0, 2, (2, 16, 16)), "path": ["a", "b"]}


def test_name_stands_for_the_model() -> None:
    assert find_model("SegmentationModel") is SegmentationModel


def test_loss_is_the_weighted_sum_of_both_heads_at_the_size_of_the_labels(tmp_path: Path, batch: dict[str, Any]) -> None:
    model = _model(tmp_path)
    network = model.network.train()
    network.backbone[3].p = 0.0
    loss, parts = model.training_step(network, batch)
    heads = network(batch["image"])
    full = {key: F.interpolate(value, (16, 16), mode="bilinear") for key, value in heads.items()}
    expected = {key: F.cross_entropy(value, batch["label"]) for key, value in full.items()}
    torch.testing.assert_close(parts["l_main"], expected["out"])
    torch.testing.assert_close(loss, expected["out"] + 0.4 * expected["aux"])


@pytest.mark.parametrize(("average", "factor"), [("all", 0.5), ("valid", 1.0)])
def test_ignored_pixels_lower_the_loss_as_published_or_not_at_all(tmp_path: Path, average: str, factor: float) -> None:
    model = _model(tmp_path, train__loss_average=average)
    logits, label = torch.randn(1, 2, 8, 8), torch.randint(0, 2, (1, 8, 8))
    half = label.clone()
    half[:, 4:] = 255
    logits[:, :, 4:], label[:, 4:] = logits[:, :, :4], label[:, :4]
    torch.testing.assert_close(model._loss(logits, half), factor * model._loss(logits, label))
    assert float(model._loss(logits, torch.full_like(label, 255))) == 0


def test_validation_measures_at_the_size_of_the_labels(tmp_path: Path) -> None:
    model = _model(tmp_path)
    dataset = model.build_dataset(model.options.datasets["val"], "val")
    samples = torch.utils.data.default_collate([dataset[1]])
    record = model.validation_step(model.network.eval(), samples, ValidationRequest("mini", pictures=1))[0]
    assert int(record.facts["counts"][:, 2].sum()) == 22 * 28  # 24 rows, two of them ignored
    assert record.pictures["picture_found_truth"].shape == (24, 3 * 28, 3)
    assert model.summarise([record, record])["aAcc"] == pytest.approx(record.values["aAcc"])
