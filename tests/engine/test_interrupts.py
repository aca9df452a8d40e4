"""Signals, kills and full disks: what is left is always something to go on from."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from eqmambair.engine.interrupts import INTERRUPTED
from tests.engine.running import differences, figures, run_here, start, state
from tests.engine.tiny import make_pictures, write_options

LONG = {"train__total_iter": 150, "val__val_freq": 1000, "logger__save_checkpoint_freq": 100, "logger__keep_last": 2}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=5)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_signal_saves_and_ends_with_a_status_of_its_own(pictures: Path, workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    name = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1][workers]
    file = write_options(pictures, **LONG, datasets__train__num_worker_per_gpu=workers)
    log = pictures / "experiments" / "tiny" / "log.jsonl"
    process = start(file)
    _wait_for_lines(log, 10)
    os.kill(process.pid or 0, name)
    process.join(timeout=60)
    assert process.exitcode == INTERRUPTED
    printed = capfd.readouterr()
    assert f"stopped by {name.name}" in printed.out
    assert "Traceback" not in printed.err
    assert run_here(file, auto_resume=True) == 0
    run_here(write_options(pictures, "whole.yml", **LONG, datasets__train__num_worker_per_gpu=workers, name="whole"))
    experiments = pictures / "experiments"
    assert differences(state(experiments / "whole", 150)["net_g.pth"], state(experiments / "tiny", 150)["net_g.pth"]) == []
    assert figures(experiments / "tiny") == figures(experiments / "whole")


def test_write_limit_is_an_error_and_keeps_the_last_good_state(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(write_options(pictures, train__total_iter=5)) == 0
    file = write_options(pictures)
    process = start(file, limit=12_000, auto_resume=True)
    process.join(timeout=60)
    assert process.exitcode == 2
    printed = capfd.readouterr().err
    assert "cannot be saved: File too large" in printed
    assert "Traceback" not in printed
    states = pictures / "experiments" / "tiny" / "training_states"
    assert [each.name for each in states.iterdir()] == ["step_00000005"]
    assert torch.load(pictures / "experiments" / "tiny" / "models" / "net_g_latest.pth", weights_only=True)["params"]
    assert run_here(file, auto_resume=True) == 0


def test_signal_while_validating_leaves_the_validation_to_the_next_start(pictures: Path) -> None:
    """The metric sends the signal, once."""
    mark = pictures / "mark"
    metric = {"psnr": {"type": "calculate_psnr", "crop_border": 2}, "killer": {"type": "signals_once", "mark": str(mark)}}
    file = write_options(pictures, val__metrics=metric)
    process = start(file)
    process.join(timeout=60)
    assert process.exitcode == INTERRUPTED
    folder = pictures / "experiments" / "tiny"
    assert state(folder, 5)["state.pt"]["progress"]["unvalidated"]
    assert run_here(file, auto_resume=True) == 0
    assert run_here(write_options(pictures, "whole.yml", name="whole", val__metrics=metric)) == 0
    assert figures(folder) == figures(pictures / "experiments" / "whole")


def test_killed_loader_process_ends_the_run(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_options(pictures, **LONG, datasets__train__num_worker_per_gpu=1)
    process = start(file)
    _wait_for_lines(pictures / "experiments" / "tiny" / "log.jsonl", 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    process.join(timeout=30)
    assert process.exitcode == 2
    assert "loading data failed" in capfd.readouterr().err


def _wait_for_lines(path: Path, count: int, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < end, f"{path} does not grow"
        time.sleep(0.02)
