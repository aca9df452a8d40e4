"""Gray pictures with JPEG artefacts, from an option file to pictures and numbers: train, validate, test."""

import json
from pathlib import Path

import numpy as np
import pytest

from eqmambair.cli import test as test_command
from eqmambair.data.io import read_image
from eqmambair.metrics import psnr, psnrb, ssim
from tests.engine.running import figures, run_here
from tests.engine.tiny import make_pictures, write_options


def test_gray_pictures_with_artefacts_are_trained_on_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pictures(tmp_path / "gt", count=2, channels=1)
    degraded = {"type": "DegradedImageDataset", "dataroot_gt": str(tmp_path / "gt"), "color": "gray"}
    file = write_options(
        tmp_path,
        scale=1,
        datasets__train={**degraded, "jpeg_quality": [5, 40], "gt_size": 16, "use_rot": True, "batch_size_per_gpu": 2},
        datasets__val={**degraded, "name": "mini", "jpeg_quality": 10},
        network_g={"type": "TinySR", "upscale": 1, "in_chans": 1},
        train__total_iter=4,
        val={
            "val_freq": 4,
            "metrics": {key: {"type": f"calculate_{key}", "crop_border": 0} for key in ("psnr", "ssim", "psnrb")},
            "save_img": True,
            "suffix": "",
        },
        logger__use_tb_logger=True,  # and so pictures side by side, of one channel
    )
    run_here(file)
    (validated,) = [line for line in figures(tmp_path / "experiments" / "tiny") if line["kind"] == "mini"]

    weights = tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth"
    assert test_command.main(["-opt", str(file), "--force_yml", f"path:pretrain_network_g={weights}"]) == 0
    results = json.loads((tmp_path / "results" / "tiny" / "results.json").read_text())["sets"]["mini"]
    written = {path.stem: read_image(path) for path in (tmp_path / "results" / "tiny" / "visualization" / "mini").iterdir()}
    assert sorted(written) == ["picture_00", "picture_01"]
    for name, image in written.items():
        truth = read_image(tmp_path / "gt" / f"{name}.png")
        assert image.shape == truth.shape == (24, 24, 1)
        for metric, measure in (("psnr", psnr), ("ssim", ssim), ("psnrb", psnrb)):
            assert results["images"][name][metric] == pytest.approx(measure(image, truth, crop_border=0, channel="gray"))
    assert results["mean"]["psnrb"] == pytest.approx(validated["psnrb"])
    assert results["mean"]["psnrb"] <= results["mean"]["psnr"]
    assert np.isfinite(results["mean"]["ssim"])
    assert "psnrb" in capsys.readouterr().out
