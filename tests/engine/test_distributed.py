"""Several processes on the CPU: the same run as one process, resumable, and never hanging."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.running import command, differences, environment, figures, run_here, run_ranks, state
from tests.engine.tiny import make_pictures, write_options

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
PLAIN = {"network_g__dropout": 0.0, "network_g__batch_norm": False}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=5)
    return tmp_path


def test_two_ranks_equal_one_with_the_double_batch(pictures: Path) -> None:
    assert run_ranks(write_options(pictures, **PLAIN, datasets__train__batch_size_per_gpu=1)) == [0, 0]
    run_here(write_options(pictures, "one.yml", name="one", **PLAIN, datasets__train__batch_size_per_gpu=2))
    two, one = figures(pictures / "experiments" / "tiny"), figures(pictures / "experiments" / "one")
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for mine, theirs in zip(two, one, strict=True):
        for key in set(mine) - {"kind"}:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-5), (mine, theirs)  # sums in another order


def test_resumed_run_of_two_ranks_equals_the_uninterrupted_one(pictures: Path) -> None:
    file = write_options(pictures, logger__keep_last=10)
    assert run_ranks(file) == [0, 0]
    folder = pictures / "experiments" / "tiny"
    whole, lines = state(folder, 10), figures(folder)
    for path in (folder / "training_states" / "step_00000010").iterdir():
        path.unlink()
    launcher = ("-m", "torch.distributed.launch", *TORCHRUN[2:])  # hands --local-rank to the script
    line = command("train", "-opt", file, "--auto_resume", "--launcher", "pytorch", launcher=launcher)
    again = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=150)
    assert again.returncode == 0, again.stderr
    assert "is damaged" in again.stdout
    assert len(whole["state.pt"]["generators"]) == 2
    assert differences(whole, state(folder, 10)) == []
    assert figures(folder) == lines


def test_killed_rank_ends_the_run_within_seconds(pictures: Path) -> None:
    file = write_options(pictures, train__total_iter=10**6, train__scheduler__milestones=[10**5], val__val_freq=10**6)
    log = pictures / "experiments" / "tiny" / "log.jsonl"
    process = subprocess.Popen(
        command("train", "-opt", file, launcher=TORCHRUN), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait_for(log)
        os.kill(_children(process.pid)[-1], signal.SIGKILL)
        start = time.monotonic()
        assert process.wait(timeout=40) != 0
        assert time.monotonic() - start < 30
    finally:
        process.kill()


def test_bad_file_on_one_rank_ends_both_with_its_name(pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pictures / "gt" / "picture_03.png").write_bytes(b"no picture")
    file = write_options(pictures, datasets__train__check="lazy", datasets__val__check="lazy")
    assert run_ranks(file) == [2, 2]
    printed = capfd.readouterr().err
    assert "picture_03.png" in printed
    assert "Traceback" not in printed


def _wait_for(path: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.1)


def _children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=True).stdout
    found = [int(each) for each in listed.split()]
    assert found
    return found


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="starts and kills processes the way of Linux")
