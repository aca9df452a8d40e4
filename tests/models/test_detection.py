"""What detection does with a batch, and the figures of a set."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pycocotools", reason="detection needs pycocotools")

from eqmambair.archs import build_network
from eqmambair.data.pasted import make_pasted_set
from eqmambair.engine.options import load_options
from eqmambair.errors import UserError
from eqmambair.metrics.detection import Things, average_precision, run_lengths
from eqmambair.models import ValidationRequest, find_model
from eqmambair.models.detection import DetectionModel
from tests.engine.tiny import changed
from tests.engine.tiny_recognition import write

NETWORK = {
    "type": "MaskRCNN", "num_classes": 3, "fpn_channels": 8, "head_channels": 8, "box_features": 16, "min_size": 64, "max_size": 96,
    "rois_per_image": 8, "score_threshold": 0.0, "detections": 3, "anchor_sizes": [8, 16, 32, 64, 128],
    "backbone": {"type": "VMamba", "dims": 8, "depths": [1, 1, 1, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def pasted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detection") / "pasted"
    make_pasted_set(folder, train=2, val=2, side=64)
    return folder


def model(pasted: Path, root: Path, **changes: Any) -> DetectionModel:
    def section(part: str) -> dict[str, Any]:
        folder = str(pasted / part)
        return {"type": "CocoDataset", "dataroot": folder, "annotations": f"{folder}.json", "batch_size_per_gpu": 2}

    options = {
        "name": "tiny",
        "model_type": "DetectionModel",
        "num_gpu": 0,
        "datasets": {"train": section("train"), "val": section("val")},
        "network_g": NETWORK,
        "path": {},
        "train": {"total_iter": 2, "optim_g": {"type": "AdamW", "lr": 1e-4}},
        "val": {"val_freq": 1},
    }
    loaded, _ = load_options(write(root, changed(options, changes)))
    return DetectionModel(loaded, torch.device("cpu"))


def batch(found: DetectionModel, part: str) -> Any:
    dataset = found.build_dataset(found.options.datasets[part], part)
    return found.collate([dataset[index] for index in range(len(dataset))])


def test_the_loss_is_the_sum_of_the_networks_losses(pasted: Path, tmp_path: Path) -> None:
    assert find_model("DetectionModel") is DetectionModel
    found = model(pasted, tmp_path)
    loss, parts = found.training_step(found.network, batch(found, "train"))
    assert set(parts) == {"l_classifier", "l_box_reg", "l_mask", "l_objectness", "l_rpn_box_reg"}
    torch.testing.assert_close(loss, sum(parts.values()))
    loss.backward()


@torch.no_grad()
def test_validation_counts_draws_and_measures(pasted: Path, tmp_path: Path) -> None:
    found = model(pasted, tmp_path)
    found.network.eval()
    samples = batch(found, "val")
    request = ValidationRequest("pasted", save_to=tmp_path, pictures=1)
    records = found.validation_step(found.network, samples, request)
    assert [record.name for record in records] == ["00000.png", "00001.png"]
    assert records[0].pictures["found"].shape == (256, 320, 3)  # enlarged, so that names can be read
    assert not records[1].pictures
    assert {path.name for path in tmp_path.glob("*.png")} == {"00000.png", "00001.png"}
    figures = found.summarise(records)
    assert set(figures) >= {"box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75"}
    assert set(found.per_class(records)) <= {"coin", "horse", "cat"}
    assert found.card() == {"task": "detection", "classes": ["coin", "horse", "cat"]}


def test_a_plain_backbone_starts_from_a_classifier_that_has_no_scales(pasted: Path, tmp_path: Path) -> None:
    options = {"type": "V2M", "img_size": 32, "embed_dim": 8, "depth": 4, "d_state": 2}
    donor = build_network({**options, "num_classes": 7}).state_dict()
    start = {"network_g__backbone": options, "path__pretrain_backbone": str(tmp_path / "donor.pth")}
    torch.save({"params": donor}, tmp_path / "donor.pth")
    found = model(pasted, tmp_path, **start).network.backbone.state_dict()
    shared = donor.keys() & found.keys()
    assert {key.split(".")[0] for key in found.keys() - shared} == {"scales"}
    assert all(torch.equal(found[key], donor[key]) for key in shared)
    donor.pop("blocks.2.norm.weight")
    torch.save({"params": donor}, tmp_path / "donor.pth")
    with pytest.raises(UserError, match=r"missing \(blocks\.2\.norm\.weight"):
        model(pasted, tmp_path, **start)


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(pasted: Path, tmp_path: Path) -> None:
    backbone = {"type": "VMamba", "dims": 16, "depths": [1, 1, 1, 1], "drop_path_rate": 0.0}
    wider = {"fpn_channels": 32, "head_channels": 32, "box_features": 64, "rois_per_image": 32, "score_threshold": 0.05, "detections": 100}
    found = model(pasted, tmp_path, network_g={**NETWORK, **wider, "backbone": backbone})
    samples, network = batch(found, "train"), found.network
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        found.training_step(network, samples)[0].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    with torch.no_grad():
        records = found.validation_step(network.eval(), samples, ValidationRequest("pasted"))
    figures = found.summarise(records)
    assert figures["box_ap50"] > 80
    assert figures["mask_ap50"] > 80


def things(boxes: list[list[int]], labels: list[int], scores: list[float] | None = None) -> Things:
    masks = torch.zeros(len(boxes), 40, 40, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    tensor = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    lengths = run_lengths(masks)
    if scores is not None:
        return Things(tensor, torch.tensor(labels, dtype=torch.int64), lengths, torch.tensor(scores))
    crowd, area = torch.zeros(len(boxes), dtype=torch.bool), masks.sum((1, 2)).float()
    return Things(tensor, torch.tensor(labels, dtype=torch.int64), lengths, crowd=crowd, area=area)


def test_average_precision_of_what_is_known() -> None:
    true = [things([[2, 2, 20, 20], [22, 22, 38, 38]], [1, 2]), things([], [])]
    perfect = [things([[2, 2, 20, 20], [22, 22, 38, 38]], [1, 2], [0.9, 0.8]), things([], [], [])]
    figures, each = average_precision(perfect, true, ["a", "b"])
    assert figures["box_ap"] == pytest.approx(100)
    assert figures["mask_ap75"] == pytest.approx(100)
    assert each == {"a": {"box_ap": pytest.approx(100), "mask_ap": pytest.approx(100)}, "b": {"box_ap": pytest.approx(100), "mask_ap": 100}}
    half = [things([[2, 2, 20, 20]], [1], [0.9]), things([], [], [])]
    assert average_precision(half, true, ["a", "b"])[0]["box_ap"] == pytest.approx(50)
    shifted = [things([[2, 2, 20, 13], [22, 22, 38, 38]], [1, 2], [0.9, 0.8]), things([], [], [])]  # IoU 11 / 18 of the first
    figures, _ = average_precision(shifted, true, ["a", "b"])
    assert figures["box_ap50"] == pytest.approx(100)
    assert figures["box_ap75"] == pytest.approx(50)


def test_what_does_not_go_together_is_refused(pasted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="average precision is always measured"):
        model(pasted, tmp_path, val__metrics={"psnr": {"type": "calculate_psnr", "crop_border": 2}})
    found = model(pasted, tmp_path, network_g={**NETWORK, "num_classes": 2})
    with pytest.raises(UserError, match="3 classes, the network 2"):
        batch(found, "train")
