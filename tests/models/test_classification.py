"""What classification does with a batch, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eqmambair.archs import build_network
from eqmambair.engine.options import load_options
from eqmambair.models import ClassificationModel, Record, ValidationRequest, find_model
from eqmambair.models.parameter_groups import Grouping, grouped
from tests.engine.tiny_recognition import classification_options, make_class_folders, write


def _model(root: Path, **changes: Any) -> ClassificationModel:
    for name in ("train", "val"):
        if not (root / name).exists():
            make_class_folders(root / name)
    options, _ = load_options(write(root, classification_options(root, network_g__dropout=0.0, **changes)))
    model = ClassificationModel(options, torch.device("cpu"))
    model.build_dataset(options.datasets["train"], "train")
    return model


@pytest.fixture
def batch() -> dict[str, Any]:
    return {"image": torch.rand(4, 3, 12, 12), "label": torch.tensor([0, 1, 2, 0]), "path": list("abcd")}


def test_name_stands_for_the_model() -> None:
    assert find_model("ClassificationModel") is ClassificationModel


def test_loss_is_the_smoothed_cross_entropy(tmp_path: Path, batch: dict[str, Any]) -> None:
    model = _model(tmp_path, train__mixing=...)
    loss, _ = model.training_step(model.network, batch)
    logs = F.log_softmax(model.network(batch["image"]), 1)
    target = F.one_hot(batch["label"], 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(loss, -(logs * target).sum(1).mean())


@pytest.mark.parametrize("mixing", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.8, "mode": "elem"}])
def test_mixing_keeps_the_sum_of_each_target(tmp_path: Path, batch: dict[str, Any], mixing: dict[str, Any]) -> None:
    model = _model(tmp_path, train__mixing=mixing)
    before = batch["image"].clone()
    image, target = model._mix(batch["image"], batch["label"])
    torch.testing.assert_close(target.sum(1), torch.ones(4))
    assert not torch.equal(image, before)


@torch.no_grad()
def test_figures_are_those_of_torchmetrics(tmp_path: Path, batch: dict[str, Any]) -> None:
    from torchmetrics.classification import MulticlassAccuracy

    model = _model(tmp_path)
    model.network.eval()
    records = model.validation_step(model.network, batch, ValidationRequest("mini", pictures=1))
    logits = model.network(batch["image"])
    summary = model.summarise(records)
    assert summary["top1"] == pytest.approx(100 * float(MulticlassAccuracy(3, average="micro")(logits, batch["label"])))
    assert summary["mean_class"] == pytest.approx(100 * float(MulticlassAccuracy(3, average="macro")(logits, batch["label"])))
    assert summary["top5"] == 100  # of three classes
    assert summary["loss"] == pytest.approx(float(F.cross_entropy(logits, batch["label"])))
    assert [list(record.pictures) for record in records] == [["picture"], [], [], []]


def test_classes_of_one_name_keep_figures_of_their_own(tmp_path: Path) -> None:
    """ImageNet has two cranes, the bird and the machine."""
    model = _model(tmp_path)
    assert model.dataset is not None
    model.dataset.classes = ["crane", "fox", "crane"]
    found = [(0, 0), (1, 1), (2, 0)]
    records = [Record("x", {"top1": 100.0 * (a == b)}, facts={"label": a, "found": b}) for a, b in found]
    assert {name: values["accuracy"] for name, values in model.per_class(records).items()} == {"crane (0)": 100, "fox": 100, "crane (2)": 0}
    assert model.summarise(records)["mean_class"] == pytest.approx(200 / 3)


def test_classes_that_do_not_occur_have_no_figures(tmp_path: Path) -> None:
    model = _model(tmp_path)
    records = [Record(str(n), {"top1": 0.0}, facts={"label": n, "found": 0}) for n in (0, 1)]
    assert model.per_class(records) == {"left": {"accuracy": 100, "f1": pytest.approx(200 / 3)}, "right": {"accuracy": 0, "f1": 0}}
    assert model.summarise(records)["mean_class"] == 50


class Parts(nn.Module):
    """A parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.A_log = nn.Parameter(torch.zeros(3, 1))
        self.D = nn.Parameter(torch.ones(2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": "^linear", "blocks": [("^norm|^A_log|^D", (0,))]}


@pytest.mark.parametrize(
    ("rule", "exempt"),
    [
        ("one_dimensional", {"linear.bias", "norm.weight", "norm.bias", "D"}),
        ("dynamics", {"linear.bias", "norm.weight", "norm.bias", "A_log", "D"}),
        ("norms", {"norm.weight", "norm.bias"}),
        ("nothing", set()),
    ],
)
def test_decay_leaves_alone_what_the_rule_says(rule: str, exempt: set[str]) -> None:
    network = Parts()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for layer_decay in (None, 0.5):
        groups = grouped(network, Grouping(no_decay=rule, layer_decay=layer_decay))
        free = {names[id(p)] for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
        assert free == exempt
        assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())


def test_positions_of_a_backbone_do_not_decay() -> None:
    backbone = {"type": "V2M", "img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 4, "d_state": 2}
    network = build_network({"type": "UPerNet", "backbone": backbone, "channels": 8, "aux_channels": 0, "num_classes": 2})
    for rule, free in (("one_dimensional", True), ("dynamics", True), ("nothing", False)):
        groups = grouped(network, Grouping(no_decay=rule))
        exempt = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
        assert [id(p) in exempt for p in (network.backbone.pos_embed, network.backbone.cls_token)] == [free, free]


def test_layer_decay_slows_the_lower_layers() -> None:
    network = Parts()
    scales = {id(p): group["lr_scale"] for group in grouped(network, Grouping(layer_decay=0.5)) for p in group["params"]}
    assert scales[id(network.linear.weight)] == 0.5
    assert scales[id(network.A_log)] == 1.0


def test_layers_of_our_networks_are_told_from_the_stem_to_the_head() -> None:
    network = build_network({"type": "EQVMamba", "dims": 8, "depths": [1, 2], "num_classes": 3})
    scales = {id(p): group["lr_scale"] for group in grouped(network, Grouping(layer_decay=0.5)) for p in group["params"]}
    weights = [
        network.stem[0].weight,
        network.stages[0][0].mlp[0].linear.weight,
        network.stages[1][0].mlp[0].linear.weight,
        network.head.weight,
    ]
    assert [scales[id(weight)] for weight in weights] == [0.125, 0.25, 0.5, 1.0]
