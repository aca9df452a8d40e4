"""A run that was interrupted ends as the one that was not: losses, weights, averages, rates, generators, to the last bit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eqmambair.engine.interrupts import INTERRUPTED
from eqmambair.errors import UserError
from tests.engine.running import differences, figures, run_here, state
from tests.engine.tiny import make_pictures, write_options

VARIANTS: dict[str, dict[str, Any]] = {
    "dropout, batch norm, averaging": {},
    "two workers": {"datasets__train__num_worker_per_gpu": 2},
    "accumulation": {"train__accumulate": 3},
    "cosine with warm-up": {
        "train__scheduler": {"type": "CosineAnnealingRestartLR", "periods": [6, 6], "restart_weights": [1, 0.5], "eta_min": 1e-6},
        "train__warmup_iter": 4,
    },
    "schedule-free, no averaging": {"train__optim_g": {"type": "AdamWScheduleFree", "lr": 0.01}, "train__ema_decay": 0.0},
    "bf16": {"train__precision": "bf16"},
    "fp16 with its scaler": {"train__precision": "fp16"},
    "clipped": {"train__grad_clip": 0.1},
    "progressive crops, mixed batches": {
        "datasets__train__iters": [3, 3, 4],
        "datasets__train__gt_sizes": [4, 6, 8],
        "datasets__train__mini_batch_sizes": [3, 2, 1],
        "train__mixing_augs": {"mixup": True},
    },
    "fewer pictures than a batch": {"datasets__train__batch_size_per_gpu": 8},
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=5)
    return tmp_path


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_the_uninterrupted_one(pictures: Path, variant: str) -> None:
    whole = {**VARIANTS[variant], "logger__save_checkpoint_freq": 1, "logger__keep_last": 20}
    file = write_options(pictures, **whole)
    assert run_here(file) == 0
    done = pictures / "experiments" / "tiny"
    for step in (1, 4, 5, 9) if not VARIANTS[variant] else (4,):
        again = pictures / f"again_{step}"
        shutil.copytree(
            done, again / "tiny", ignore=lambda _, names, step=step: [n for n in names if n.startswith("step_") and int(n[5:]) > step]
        )
        assert run_here(write_options(pictures, f"again_{step}.yml", **whole, path__experiments_root=str(again)), auto_resume=True) == 0
        found = differences(_without_paths(state(done, 10)), _without_paths(state(again / "tiny", 10)))
        assert found == []
        assert figures(again / "tiny") == figures(done)


def test_other_seed_gives_another_run(pictures: Path) -> None:
    run_here(write_options(pictures))
    run_here(write_options(pictures, "other.yml", name="other", manual_seed=4))
    experiments = pictures / "experiments"
    assert differences(state(experiments / "tiny", 10)["net_g.pth"], state(experiments / "other", 10)["net_g.pth"])


def test_damaged_newest_state_falls_back_to_the_one_before(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_options(pictures)
    run_here(file)
    folder = pictures / "experiments" / "tiny"
    whole, lines = state(folder, 10), figures(folder)
    path = folder / "training_states" / "step_00000010" / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert run_here(file, auto_resume=True) == 0
    printed = capsys.readouterr().out
    assert "step_00000010 is damaged (state.pt has" in printed
    assert "going on from" in printed
    assert "(step 5)" in printed
    assert differences(whole, state(folder, 10)) == []
    assert figures(folder) == lines


def test_all_states_damaged_is_an_error(pictures: Path) -> None:
    file = write_options(pictures)
    run_here(file)
    for place in (pictures / "experiments" / "tiny" / "training_states").iterdir():
        (place / "manifest.json").unlink()
    with pytest.raises(UserError, match="all 2 states are damaged"):
        run_here(file, auto_resume=True)


def test_stray_files_among_the_states_do_no_harm(pictures: Path) -> None:
    file = write_options(pictures)
    run_here(file)
    states = pictures / "experiments" / "tiny" / "training_states"
    (states / "best.state").write_text("x")
    (states / "step_x").mkdir()
    (states / ".tmp-1-step_00000011").mkdir()
    assert run_here(write_options(pictures, train__total_iter=11), auto_resume=True) == 0
    assert not (states / ".tmp-1-step_00000011").exists()


def test_more_steps_go_on_from_the_very_last_one(pictures: Path) -> None:
    run_here(write_options(pictures, train__total_iter=7))
    run_here(write_options(pictures, train__total_iter=10), auto_resume=True)
    run_here(write_options(pictures, "straight.yml", name="straight"))
    experiments = pictures / "experiments"
    assert differences(state(experiments / "tiny", 10)["net_g.pth"], state(experiments / "straight", 10)["net_g.pth"]) == []
    steps = [line["step"] for line in figures(experiments / "tiny") if line["kind"] == "train"]
    assert steps == list(range(1, 11))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__optim_g__lr": 2e-3}, "train.optim_g.lr: 0.001 -> 0.002"),
        ({"datasets__train__batch_size_per_gpu": 3}, "batch_size_per_gpu: 2 -> 3"),
        ({"manual_seed": 9}, "manual_seed: 3 -> 9"),
        ({"network_g__width": 5}, "another network"),
    ],
)
def test_changed_options_are_refused_and_listed(pictures: Path, changes: dict[str, Any], message: str) -> None:
    run_here(write_options(pictures, train__total_iter=5))
    with pytest.raises(UserError, match=message):
        run_here(write_options(pictures, **changes), auto_resume=True)


def test_changed_rate_is_applied_on_request(pictures: Path) -> None:
    run_here(write_options(pictures, train__total_iter=5))
    changed = write_options(pictures, train__optim_g__lr=2e-3, train__total_iter=6)
    assert run_here(changed, auto_resume=True, accept_changes=True) == 0
    assert figures(pictures / "experiments" / "tiny")[-2]["lr"] == pytest.approx(1e-3)  # halved at step 4


def test_new_pictures_are_refused(pictures: Path) -> None:
    file = write_options(pictures)
    run_here(write_options(pictures, train__total_iter=5))
    make_pictures(pictures / "gt", count=6)
    with pytest.raises(UserError, match="training samples"):
        run_here(write_options(pictures), auto_resume=True)
    assert file.exists()


def test_changed_optimizer_arguments_and_precision_are_applied_on_request(pictures: Path) -> None:
    decayed = {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.1}
    run_here(write_options(pictures, train__optim_g=decayed, train__total_iter=5))
    file = write_options(pictures, train__optim_g={"type": "Adam", "lr": 1e-3, "foreach": False}, train__precision="fp16")
    assert run_here(file, auto_resume=True, accept_changes=True) == 0
    saved = state(pictures / "experiments" / "tiny", 10)["state.pt"]
    group = saved["optimizer"]["param_groups"][0]
    assert (tuple(group["betas"]), group["weight_decay"], group["foreach"]) == ((0.9, 0.999), 0, False)
    assert saved["scaler"]


@pytest.mark.parametrize("name", ["RMSprop", "SGD"])
def test_momentum_that_is_new_begins_at_zero(pictures: Path, name: str) -> None:
    run_here(write_options(pictures, train__optim_g={"type": name, "lr": 1e-3}, train__total_iter=5))
    file = write_options(pictures, train__optim_g={"type": name, "lr": 1e-3, "momentum": 0.9})
    assert run_here(file, auto_resume=True, accept_changes=True) == 0
    saved = state(pictures / "experiments" / "tiny", 10)["state.pt"]["optimizer"]
    assert all(bool(entry["momentum_buffer"].any()) for entry in saved["state"].values())


def test_lack_of_memory_says_what_to_reduce(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("eqmambair.engine.commands.Trainer", fail)
    with pytest.raises(UserError, match=r"memory is exhausted: reduce batch_size_per_gpu, gt_size or val\.tile"):
        run_here(write_options(pictures))


def test_validation_still_due_is_forgotten_where_none_is_wanted(pictures: Path) -> None:
    _stop_while_validating(pictures)
    unwanted = write_options(pictures, val=..., datasets__val=..., train__total_iter=10)
    assert run_here(unwanted, auto_resume=True) == 0
    assert not state(pictures / "experiments" / "tiny", 10)["state.pt"]["progress"]["unvalidated"]


def test_validation_made_after_a_stop_at_the_last_step_is_saved(pictures: Path) -> None:
    file = _stop_while_validating(pictures)
    assert state(pictures / "experiments" / "tiny", 5)["state.pt"]["progress"]["unvalidated"]
    assert run_here(file, auto_resume=True) == 0
    progress = state(pictures / "experiments" / "tiny", 5)["state.pt"]["progress"]
    assert not progress["unvalidated"]
    assert progress["best"]["psnr"][1] == 5


def _stop_while_validating(pictures: Path) -> Path:
    """A run of five steps that a signal stops in the validation of the last."""
    metric = {"psnr": {"type": "calculate_psnr", "crop_border": 2}, "killer": {"type": "signals_once", "mark": str(pictures / "mark")}}
    file = write_options(pictures, train__total_iter=5, val__metrics=metric)
    assert run_here(file) == INTERRUPTED
    return file


def test_replaced_pictures_are_refused(pictures: Path) -> None:
    run_here(write_options(pictures, train__total_iter=5))
    (pictures / "gt" / "picture_02.png").rename(pictures / "gt" / "picture_22.png")
    with pytest.raises(UserError, match="training samples"):
        run_here(write_options(pictures), auto_resume=True)


def test_older_run_is_set_aside_not_overwritten(pictures: Path) -> None:
    file = write_options(pictures)
    run_here(file)
    run_here(file)
    archived = [each.name for each in (pictures / "experiments").iterdir() if each.name.startswith("tiny_archived_")]
    assert len(archived) == 1


def _files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets__train__dataroot_gt": "nowhere"},
        {"datasets__train__color": "gray"},
        {"path__pretrain_network_g": "nowhere.pth"},
        {"path__resume_state": "nowhere"},
    ],
)
def test_refused_start_leaves_the_older_run_where_it_is(pictures: Path, changes: dict[str, Any]) -> None:
    run_here(write_options(pictures, train__total_iter=5))
    folder = pictures / "experiments" / "tiny"
    before = _files(folder)
    with pytest.raises(UserError, match=r"nowhere(: no such|\.pth: no such)|color: gray. has pictures of 1"):
        run_here(write_options(pictures, **changes))
    assert _files(folder) == before
    assert [each.name for each in folder.parent.iterdir() if each.is_dir()] == ["tiny"]


@pytest.mark.parametrize("changes", [{"train__optim_g__lr": 2e-3}, {"train__total_iter": 4}])
def test_refused_resume_leaves_the_run_as_it_is(pictures: Path, changes: dict[str, Any]) -> None:
    run_here(write_options(pictures, train__total_iter=5))
    folder = pictures / "experiments" / "tiny"
    before = _files(folder)
    with pytest.raises(UserError):
        run_here(write_options(pictures, **changes), auto_resume=True)
    assert _files(folder) == before


def test_start_from_another_runs_state_sets_the_older_run_of_its_name_aside(pictures: Path) -> None:
    run_here(write_options(pictures, name="first", train__total_iter=5))
    run_here(write_options(pictures, train__total_iter=5))
    place = pictures / "experiments" / "first" / "training_states" / "step_00000005"
    assert run_here(write_options(pictures, path__resume_state=str(place))) == 0
    archived = [each for each in (pictures / "experiments").iterdir() if each.name.startswith("tiny_archived_")]
    assert len(archived) == 1
    assert (archived[0] / "training_states" / "step_00000005").is_dir()
    assert [line["step"] for line in figures(pictures / "experiments" / "tiny") if line["kind"] == "train"] == [6, 7, 8, 9, 10]


def test_log_of_a_run_tells_what_came_before_its_folder(pictures: Path) -> None:
    run_here(write_options(pictures, train__total_iter=2))
    run_here(write_options(pictures, train__total_iter=2))
    assert "an older run of this name was renamed" in (pictures / "experiments" / "tiny" / "train.log").read_text()


def test_unforeseen_failure_before_the_start_keeps_its_traceback(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("out of the blue")

    run_here(write_options(pictures, train__total_iter=2))
    monkeypatch.setattr("eqmambair.engine.commands.Trainer", fail)
    with pytest.raises(UserError, match=r"ArithmeticError: out of the blue \(traceback in .*tiny_failed\.log\)"):
        run_here(write_options(pictures))
    assert "Traceback" in (pictures / "experiments" / "tiny_failed.log").read_text()


def test_going_back_to_an_earlier_state_sets_the_later_ones_aside(pictures: Path) -> None:
    run_here(write_options(pictures, logger__keep_last=5))
    folder = pictures / "experiments" / "tiny"
    whole = state(folder, 10)["net_g.pth"]
    place = folder / "training_states" / "step_00000005"
    assert run_here(write_options(pictures, logger__keep_last=5, path__resume_state=str(place))) == 0
    assert differences(whole, state(folder, 10)["net_g.pth"]) == []
    assert (folder / "training_states" / "left_step_00000010_1").is_dir()


def _later_than(step: int) -> Callable[[str, list[str]], list[str]]:
    return lambda _, names: [name for name in names if name.startswith("step_") and int(name[5:]) > step]


def _without_paths(content: dict[str, Any]) -> dict[str, Any]:
    content["state.pt"]["options"].pop("path")
    return content
