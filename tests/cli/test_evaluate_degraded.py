"""The evaluate command on pictures that it degrades itself: JPEG, and noise that no file could hold."""

import json

import numpy as np
import pytest
import torch

from eqmambair.cli import evaluate
from eqmambair.data.degradations import jpeg
from eqmambair.data.io import read_image, to_float, write_image
from eqmambair.errors import UserError
from eqmambair.inference import networks
from eqmambair.inference.restore import Restorer
from eqmambair.metrics import psnr


def picture(height=36, width=48, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(40, 216, (height // 6, width // 6, channels), dtype=np.uint8)
    return coarse.repeat(6, 0).repeat(6, 1)


@pytest.fixture
def gt(tmp_path):
    write_image(tmp_path / "gt/colour.png", picture())
    write_image(tmp_path / "gt/gray.png", picture(channels=1, seed=1))
    return tmp_path / "gt"


def command(*arguments):
    return evaluate.main([str(argument) for argument in arguments])


def scores(path):
    return json.loads(path.read_text())


def test_jpeg_on_classic5_gives_the_published_numbers(shared_dir, tmp_path, capsys):
    assert command("--gt", shared_dir / "data/Classic5", "--degraded", "--jpeg", 10, "--json", tmp_path / "s.json") == 0
    assert scores(tmp_path / "s.json")["mean"] == pytest.approx({"psnr": 27.82, "ssim": 0.7595, "psnrb": 25.21}, abs=0.005)
    assert scores(tmp_path / "s.json")["degradation"] == {"jpeg": 10}
    assert "PSNR-B" in capsys.readouterr().out


def test_pictures_degraded_on_the_fly_are_measured_like_files(gt, tmp_path, weights_gray):
    for path in gt.iterdir():
        write_image(tmp_path / f"lr/{path.stem}.png", jpeg(read_image(path), 20))
    names = ("--gt", gt, "--weights", weights_gray, "--channel", "rgb", "--metrics", "psnr", "psnrb")
    assert command(*names, "--lr", tmp_path / "lr", "--json", tmp_path / "files.json") == 0
    assert command(*names, "--jpeg", 20, "--json", tmp_path / "fly.json") == 0
    files, fly = scores(tmp_path / "files.json"), scores(tmp_path / "fly.json")
    assert fly.pop("degradation") == {"jpeg": 20}
    assert fly == files
    assert list(fly["mean"]) == ["psnr", "psnrb"]


@pytest.mark.parametrize("channel", ["rgb", "gray"])
def test_noise_reaches_the_network_neither_clipped_nor_rounded(gt, tmp_path, weights_gray, channel):
    restore = Restorer(networks.load_trained(weights_gray))
    command("--gt", gt, "--weights", weights_gray, "--noise", 50, "--seed", 3, "--channel", channel, "--json", tmp_path / "s.json")
    truth = read_image(gt / "colour.png")
    if channel == "gray":
        truth = np.rint(truth @ np.array([0.299, 0.587, 0.114]))[:, :, None].astype(np.uint8)
    noise = np.random.RandomState(3).normal(0, 50 / 255, truth.shape)[:, :, ::-1]
    noisy = (to_float(truth) + noise).astype(np.float32)
    assert noisy.max() > 1 or noisy.min() < 0
    result = np.rint(restore(noisy) * 255).astype(np.uint8)
    assert scores(tmp_path / "s.json")["images"]["colour"]["psnr"] == pytest.approx(
        psnr(result, truth, crop_border=0, channel=channel), abs=2e-3
    )


def test_a_float_picture_is_restored_like_its_tensor(weights_gray):
    restore = Restorer(networks.load_trained(weights_gray))
    image = np.random.default_rng(0).normal(0.5, 0.4, (9, 7, 1)).astype(np.float32)
    expected = restore.restore_tensor(torch.from_numpy(image).permute(2, 0, 1)[None])[0].clamp(0, 1).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(restore(image), expected)
    with pytest.raises(ValueError, match="float32 pictures"):
        restore(np.zeros((4, 4, 4), np.float32))


def test_sixteen_bit_is_measured_in_eight_and_alpha_is_named(gt, tmp_path, capsys):
    deep = (read_image(gt / "colour.png").astype(np.uint16) * 257).astype(np.uint16)
    write_image(tmp_path / "deep/colour.png", deep)
    write_image(tmp_path / "deep/clear.png", np.concatenate([picture(), np.full((36, 48, 1), 9, np.uint8)], 2))
    assert command("--gt", tmp_path / "deep", "--degraded", "--jpeg", 10, "--json", tmp_path / "deep.json") == 1
    assert "clear.png: has alpha" in capsys.readouterr().err
    command("--gt", gt, "--degraded", "--jpeg", 10, "--json", tmp_path / "s.json")
    assert scores(tmp_path / "deep.json")["images"]["colour"] == scores(tmp_path / "s.json")["images"]["colour"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--degraded"], "give one of them"),
        (["--degraded", "--jpeg", "0"], "between 1 and 100"),
        (["--degraded", "--noise", "-1"], "not negative"),
        (["--degraded", "--noise", "nan"], "not negative"),
        (["--degraded", "--noise", "5", "--seed", "-1"], "--seed -1"),
        (["--degraded", "--jpeg", "5", "--scale", "2"], "the scale is 1"),
        (["--bicubic", "--jpeg", "5", "--scale", "1"], "leave --sr"),
        (["--weights", "W", "--jpeg", "5"], "the network enlarges by 2"),
        (["--weights", "W", "--jpeg", "5", "--lr", "x"], "leave --sr"),
    ],
)
def test_wrong_use_is_one_clear_error(gt, weights_x2, arguments, said):
    with pytest.raises(UserError, match=said):
        command("--gt", gt, *(weights_x2 if each == "W" else each for each in arguments))
