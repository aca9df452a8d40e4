"""The quickstart's report, and its scripts where they end early."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from eqmambair.cli import quickstart
from eqmambair.data.io import list_images, read_image, write_image
from eqmambair.data.prepare import make_lr, upscale
from eqmambair.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = ROOT / "datasets/sample/val/HR"


@pytest.fixture
def report(tmp_path, weights_x2):
    make_lr(HELD_OUT, tmp_path / "lr", [2])

    def run(result_of):
        for path in list_images(HELD_OUT):
            low = read_image(tmp_path / f"lr/X2/{path.stem}x2.png")
            write_image(tmp_path / "sr" / f"{path.stem}x2.png", result_of(read_image(path), upscale(low, 2)))
        folders = {
            "--gt": HELD_OUT,
            "--lr": tmp_path / "lr/X2",
            "--sr": tmp_path / "sr",
            "--picture": tmp_path / "c.png",
            "--weights": weights_x2,
        }
        return quickstart.main(["--margin", "0.3", *(str(word) for pair in folders.items() for word in pair)])

    return run


def test_a_network_that_beats_bicubic_passes(report, tmp_path, capsys):
    halfway = lambda truth, bicubic: ((truth.astype(int) + bicubic) // 2).astype(np.uint8)  # noqa: E731
    assert report(halfway) == 0
    said = capsys.readouterr().out
    assert "PSNR bicubic" in said
    mean = next(line for line in said.splitlines() if line.startswith("mean"))
    assert 5 < float(mean.split()[5]) < 7  # half the error is 6 dB
    error = float(next(line for line in said.splitlines() if "NMSE" in line).split()[-1])
    assert error < 1e-10
    sheet = read_image(tmp_path / "c.png")
    assert sheet.shape[1] > 3 * 300


def test_a_network_that_does_not_fails_and_says_by_how_much(report, capsys):
    assert report(lambda truth, bicubic: bicubic) == 1
    assert "beats bicubic by 0.00 dB, less than 0.3 dB" in capsys.readouterr().err


def test_missing_results_are_named(tmp_path, weights_x2):
    make_lr(HELD_OUT, tmp_path / "lr", [2])
    (tmp_path / "sr").mkdir()
    folders = {
        "--gt": HELD_OUT,
        "--lr": tmp_path / "lr/X2",
        "--sr": tmp_path / "sr",
        "--picture": tmp_path / "c.png",
        "--weights": weights_x2,
    }
    with pytest.raises(UserError, match=r"coffee_1\.png: has no partner"):
        quickstart.main(["--margin", "0.3", *(str(word) for pair in folders.items() for word in pair)])


def test_the_options_train_and_validate_on_different_pictures():
    options = yaml.safe_load((ROOT / "options/quickstart_eq_mambair_x2.yml").read_text())
    assert "sample/train" in options["datasets"]["train"]["dataroot_gt"]
    assert "sample/val" in options["datasets"]["val"]["dataroot_gt"]


@pytest.mark.parametrize("script", ["setup_env.sh", "run_tests.sh", "quickstart.sh"])
def test_scripts_need_a_supported_python_and_say_so_in_one_line(tmp_path, script):
    scripts = tmp_path / "a check out" / "scripts"
    scripts.mkdir(parents=True)
    for name in ("setup_env.sh", "run_tests.sh", "quickstart.sh"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("python", "python3", *(f"python3.{minor}" for minor in range(10, 14))):
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
        (old / name).chmod(0o755)
    environment = {"PATH": f"{old}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", scripts / script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: Python 3.10 to 3.13 is needed, and none is on the PATH (python3 here: Python 3.8.1); set PYTHON=/path/to/python"
    ]
    done = subprocess.run(["bash", scripts / script], env={**environment, "PYTHON": "nopython"}, capture_output=True, text=True)
    assert done.stderr.splitlines() == ["error: PYTHON=nopython is not Python 3.10 to 3.13"]
    assert not (tmp_path / "a check out" / ".venv").exists()
