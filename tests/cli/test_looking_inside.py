"""The commands that draw what a network looks at: a picture and its numbers, for trained, bundled and untrained networks."""

import json
import math
import sys

import cv2
import numpy as np
import pytest
import yaml

from eqmambair.checkpoints import load_network, save_weights, to_official
from eqmambair.cli import equivariance, erf, lam
from eqmambair.data.io import write_image
from eqmambair.errors import UserError
from eqmambair.zoo import cache
from tests.conftest import ROOT


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "p.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
    return path


def run(command, *arguments):
    command.main([str(argument) for argument in arguments])


def drawn(path):
    pixels = cv2.imread(str(path))
    assert pixels is not None
    assert pixels.std() > 5  # something is on it
    return json.loads(path.with_suffix(".json").read_text())


def test_lam_of_bundled_weights(tmp_path, image, weights_x2, monkeypatch, capsys):
    monkeypatch.setattr(cache, "WEIGHTS_FOLDER", weights_x2.parent)
    out = tmp_path / "lam.png"
    run(lam, "--model", "x2", "--gt", image, "--crop", 1, 2, 8, 9, "--steps", 2, "--output", out)
    report = drawn(out)
    assert report["input"] == {"height": 8, "width": 9, "crop": [1, 2, 8, 9]}
    assert report["box"] == {"top": 0, "left": 1, "side": 16}
    assert 0 < report["diffusion_index"] < 100
    assert "diffusion index" in capsys.readouterr().out


def test_lam_of_a_gray_network_on_colour(tmp_path, image, weights_gray):
    run(lam, "--weights", weights_gray, "--input", image, "--box", 2, 3, 4, "--steps", 2, "--output", tmp_path / "lam.png")
    assert drawn(tmp_path / "lam.png")["box"]["side"] == 4


def test_erf_of_published_weights(tmp_path, image, weights_x2, capsys):
    network, _ = load_network(weights_x2)
    save_weights(tmp_path / "official.pth", to_official(network.state_dict()))
    run(erf, "--weights", tmp_path / "official.pth", "--input", image, image, "--size", "8x10", "--output", tmp_path / "erf.png", "--quiet")
    report = drawn(tmp_path / "erf.png")
    assert (report["pictures"], report["size"]) == (2, [8, 10])
    assert [square["share"] for square in report["squares"]] == [0.2, 0.3, 0.5, 0.99]
    assert report["network"]["type"] == "EQMambaIR"
    assert "99% of the gradient" in capsys.readouterr().out


def test_equivariance_map_beside_the_numbers(tmp_path, image, weights_x3):
    out = tmp_path / "map.png"
    run(equivariance, "--weights", weights_x3, "--input", image, "--picture", out, "--json", tmp_path / "map.json")
    elements = next(iter(drawn(out)["inputs"].values()))["elements"]
    assert list(elements) == ["rot90", "rot180", "rot270"]
    run(equivariance, "--weights", weights_x3, "--group", "d4", "--size", "6x8", "--picture", tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (lam, ["--input", "P", "--output", "x.jpg"], "written as .png"),
        (lam, ["--input", "P", "--crop", "0", "0", "30", "9"], "does not lie in the input of 24x20"),
        (lam, ["--input", "P", "--box", "30", "40", "16"], "does not lie in the output of 48x40"),
        (lam, ["--input", "nowhere.png"], "nowhere.png"),
        (lam, ["--input", "P", "--box", "0", "0", "1"], "a square of 1 pixels has no gradients"),
        (lam, ["--input", "P", "--sigma", "inf"], "sigma positive and finite"),
        (erf, ["--input", "nowhere"], "nowhere: no such file"),
        (erf, ["--input", "P", "--shares", "2"], "--shares"),
        (erf, ["--input", "P", "--output", "x.tif"], "written as .png"),
        (equivariance, ["--input", "P", "--picture", "x.svg"], "written as .png"),
    ],
)
def test_wrong_use_is_one_clear_error(tmp_path, image, weights_x2, command, arguments, said):
    with pytest.raises(UserError, match=said):
        run(command, "--weights", weights_x2, *(image if each == "P" else each for each in arguments))


@pytest.mark.parametrize(
    ("command", "option", "value", "said"),
    [
        (erf, "--seed", "9" * 30, "no whole number from 0 to 4294967295"),
        (equivariance, "--seed", "-1", "no whole number from 0 to 4294967295"),
        (erf, "--size", "65537x8", "a side has at most 65536 pixels"),
        (equivariance, "--size", "9x" + "9" * 30, "a side has at most 65536 pixels"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(image, weights_x2, capsys, command, option, value, said):
    with pytest.raises(SystemExit) as stop:
        run(command, "--weights", weights_x2, "--input", image, f"{option}={value}")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_flat_picture_has_no_attribution(tmp_path, weights_x2):
    write_image(tmp_path / "flat.png", np.full((12, 12, 3), 90, np.uint8))
    with pytest.raises(UserError, match="no pixel counts"):
        run(lam, "--weights", weights_x2, "--input", tmp_path / "flat.png", "--steps", 1, "--output", tmp_path / "lam.png")
    assert not (tmp_path / "lam.png").exists()


@pytest.mark.parametrize("command", [lam, erf, equivariance])
def test_weights_that_are_no_numbers_leave_no_picture(tmp_path, image, weights_x2, command):
    network, options = load_network(weights_x2)
    save_weights(tmp_path / "nan.safetensors", {key: value * math.nan for key, value in network.state_dict().items()}, options)
    out = ["--picture" if command is equivariance else "--output", tmp_path / "out.png"]
    with pytest.raises(UserError, match="numbers"):
        run(command, "--weights", tmp_path / "nan.safetensors", "--input", image, *out)
    assert not (tmp_path / "out.png").exists()


def test_lack_of_memory_is_one_line(tmp_path, image, weights_x2, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise cv2.error("OpenCV: Insufficient memory: Failed to allocate 9 bytes\nin function")

    arguments = ["--weights", weights_x2, "--input", image, "--output", tmp_path / "erf.png", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["erf", *map(str, arguments)])
    monkeypatch.setattr(erf, "effective_receptive_field", exhausted)
    with pytest.raises(SystemExit) as stop:
        erf.cli()
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: not enough memory; take smaller sizes or pictures (OpenCV: Insufficient memory: Failed to allocate 9 bytes)"
    ]
    monkeypatch.setattr(erf, "effective_receptive_field", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        erf.cli()


def test_classifiers_have_no_pixels_to_attribute(tmp_path, image):
    (tmp_path / "o.yml").write_text(
        yaml.safe_dump({"network_g": {"type": "VMamba", "num_classes": 3, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}})
    )
    for command in (lam, erf):
        with pytest.raises(UserError, match=r"VMamba gives no picture, its output has shape \(1, 3\)"):
            run(command, "--opt", tmp_path / "o.yml", "--input", image, "--output", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("command", [lam, erf, equivariance])
def test_detectors_are_not_measured(tmp_path, image, command):
    out = ["--picture" if command is equivariance else "--output", tmp_path / "out.png"]
    with pytest.raises(UserError, match="MaskRCNN gives objects that it finds"):
        run(command, "--opt", ROOT / "options" / "mask_rcnn_pasted.yml", "--untrained", "--input", image, *out)
    assert not (tmp_path / "out.png").exists()
