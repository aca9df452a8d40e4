"""What a run leaves: weights, tables, logs; and how test reads them."""

import errno
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from eqmambair.cli import test as test_command
from eqmambair.cli import train as train_command
from eqmambair.data.io import read_image
from eqmambair.engine.logs import Records, logging_to
from eqmambair.engine.schema import LoggerOptions
from eqmambair.errors import UserError
from tests.engine.running import figures, run_here
from tests.engine.tiny import make_pictures, write_options


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=4)
    return tmp_path


def test_latest_weights_are_readable_and_build_the_network_again(pictures: Path) -> None:
    run_here(write_options(pictures, logger__safetensors=True))
    models = pictures / "experiments" / "tiny" / "models"
    content = torch.load(models / "net_g_latest.pth", weights_only=True)
    assert set(content) == {"params", "params_ema", "network_g", "scale"}
    assert content["network_g"]["type"] == "TinySR"
    newest = torch.load(pictures / "experiments" / "tiny" / "training_states" / "step_00000010" / "net_g.pth", weights_only=True)
    assert torch.equal(newest["params"]["head.bias"], content["params"]["head.bias"])
    from safetensors.torch import load_file

    assert torch.equal(load_file(models / "net_g_latest.safetensors")["head.bias"], content["params_ema"]["head.bias"])


def test_best_weights_are_kept(pictures: Path) -> None:
    run_here(write_options(pictures, val__val_freq=1))
    lines = [line for line in figures(pictures / "experiments" / "tiny") if line["kind"] == "mini"]
    assert len(lines) == 10
    assert (pictures / "experiments" / "tiny" / "models" / "net_g_best_psnr.pth").is_file()


def test_only_the_last_states_stay(pictures: Path) -> None:
    run_here(write_options(pictures, logger__save_checkpoint_freq=1, logger__keep_last=2, logger__keep_every=4))
    states = pictures / "experiments" / "tiny" / "training_states"
    assert sorted(each.name for each in states.iterdir()) == [f"step_{step:08d}" for step in (4, 8, 9, 10)]


def test_tensorboard_has_every_step_once_after_resuming(pictures: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_here(write_options(pictures, logger__use_tb_logger=True, train__total_iter=6))
    run_here(write_options(pictures, logger__use_tb_logger=True, train__total_iter=10), auto_resume=True)
    events = EventAccumulator(str(pictures / "experiments" / "tiny" / "tb_logger"))
    events.Reload()
    for tag in ("train/loss", "train/lr", "train/grad_norm", "train/images_per_second"):
        assert [each.step for each in events.Scalars(tag)] == list(range(1, 11))
    assert [each.step for each in events.Scalars("mini/psnr")] == [5, 6, 10]
    assert "mini/picture_00/lq_sr_gt_difference" in events.Tags()["images"]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_tensorboard_fills_is_one_line(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    hook = threading.excepthook
    write_one = RecordWriter.write
    room = iter(range(4))
    monkeypatch.setattr(RecordWriter, "write", lambda self, data: _full() if next(room, None) is None else write_one(self, data))
    with pytest.raises(UserError, match=r"tb_logger: cannot be written: No space left on device$"):
        run_here(write_options(pictures, logger__use_tb_logger=True))
    assert ended == []  # no traceback of the writer's thread
    assert threading.excepthook is hook
    thread = threading.Thread(target=_full)
    thread.start()
    thread.join()
    assert len(ended) == 1


def test_what_tensorboard_cannot_write_at_the_end_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    records = Records(tmp_path, LoggerOptions(use_tb_logger=True), "x")
    records.write(1, "train", {"loss": 1.0})
    monkeypatch.setattr(RecordWriter, "flush", _full)
    with caplog.at_level(logging.WARNING, "eqmambair"):
        records.close()
    assert "tb_logger: cannot be written: No space left on device" in caplog.text


def test_testing_measures_every_set_and_keeps_equal_names_apart(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(write_options(pictures))
    make_pictures(pictures / "other", count=2, seed=9)
    second = {"name": "second", "type": "PairedImageDataset", "dataroot_gt": str(pictures / "other")}
    weights = str(pictures / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    file = write_options(
        pictures, "test.yml", datasets__train=..., train=..., datasets__test_1=second, path__pretrain_network_g=weights, val__save_img=True
    )
    capsys.readouterr()
    assert test_command.main(["-opt", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "mean of 4" in printed
    assert "mean of 2" in printed
    results = json.loads((pictures / "results" / "tiny" / "results.json").read_text())
    assert list(results["sets"]) == ["mini", "second"]
    assert set(results["sets"]["second"]["images"]) == {"picture_00", "picture_01"}
    assert results["metrics"]["psnr"]["crop_border"] == 2
    for name in ("mini", "second"):
        assert read_image(pictures / "results" / "tiny" / "visualization" / name / "picture_00_tiny.png").shape == (24, 24, 3)
    last = [line for line in figures(pictures / "experiments" / "tiny") if line["kind"] == "mini"][-1]
    assert results["sets"]["mini"]["mean"]["psnr"] == pytest.approx(last["psnr"])  # measured on the averaged weights, as in training


def test_testing_needs_weights_that_are_there_and_fit(pictures: Path) -> None:
    with pytest.raises(UserError, match="needs weights"):
        test_command.main(["-opt", str(write_options(pictures))])
    with pytest.raises(UserError, match="no such file"):
        test_command.main(["-opt", str(write_options(pictures, path__pretrain_network_g="nowhere.pth"))])
    run_here(write_options(pictures))
    weights = str(pictures / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    with pytest.raises(UserError, match="params_emma"):
        test_command.main(["-opt", str(write_options(pictures, path__pretrain_network_g=weights, path__param_key_g="params_emma"))])
    with pytest.raises(UserError, match=r"body\.0\.weight"):
        test_command.main(["-opt", str(write_options(pictures, path__pretrain_network_g=weights, network_g__width=5))])


def test_tiled_validation_is_near_the_untiled_one(pictures: Path) -> None:
    run_here(write_options(pictures, name="whole"))
    run_here(write_options(pictures, name="tiled", val__tile=8, val__tile_overlap=4))
    whole, tiled = (figures(pictures / "experiments" / name)[-1]["psnr"] for name in ("whole", "tiled"))
    assert tiled == pytest.approx(whole, abs=0.05)  # the network sees two pixels far


def test_results_do_not_depend_on_the_current_folder(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_options(pictures, train__total_iter=5, datasets__train__dataroot_gt="gt", datasets__val__dataroot_gt="gt")
    text = file.read_text().replace(f"experiments_root: {pictures}/experiments", "experiments_root: experiments")
    file.write_text(text)
    assert train_command.main(["-opt", str(file), "--root", str(pictures)]) == 0
    (pictures / "elsewhere").mkdir()
    monkeypatch.chdir(pictures / "elsewhere")
    file.write_text(text.replace("total_iter: 5", "total_iter: 10"))
    assert train_command.main(["-opt", str(file), "--root", str(pictures), "--auto_resume"]) == 0
    lines = [line["step"] for line in figures(pictures / "experiments" / "tiny") if line["kind"] == "train"]
    assert lines == list(range(1, 11))


def test_debug_run_is_short_and_has_a_name_of_its_own(pictures: Path) -> None:
    assert (
        train_command.main(
            [
                "-opt",
                str(write_options(pictures, train__total_iter=99, train__warmup_iter=50, train__scheduler={"type": "Constant"})),
                "--debug",
            ]
        )
        == 0
    )
    assert len([line for line in figures(pictures / "experiments" / "debug_tiny") if line["kind"] == "train"]) == 16


def test_launchers_run_from_anywhere(pictures: Path) -> None:
    """The real script: an error of one line and status 2, and the schema; the installed basicsr is not hidden by the folder basicsr/."""
    import subprocess
    import sys

    from tests.conftest import ROOT

    line = [sys.executable, str(ROOT / "basicsr" / "train.py"), "-opt", "nowhere.yml"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=pictures, env={**os.environ, "PYTHONPATH": ""}, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: nowhere.yml: no such option file"


def test_log_file_without_room_is_said_once_and_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full takes no byte."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "train.log").symlink_to("/dev/full")
    log = logging.getLogger("eqmambair")
    with logging_to(tmp_path / "train.log"):
        log.info("first")
        log.info("second")
    printed = capsys.readouterr()
    assert printed.out.count("cannot be written") == 1
    assert "second" in printed.out
    assert "Traceback" not in printed.err


def test_testing_without_truth_or_metrics_says_that_nothing_is_measured(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(write_options(pictures, train__total_iter=1))
    weights = str(pictures / "experiments" / "tiny" / "models" / "net_g_latest.pth")
    blind = {"name": "blind", "type": "SingleImageDataset", "dataroot_lq": str(pictures / "gt")}
    assert test_command.main(["-opt", str(write_options(pictures, datasets__val=blind, path__pretrain_network_g=weights))]) == 0
    assert "blind: no truth, nothing is measured" in capsys.readouterr().out
    assert test_command.main(["-opt", str(write_options(pictures, val=..., path__pretrain_network_g=weights))]) == 0
    assert "mini: no metrics in val, nothing is measured" in capsys.readouterr().out
