"""The commands that draw what a network looks at: a picture and its numbers, for trained, bundled and untrained networks."""

import json

import cv2
import numpy as np
import pytest
import yaml

from eqmambair.checkpoints import load_network, save_weights, to_official
from eqmambair.cli import equivariance, erf, lam
from eqmambair.data.io import write_image
from eqmambair.errors import UserError
from eqmambair.zoo import cache


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
        (erf, ["--input", "nowhere"], "nowhere: no such file"),
        (erf, ["--input", "P", "--shares", "2"], "--shares"),
        (erf, ["--input", "P", "--output", "x.tif"], "written as .png"),
        (equivariance, ["--input", "P", "--picture", "x.svg"], "written as .png"),
    ],
)
def test_wrong_use_is_one_clear_error(tmp_path, image, weights_x2, command, arguments, said):
    with pytest.raises(UserError, match=said):
        run(command, "--weights", weights_x2, *(image if each == "P" else each for each in arguments))


def test_classifiers_have_no_pixels_to_attribute(tmp_path, image):
    (tmp_path / "o.yml").write_text(
        yaml.safe_dump({"network_g": {"type": "VMamba", "num_classes": 3, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}})
    )
    with pytest.raises(UserError, match=r"gives no picture"):
        run(lam, "--opt", tmp_path / "o.yml", "--input", image, "--output", tmp_path / "lam.png")
    assert not (tmp_path / "lam.png").exists()
