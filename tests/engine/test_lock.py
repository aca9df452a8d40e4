"""Two starts of one name: the second is refused, and nothing of the first is touched."""

import os
import signal
import time
from pathlib import Path

import pytest

from eqmambair.engine.interrupts import INTERRUPTED
from eqmambair.errors import UserError
from tests.engine.running import run_here, run_ranks, start
from tests.engine.tiny import make_pictures, write_options

LONG = {"train__total_iter": 10**6, "train__scheduler": {"type": "Constant"}, "val__val_freq": 10**6}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=5)
    return tmp_path


def _wait_for(path: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.02)


def test_second_start_of_a_run_in_progress_is_refused(pictures: Path) -> None:
    file = write_options(pictures, **LONG)
    process = start(file)
    _wait_for(pictures / "experiments" / "tiny" / "log.jsonl")
    for mode in ({}, {"auto_resume": True}):
        with pytest.raises(UserError, match="the run tiny is in progress"):
            run_here(file, **mode)
    assert run_ranks(file) == [2, 2]
    assert run_here(write_options(pictures, "other.yml", name="other", train__total_iter=1)) == 0
    assert run_here(file, dry=True) == 0  # writes nothing, so it may
    assert not [each for each in (pictures / "experiments").iterdir() if "archived" in each.name]
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(timeout=60)
    assert process.exitcode == INTERRUPTED


def test_killed_run_leaves_its_name_free_though_its_loader_processes_linger(pictures: Path) -> None:
    process = start(write_options(pictures, **LONG, datasets__train__num_worker_per_gpu=2))
    _wait_for(pictures / "experiments" / "tiny" / "log.jsonl")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    try:
        os.kill(process.pid or 0, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid or 0, os.WEXITED | os.WNOWAIT)  # join() would wait for the children too
        assert run_here(write_options(pictures, train__total_iter=1), auto_resume=True) == 0
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)
