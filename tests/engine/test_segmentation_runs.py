"""Segmentation in the training loop: what a run leaves, and that an interrupted one ends as the one that was not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eqmambair.archs import build_network
from eqmambair.checkpoints import to_official
from eqmambair.checkpoints.files import read_card
from eqmambair.cli import test as test_command
from eqmambair.engine.options import load_options
from eqmambair.errors import UserError
from eqmambair.models import SegmentationModel
from tests.engine.running import differences, figures, run_here, run_ranks, state
from tests.engine.tiny_recognition import TinySegmenter, make_labelled_pictures, segmentation_options, write


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_labelled_pictures(tmp_path, "train", 5)
    return make_labelled_pictures(tmp_path, "val", 3)


@pytest.mark.parametrize("changes", [{}, {"datasets__train__num_worker_per_gpu": 2}, {"train__precision": "bf16"}], ids=str)
def test_resumed_run_equals_the_uninterrupted_one(folders: Path, changes: dict[str, Any]) -> None:
    changes = {**changes, "logger__save_checkpoint_freq": 1, "logger__keep_last": 20}
    assert run_here(write(folders, segmentation_options(folders, **changes))) == 0
    done, again = folders / "experiments" / "tiny", folders / "again"
    shutil.copytree(done, again / "tiny", ignore=lambda _, names: [n for n in names if n.startswith("step_") and int(n[5:]) > 4])
    file = write(folders, segmentation_options(folders, **changes, path__experiments_root=str(again)), "again.yml")
    assert run_here(file, auto_resume=True) == 0
    one, other = state(done, 10), state(again / "tiny", 10)
    for each in (one, other):
        each["state.pt"]["options"].pop("path")
    assert differences(one, other) == []
    assert figures(again / "tiny") == figures(done)


def test_learns_to_tell_bright_from_dark_and_keeps_the_best(folders: Path) -> None:
    long = {"train__total_iter": 100, "train__scheduler__total_iter": 100, "val__val_freq": 50}
    run_here(write(folders, segmentation_options(folders, **long, logger__use_tb_logger=True)))
    run = folders / "experiments" / "tiny"
    assert figures(run)[-1]["mIoU"] > 80
    assert {f"net_g_best_{key}.pth" for key in ("mIoU", "mAcc", "aAcc")} <= {each.name for each in (run / "models").iterdir()}
    card = read_card(run / "models" / "net_g_latest.pth")
    assert card["classes"] == ["dark", "bright"]
    assert card["protocol"]["resize"] == [28, 24]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb_logger"))
    events.Reload()
    assert {"mini/mIoU", "mini_IoU/bright", "train/l_aux"} <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 2


@pytest.mark.parametrize(
    "val", [{}, {"mode": "slide", "window": [16, 16], "stride": [8, 8]}, {"ratios": [0.5, 1.0], "flip": True}, {"pad_multiple": 8}], ids=str
)
def test_test_command_measures_classes_and_draws_masks(folders: Path, val: dict[str, Any]) -> None:
    run_here(write(folders, segmentation_options(folders, train__total_iter=5)))
    weights = str(folders / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    options = segmentation_options(folders, path__pretrain_network_g=weights, val={"save_img": True, **val})
    assert test_command.main(["-opt", str(write(folders, options))]) == 0
    out = folders / "results" / "tiny"
    results = json.loads((out / "results.json").read_text())["sets"]["mini"]
    assert results["mean"]["mIoU"] == pytest.approx(np.mean([each["IoU"] for each in results["classes"].values()]))
    with Image.open(out / "visualization" / "mini" / "2.png") as mask:
        assert mask.mode == "P"
        assert mask.size == (28, 28)
        assert set(np.unique(np.asarray(mask))) <= {0, 1}
    assert (out / "visualization" / "mini" / "2_overlay.jpg").is_file()


def test_two_ranks_measure_the_set_as_one(folders: Path) -> None:
    assert run_ranks(write(folders, segmentation_options(folders, train__total_iter=5)), 2) == [0, 0]
    line = next(line for line in figures(folders / "experiments" / "tiny") if line["kind"] == "mini")
    weights = str(folders / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    assert test_command.main(["-opt", str(write(folders, segmentation_options(folders, path__pretrain_network_g=weights)))]) == 0
    results = json.loads((folders / "results" / "tiny" / "results.json").read_text())["sets"]["mini"]
    assert results["mean"]["aAcc"] == pytest.approx(line["aAcc"])


def test_backbone_starts_from_a_classifier(folders: Path) -> None:
    donor = TinySegmenter().backbone
    torch.save({"params": {**donor.state_dict(), "head.weight": torch.zeros(1)}}, folders / "donor.pth")
    start = {"path__pretrain_backbone": str(folders / "donor.pth"), "train__optim_g__lr": 1e-30, "train__total_iter": 1}
    run_here(write(folders, segmentation_options(folders, **start, train__ema_decay=0)))
    saved = torch.load(folders / "experiments" / "tiny" / "models" / "net_g_latest.pth", weights_only=True)["params"]
    torch.testing.assert_close(saved["backbone.0.weight"], donor[0].weight)


@pytest.mark.parametrize("published", [False, True])
def test_backbone_starts_from_that_of_another_segmentation_network(folders: Path, published: bool) -> None:
    options = {"type": "UPerNet", "backbone": {"type": "VMamba", "dims": 8, "depths": [1, 1, 1, 1]}, "channels": 8, "aux_channels": 4}
    donor = build_network({**options, "num_classes": 5}).state_dict()
    torch.save({"state_dict": to_official(donor) if published else donor}, folders / "donor.pth")
    changes = {"network_g": {**options, "num_classes": 2}, "path__pretrain_backbone": str(folders / "donor.pth")}
    checked, _ = load_options(write(folders, segmentation_options(folders, **changes)))
    started = SegmentationModel(checked, torch.device("cpu")).network.state_dict()
    for key, value in started.items():
        if key.startswith("backbone."):
            assert torch.equal(value, donor[key]), key


def test_testing_does_not_ask_for_the_classifier_that_training_started_from(folders: Path) -> None:
    torch.save({"params": TinySegmenter().state_dict()}, folders / "whole.pth")
    paths = {"path__pretrain_backbone": "gone.pth", "path__pretrain_network_g": str(folders / "whole.pth")}
    assert test_command.main(["-opt", str(write(folders, segmentation_options(folders, **paths)))]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_g__num_classes": 3}, "has 2 classes, the network 3"),
        ({"network_g": {"type": "TinyClassifier", "num_classes": 2}}, r"TinyClassifier gives a tensor of shape \(2, 2\), not logits"),
        ({"network_g": {"type": "MambaIR", "embed_dim": 30, "depths": [1], "upscale": 1}}, r"MambaIR gives .*\(2, 3, 16, 16\), not logits"),
        (
            {
                "network_g": {
                    "type": "EQUPerNet",
                    "backbone": {"type": "EQVMamba", "dims": 8},
                    "num_classes": 2,
                    "channels": 8,
                    "aux_channels": 6,
                    "drop_form": "published",
                }
            },
            "aux_channels = 6: must be a multiple of 4",
        ),
        ({"datasets__train__classes": ["one"], "datasets__train__ignore": [1, 11]}, "one class: a network cannot learn"),
        ({"datasets__train__ignore": [11, 300]}, "ignore = .11, 300.: values of 8-bit label files, 0 to 255"),
        ({"datasets__train__resize": [0, 24]}, "resize must be positive"),
        ({"datasets__train__std": [0.0, 1.0, 1.0]}, "mean and std need three numbers each, the latter positive"),
        ({"datasets__train__augment": {"crop": [0, 16]}}, "augment: crop: "),
        ({"datasets__train__augment": {"crop": [16, 16], "ratio": [0.0, 1.0]}}, "augment: ratio: .*positive and in order"),
        ({"datasets__train__augment": {"crop": [16, 16], "ratio": [2.0, 0.5]}}, "augment: ratio: .*positive and in order"),
        ({"datasets__train__ignore": ...}, "holds .11., which are no labels of 2 classes"),
        ({"datasets__train__classes": ...}, "does not tell the classes"),
        ({"datasets__train__layout": "ade2k"}, "layout: expected .*; did you mean 'ade20k'"),
        ({"datasets__train__layout": "voc2012"}, "JPEGImages: no such folder"),
        ({"datasets__train__augment": ...}, "batches need crops of one size"),
        ({"val__stride": [600, 600]}, "the stride must lie between 1 and the window's side"),
        ({"val__mode": "slid"}, "did you mean 'slide'"),
        ({"val__tile": 64}, "mode: slide"),
        ({"val__ratios": [0]}, "ratios must be positive"),
        ({"path__pretrain_backbone": "nowhere.pth"}, "path.pretrain_backbone: .*no such file"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_here(write(folders, segmentation_options(folders, **changes)))
