"""Classification in the training loop: what a run leaves, and that an interrupted one ends as the one that was not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from eqmambair.checkpoints.files import read_card
from eqmambair.cli import test as test_command
from eqmambair.errors import UserError
from tests.engine.running import differences, figures, run_here, run_ranks, state
from tests.engine.tiny_recognition import CLASSES, classification_options, make_class_folders, write

VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "two workers": {"datasets__train__num_worker_per_gpu": 2, "datasets__val__num_worker_per_gpu": 2},
    "plain target, bf16": {"train__mixing": ..., "train__precision": "bf16"},
    "sizes that grow": {
        "datasets__train__iters": [3, 7],
        "datasets__train__gt_sizes": [8, 12],
        "datasets__train__mini_batch_sizes": [4, 2],
    },
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "train")
    make_class_folders(tmp_path / "val", each=3)
    return tmp_path


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_the_uninterrupted_one(folders: Path, variant: str) -> None:
    changes = {**VARIANTS[variant], "logger__save_checkpoint_freq": 1, "logger__keep_last": 20}
    assert run_here(write(folders, classification_options(folders, **changes))) == 0
    done, again = folders / "experiments" / "tiny", folders / "again"
    shutil.copytree(done, again / "tiny", ignore=lambda _, names: [n for n in names if n.startswith("step_") and int(n[5:]) > 4])
    file = write(folders, classification_options(folders, **changes, path__experiments_root=str(again)), "again.yml")
    assert run_here(file, auto_resume=True) == 0
    one, other = (state(place / "tiny" if place is again else place, 10) for place in (done, again))
    for each in (one, other):
        each["state.pt"]["options"].pop("path")
    assert differences(one, other) == []
    assert figures(again / "tiny") == figures(done)


def test_workers_do_not_change_a_run(folders: Path) -> None:
    for name, workers in (("alone", 0), ("helped", 2)):
        run_here(write(folders, classification_options(folders, name=name, datasets__train__num_worker_per_gpu=workers), f"{name}.yml"))
    assert figures(folders / "experiments" / "alone") == figures(folders / "experiments" / "helped")


def test_run_leaves_the_best_weights_and_a_card_that_says_how_to_use_them(folders: Path) -> None:
    run_here(write(folders, classification_options(folders, logger__use_tb_logger=True, logger__safetensors=True)))
    models = folders / "experiments" / "tiny" / "models"
    assert {f"net_g_best_{key}.pth" for key in ("top1", "top5", "mean_class", "loss")} <= {each.name for each in models.iterdir()}
    for file in ("net_g_latest.pth", "net_g_latest.safetensors"):
        card = read_card(models / file)
        assert card["classes"] == list(CLASSES)
        assert card["preprocessing"]["size"] == 12
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folders / "experiments" / "tiny" / "tb_logger"))
    events.Reload()
    assert {"mini/top1", "mini_accuracy/left", "train/loss"} <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 2


def test_test_command_tells_figures_of_the_set_and_of_each_class(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(write(folders, classification_options(folders)))
    weights = str(folders / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    assert test_command.main(["-opt", str(write(folders, classification_options(folders, path__pretrain_network_g=weights)))]) == 0
    results = json.loads((folders / "results" / "tiny" / "results.json").read_text())["sets"]["mini"]
    assert set(results["classes"]) == set(CLASSES)
    hits = [each["top1"] for each in results["images"].values()]
    assert results["mean"]["top1"] == pytest.approx(sum(hits) / len(hits))
    assert results["mean"]["mean_class"] == pytest.approx(sum(each["accuracy"] for each in results["classes"].values()) / 3)
    assert "left" in capsys.readouterr().out


def test_two_ranks_validate_the_set_as_one(folders: Path) -> None:
    assert run_ranks(write(folders, classification_options(folders, train__total_iter=5)), 2) == [0, 0]
    lines = [line for line in figures(folders / "experiments" / "tiny") if line["kind"] == "mini"]
    assert len(lines) == 1
    assert lines[0]["top1"] * 9 / 100 == pytest.approx(round(lines[0]["top1"] * 9 / 100), abs=1e-6)  # nine pictures, none twice


def test_learns_to_tell_the_sides_apart(folders: Path) -> None:
    changes = {"train__total_iter": 120, "train__scheduler__total_iter": 120, "val__val_freq": 120, "train__mixing": ...}
    still = {"crop": "centre", "hflip": 0.0}
    run_here(write(folders, classification_options(folders, **changes, datasets__train__augment=still)))
    assert figures(folders / "experiments" / "tiny")[-1]["top1"] > 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_g__num_classes": 4}, "has 3 classes, the network 4"),
        (
            {"network_g": {"type": "VMamba", "dims": 8, "depths": [1], "in_chans": 1, "num_classes": 3}},
            "takes 1 channels, ImageFolderDataset",
        ),
        (
            {"network_g": {"type": "TinySegmenter", "num_classes": 3}, "train__mixing": ...},
            "TinySegmenter gives a dict, not logits of shape .batch, 3.",
        ),
        ({"datasets__train__augment": {"auto_augment": "rnd"}}, "no augmentation of timm's"),
        ({"datasets__train__augment": {"ersae": 0.2}}, "augment: ersae: unknown key"),
        ({"datasets__train__augment": {"erase": 2}}, "augment: erase:"),
        ({"datasets__train__augment": {"area": [1.0, 0.1]}}, "augment: area: .*positive and in order"),
        ({"datasets__train__augment": {"area": [0.1, 2.0]}}, "augment: area: .*at most 1"),
        ({"datasets__train__augment": {"aspect": [0.0, 1.0]}}, "augment: aspect: .*positive and in order"),
        ({"datasets__train__batch_size_per_gpu": 3}, "mixing needs an even batch"),
        ({"val__metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}}, "are always measured"),
        ({"datasets__val__dataroot": "nowhere"}, "nowhere: no such folder"),
        ({"train__grouping": {"layer_decay": 0.7}}, "does not tell its layers"),
        ({"train__scheduler__warmup_iter": 10}, "warmup_iter must lie in"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_here(write(folders, classification_options(folders, **changes)))
    assert not (folders / "experiments" / "tiny" / "training_states").exists()


def test_weights_start_from_a_file_of_other_classes_when_that_is_allowed(folders: Path) -> None:
    from tests.engine.tiny_recognition import TinyClassifier

    torch.save({"params": TinyClassifier(num_classes=7).state_dict()}, folders / "seven.pth")
    start = {"path__pretrain_network_g": str(folders / "seven.pth"), "path__strict_load_g": False, "train__total_iter": 2}
    assert run_here(write(folders, classification_options(folders, **start))) == 0
