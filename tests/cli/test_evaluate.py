"""The evaluate command: the published numbers, honest means, and every picture without partner named."""

import json
import math
import os
import sys

import numpy as np
import pytest

from eqmambair.cli import evaluate, inference
from eqmambair.data.io import read_image, write_image
from eqmambair.data.prepare import downscale, make_lr, upscale
from eqmambair.errors import UserError
from eqmambair.metrics import psnr, ssim

BICUBIC_SET5 = {2: (33.66, 0.9299), 3: (30.39, 0.8682), 4: (28.42, 0.8104)}  # as published everywhere


def picture(height=36, width=48, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6, width // 6, channels), dtype=np.uint8)
    return coarse.repeat(6, 0).repeat(6, 1)


@pytest.fixture
def gt(tmp_path):
    for number in range(3):
        write_image(tmp_path / "gt" / f"p{number}.png", picture(seed=number))
    return tmp_path / "gt"


def results(folder, gt, scale=2, name="{}"):
    for path in gt.iterdir():
        image = read_image(path)
        write_image(folder / f"{name.format(path.stem)}.png", upscale(downscale(image, scale), scale))
    return folder


def command(*arguments):
    return evaluate.main([str(argument) for argument in arguments])


def scores(path):
    return json.loads(path.read_text())


def test_bicubic_on_set5_gives_the_published_numbers(shared_dir, tmp_path):
    assert command("--gt", shared_dir / "data/Set5/HR", "--bicubic", "--scale", 2, 3, 4, "--json", tmp_path / "s.json") == 0
    for scale, (decibel, similarity) in BICUBIC_SET5.items():
        mean = scores(tmp_path / "s.json")[f"x{scale}"]["mean"]
        assert mean["psnr"] == pytest.approx(decibel, abs=0.03)
        assert mean["ssim"] == pytest.approx(similarity, abs=0.001)


@pytest.mark.parametrize("name", ["{}", "{}x2", "{}_x2"])
def test_results_are_paired_by_name(gt, tmp_path, capsys, name):
    assert command("--gt", gt, "--sr", results(tmp_path / "sr", gt, name=name), "--scale", 2, "--json", tmp_path / "s.json") == 0
    found = scores(tmp_path / "s.json")
    assert set(found["images"]) == {"p0", "p1", "p2"}
    assert set(found["mean"]) == {"psnr", "ssim"}
    image = read_image(gt / "p1.png")
    wanted = upscale(downscale(image, 2), 2)
    assert found["images"]["p1"] == {"psnr": psnr(wanted, image, crop_border=2), "ssim": ssim(wanted, image, crop_border=2)}
    assert found["mean"]["psnr"] == pytest.approx(np.mean([each["psnr"] for each in found["images"].values()]))
    table = capsys.readouterr().out
    assert "p1" in table
    assert f"{found['mean']['psnr']:.3f}" in table


def test_a_suffix_of_one_s_own(gt, tmp_path):
    results(tmp_path / "sr", gt, name="{}_mine")
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2, "--suffix", "_mine") == 0
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2) == 1


def test_pictures_without_partner_are_named_and_the_rest_is_scored(gt, tmp_path, capsys):
    results(tmp_path / "sr", gt)
    (tmp_path / "sr/p0.png").unlink()
    write_image(tmp_path / "sr/stranger.png", picture())
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2, "--json", tmp_path / "s.json") == 1
    said = capsys.readouterr().err
    assert "p0.png: no partner" in said
    assert "stranger.png: no partner" in said
    assert set(scores(tmp_path / "s.json")["images"]) == {"p1", "p2"}


def test_bad_pictures_are_named_and_the_rest_is_scored(gt, tmp_path, capsys):
    results(tmp_path / "sr", gt)
    (tmp_path / "sr/p0.png").write_bytes(b"broken")
    write_image(tmp_path / "sr/p1.png", picture(30, 30))
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2, "--json", tmp_path / "s.json") == 1
    said = capsys.readouterr().err
    assert "p0.png: is not an image" in said
    assert "p1.png: sizes differ" in said
    assert set(scores(tmp_path / "s.json")["images"]) == {"p2"}


def test_small_and_transparent_pictures_are_refused_by_name(tmp_path, capsys):
    write_image(tmp_path / "gt/small.png", picture(12, 12))
    write_image(tmp_path / "gt/alpha.png", picture(channels=4))
    assert command("--gt", tmp_path / "gt", "--sr", tmp_path / "gt", "--scale", 2, "--json", tmp_path / "s.json") == 1
    said = capsys.readouterr().err
    assert "small.png: SSIM needs 11 pixels" in said
    assert "alpha.png: 4 channels" in said
    assert scores(tmp_path / "s.json")["mean"] == {"psnr": None, "ssim": None}


def test_identical_pictures_are_reported_and_not_averaged(gt, tmp_path, capsys):
    results(tmp_path / "sr", gt)
    write_image(tmp_path / "sr/p0.png", picture(seed=0))
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2, "--json", tmp_path / "s.json") == 0
    found = scores(tmp_path / "s.json")
    assert found["identical"] == ["p0"]
    assert math.isinf(found["images"]["p0"]["psnr"])
    assert found["mean"]["psnr"] == pytest.approx((found["images"]["p1"]["psnr"] + found["images"]["p2"]["psnr"]) / 2)
    assert "identical to the ground truth" in capsys.readouterr().out
    assert command("--gt", gt, "--sr", gt, "--scale", 2, "--json", tmp_path / "s.json") == 0
    assert scores(tmp_path / "s.json")["mean"]["psnr"] == math.inf


def test_ground_truth_is_cropped_to_a_multiple_of_the_scale(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (37, 40, 3), dtype=np.uint8)
    write_image(tmp_path / "gt/a.png", image)
    write_image(tmp_path / "sr/a.png", upscale(downscale(image, 3), 3))
    assert command("--gt", tmp_path / "gt", "--sr", tmp_path / "sr", "--scale", 3) == 0
    assert command("--gt", tmp_path / "gt", "--sr", tmp_path / "sr", "--scale", 2) == 1


def test_a_network_is_measured_like_its_pictures(gt, tmp_path, weights_x2):
    assert command("--gt", gt, "--weights", weights_x2, "--json", tmp_path / "made.json", "--save", tmp_path / "saved") == 0
    make_lr(gt, tmp_path / "lr", [2])
    assert command("--gt", gt, "--weights", weights_x2, "--lr", tmp_path / "lr/X2", "--json", tmp_path / "given.json") == 0
    assert inference.main([str(tmp_path / "lr/X2"), "-o", str(tmp_path / "sr"), "-w", str(weights_x2)]) == 0
    assert command("--gt", gt, "--sr", tmp_path / "sr", "--scale", 2, "--json", tmp_path / "sr.json") == 0
    assert command("--gt", gt, "--sr", tmp_path / "saved", "--scale", 2, "--json", tmp_path / "saved.json") == 0
    first = scores(tmp_path / "made.json")
    assert all(scores(tmp_path / name) == first for name in ("given.json", "sr.json", "saved.json"))
    assert first["scale"] == 2


def test_several_scales_with_a_template(gt, tmp_path, weights_x2, weights_x3):
    for path, scale in ((weights_x2, 2), (weights_x3, 3)):
        (tmp_path / f"w_x{scale}.safetensors").write_bytes(path.read_bytes())
    arguments = ["--gt", gt, "--scale", 2, 3, "--json", tmp_path / "s.json"]
    assert command(*arguments, "--weights", tmp_path / "w_x{scale}.safetensors") == 0
    assert {key: value["scale"] for key, value in scores(tmp_path / "s.json").items()} == {"x2": 2, "x3": 3}
    with pytest.raises(UserError, match="one scale"):
        command(*arguments, "--weights", weights_x2)


def test_the_channel_changes_the_numbers(gt, tmp_path):
    found = {}
    for channel in ("y", "rgb", "gray"):
        assert command("--gt", gt, "--bicubic", "--scale", 2, "--channel", channel, "--json", tmp_path / "s.json") == 0
        found[channel] = scores(tmp_path / "s.json")
        assert found[channel]["channel"] == channel
    assert len({value["mean"]["psnr"] for value in found.values()}) == 3


def test_denoising_needs_inputs_and_cuts_no_border(gt, tmp_path, weights_gray):
    with pytest.raises(UserError, match="--lr is needed"):
        command("--gt", gt, "--weights", weights_gray)
    assert command("--gt", gt, "--lr", gt, "--weights", weights_gray, "--channel", "rgb", "--json", tmp_path / "s.json") == 0
    assert scores(tmp_path / "s.json")["crop_border"] == 0


def test_gray_pictures_are_measured_as_the_benchmarks_do(tmp_path):
    image = picture(channels=1)
    write_image(tmp_path / "gt/a.png", image)
    command("--gt", tmp_path / "gt", "--bicubic", "--scale", 2, "--json", tmp_path / "gray.json")
    write_image(tmp_path / "rgb/a.png", np.repeat(image, 3, 2))
    command("--gt", tmp_path / "rgb", "--bicubic", "--scale", 2, "--json", tmp_path / "rgb.json")
    assert scores(tmp_path / "gray.json")["mean"] == scores(tmp_path / "rgb.json")["mean"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "2"], "one of --sr"),
        (["--scale", "2", "--bicubic", "--sr", "x"], "one of --sr"),
        (["--bicubic"], "--scale is needed"),
        (["--bicubic", "--scale", "0"], "at least 1"),
        (["--sr", "nowhere", "--scale", "2"], "nowhere"),
        (["--weights", "W", "--scale", "3"], "enlarges by 2"),
        (["--sr", "G", "--lr", "G", "--scale", "2"], "--lr is the input"),
        (["--bicubic", "--scale", "2", "--save", "G"], "pictures of --gt"),
        (["--weights", "W", "--save", "G/../gt"], "pictures of --gt"),
        (["--sr", "G", "--scale", "2", "--save", "G"], "pictures of --gt"),
        (["--bicubic", "--scale", "2", "--lr", "L", "--save", "L"], "pictures of --lr"),
        (["--sr", "L", "--scale", "2", "--save", "L"], "pictures of --sr"),
        (["--bicubic", "--scale", "2", "3", "--save", "L"], "{scale}"),
    ],
)
def test_wrong_use_is_one_clear_error(gt, weights_x2, arguments, said):
    named = {"W": weights_x2, "G": gt, "G/../gt": gt / ".." / "gt", "L": gt.parent / "other"}
    make_lr(gt, gt.parent, [2])
    (gt.parent / "X2").rename(gt.parent / "other")
    before = {path: path.read_bytes() for path in gt.parent.rglob("*.png")}
    with pytest.raises(UserError, match=said):
        command("--gt", gt, *(named.get(argument, argument) for argument in arguments))
    assert {path: path.read_bytes() for path in gt.parent.rglob("*.png")} == before


def test_pictures_of_several_scales_are_saved_side_by_side(gt, tmp_path):
    assert command("--gt", gt, "--bicubic", "--scale", 2, 3, "--save", tmp_path / "saved_x{scale}") == 0
    for scale in (2, 3):
        image = read_image(gt / "p0.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"saved_x{scale}/p0.png"), upscale(downscale(image, scale), scale))


def test_the_scale_of_the_network_fills_the_name_of_the_folder(gt, tmp_path, weights_x2):
    assert command("--gt", gt, "--weights", weights_x2, "--save", tmp_path / "saved_x{scale}") == 0
    assert len(list((tmp_path / "saved_x2").iterdir())) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="file names are always UTF-8 there")
def test_a_name_that_is_no_utf8_is_scored(gt, tmp_path, capsys):
    (gt / "p0.png").rename(gt / os.fsdecode(b"caf\xe9.png"))
    assert command("--gt", gt, "--bicubic", "--scale", 2, "--json", tmp_path / "s.json") == 0
    assert set(scores(tmp_path / "s.json")["images"]) == {r"caf\xe9", "p1", "p2"}
    assert r"caf\xe9" in capsys.readouterr().out


def test_options_are_written_out(gt):
    with pytest.raises(SystemExit):
        command("--gt", gt, "--bicub", "--scale", 2)


def test_an_empty_folder_is_named(gt, tmp_path):
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match="void: no picture here"):
        command("--gt", tmp_path / "void", "--bicubic", "--scale", 2)
    with pytest.raises(UserError, match="void: no picture here"):
        command("--gt", gt, "--sr", tmp_path / "void", "--scale", 2)
