"""Learning from a teacher: where it comes from, and what the loss is then."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F
from torchvision.models import get_model

from eqmambair.checkpoints import save_weights
from eqmambair.engine.options import load_options
from eqmambair.errors import UserError
from eqmambair.models import ClassificationModel
from eqmambair.models.specs import build
from tests.engine.tiny_recognition import classification_options, make_class_folders, write

LOSS = {"type": "DistillationLoss", "kind": "hard", "alpha": 0.5}
TWO_HEADS = {
    "type": "GroupMamba", "num_classes": 3, "stem_hidden_dim": 4, "embed_dims": [16, 16, 16, 16], "depths": [1, 1, 1, 1],
    "mlp_ratios": [1, 1, 1, 1], "drop_path_rate": 0.0,
}  # fmt: skip


def model(root: Path, **changes: Any) -> ClassificationModel:
    if not (root / "train").exists():
        make_class_folders(root / "train")
    options, _ = load_options(write(root, classification_options(root, datasets__val=..., val=..., **changes)))
    built = ClassificationModel(options, torch.device("cpu"))
    built.build_dataset(options.datasets["train"], "train")
    return built


def ours(root: Path) -> dict[str, Any]:
    spec = {"type": "TinyClassifier", "num_classes": 3, "width": 2}
    save_weights(root / "teacher.pth", build("network", spec).state_dict(), spec)
    return {"library": "eqmambair", "weights": str(root / "teacher.pth")}


@pytest.fixture
def batch() -> dict[str, Any]:
    return {"image": torch.rand(4, 3, 12, 12), "label": torch.tensor([0, 1, 2, 0]), "path": list("abcd")}


def test_two_heads_learn_labels_and_teacher(tmp_path: Path, batch: dict[str, Any]) -> None:
    found = model(tmp_path, train__teacher=ours(tmp_path), train__distill_opt=LOSS, train__mixing=..., network_g=TWO_HEADS)
    both = found.network.train()(batch["image"])
    loss, parts = found.training_step(found.network, batch)
    taught = found.teacher(batch["image"]).argmax(1)
    expected = 0.5 * F.cross_entropy(both.head, batch["label"], label_smoothing=0.1) + 0.5 * F.cross_entropy(both.dist_head, taught)
    torch.testing.assert_close(loss, expected)
    assert list(parts) == ["l_distill"]
    loss.backward()
    assert all(parameter.grad is None for parameter in found.teacher.parameters())
    assert not found.teacher.training
    assert not any("teacher" in key for key in found.network.state_dict())


def test_one_head_learns_both_and_mixed_pictures_are_the_teachers_too(tmp_path: Path, batch: dict[str, Any]) -> None:
    found = model(tmp_path, train__teacher=ours(tmp_path), train__distill_opt=LOSS | {"alpha": 1.0}, network_g__dropout=0.0)
    found.teacher.train = None  # whoever calls it fails
    before, seen = batch["image"].clone(), []
    for network in (found.network, found.teacher):
        network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    loss, _ = found.training_step(found.network, batch)
    pupils, teachers = seen
    assert torch.equal(pupils, teachers)
    assert not torch.equal(pupils, before)
    torch.testing.assert_close(loss, F.cross_entropy(found.network(pupils), found.teacher(pupils).argmax(1)))
    loss.backward()


def test_without_a_teacher_the_loss_is_that_of_the_labels(tmp_path: Path, batch: dict[str, Any]) -> None:
    found = model(tmp_path, train__distill_opt={"type": "DistillationLoss", "kind": "none"}, train__mixing=..., network_g__dropout=0.0)
    loss, _ = found.training_step(found.network.eval(), batch)
    torch.testing.assert_close(loss, F.cross_entropy(found.network(batch["image"]), batch["label"], label_smoothing=0.1))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_other_libraries_teach(tmp_path: Path, library: str, batch: dict[str, Any]) -> None:
    name = {"timm": "resnet10t", "torchvision": "squeezenet1_1"}[library]
    made = timm.create_model(name, num_classes=3) if library == "timm" else get_model(name, num_classes=3)
    torch.save({"model": made.state_dict()}, tmp_path / "teacher.pth")
    teacher = {"library": library, "name": name, "weights": str(tmp_path / "teacher.pth"), "arguments": {"num_classes": 3}}
    found = model(tmp_path, train__teacher=teacher, train__distill_opt=LOSS)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(found.teacher(image), made.eval()(image))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"library": "timm", "name": "no_such_network"}, "timm cannot build no_such_network"),
        ({"library": "timm"}, "timm needs a name"),
        ({"library": "eqmambair"}, "needs weights"),
        ({"library": "eqmambair", "weights": "nowhere.pth"}, "no such file"),
    ],
)
def test_a_wrong_teacher_is_named(tmp_path: Path, teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(tmp_path, train__teacher=teacher, train__distill_opt=LOSS)


def test_what_does_not_go_together_is_refused(tmp_path: Path, batch: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"needs train\.distill_opt"):
        model(tmp_path, train__teacher=ours(tmp_path))
    with pytest.raises(UserError, match="head that learns from a teacher"):
        model(tmp_path, network_g=TWO_HEADS)
    with pytest.raises(UserError, match="head that learns from a teacher"):  # which evaluation would take the mean with
        model(tmp_path, network_g=TWO_HEADS, train__distill_opt={"type": "DistillationLoss", "kind": "none"})
    with pytest.raises(UserError, match=r"give train\.teacher, or kind: none"):
        model(tmp_path, train__distill_opt=LOSS)
    spec = {"type": "TinyClassifier", "num_classes": 2}
    save_weights(tmp_path / "other.pth", build("network", spec).state_dict(), spec)
    found = model(tmp_path, train__teacher={"library": "eqmambair", "weights": str(tmp_path / "other.pth")}, train__distill_opt=LOSS)
    with pytest.raises(UserError, match="tells 2 classes, the network 3"):
        found.training_step(found.network, batch)
