"""The commands that measure and convert networks."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml

from eqmambair import UserError, build_network
from eqmambair.checkpoints import load_network, read_state, save_weights
from eqmambair.cli import complexity, convert_weights, equivariance
from eqmambair.zoo import cache

NETWORK = {"type": "EQMambaIR", "embed_dim": 32, "depths": [1], "d_state": 2, "mlp_ratio": 1.25, "upsampler": "pixelshuffle", "upscale": 2}


@pytest.fixture
def option_file(tmp_path):
    path = tmp_path / "network.yml"
    path.write_text(yaml.safe_dump({"name": "x", "network_g": NETWORK}))
    return str(path)


def test_equivariance_of_an_untrained_network(option_file, tmp_path, capsys):
    report = tmp_path / "report.json"
    equivariance.main(["--opt", option_file, "--size", "8x8", "5x9", "--json", str(report)])
    written = json.loads(report.read_text())
    assert list(written["inputs"]) == ["noise 8x8", "noise 5x9"]
    assert all(result["nmse"] <= 1e-10 for result in written["inputs"].values())
    assert "rot270" in capsys.readouterr().out


def test_equivariance_on_a_picture(option_file, tmp_path, capsys):
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (9, 6, 3), np.uint8))
    equivariance.main(["--opt", option_file, "--input", str(picture), "--group", "c2"])
    assert "rot180" in capsys.readouterr().out
    cv2.imwrite(str(picture), np.full((9, 6), 99, np.uint8))  # gray goes into a colour network as three equal channels
    equivariance.main(["--opt", option_file, "--input", str(picture)])
    cv2.imwrite(str(picture), np.zeros((9, 6, 4), np.uint8))
    with pytest.raises(UserError, match="has alpha"):
        equivariance.main(["--opt", option_file, "--input", str(picture)])


def test_network_must_be_named(tmp_path):
    with pytest.raises(UserError, match="no network"):
        equivariance.main([])
    with pytest.raises(UserError, match="nowhere"):
        equivariance.main(["--opt", str(tmp_path / "nowhere.yml")])
    empty = tmp_path / "empty.yml"
    empty.write_text("name: x\n")
    with pytest.raises(UserError, match="network_g"):
        equivariance.main(["--opt", str(empty)])


def test_option_file_names_weights_unless_first_ones_are_asked_for(tmp_path, weights_x2, capsys):
    _, options = load_network(weights_x2)
    path = tmp_path / "o.yml"
    path.write_text(yaml.safe_dump({"network_g": options, "path": {"pretrain_network_g": str(weights_x2)}}))
    equivariance.main(["--opt", str(path), "--size", "4x4"])
    assert f"weights {weights_x2}" in capsys.readouterr().out
    equivariance.main(["--opt", str(path), "--size", "4x4", "--untrained"])
    assert "untrained" in capsys.readouterr().out
    path.write_text(yaml.safe_dump({"network_g": options}))
    with pytest.raises(UserError, match="names no weights"):
        convert_weights.main(["--opt", str(path), "--output", str(tmp_path / "x.pth")])


def test_bundled_weights_are_measured_by_name(weights_x2, monkeypatch, capsys):
    monkeypatch.setattr(cache, "WEIGHTS_FOLDER", weights_x2.parent)
    equivariance.main(["--model", "x2", "--size", "4x4"])
    assert f"weights {weights_x2}" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["8", "8x", "0x4", "-1x3", "axb"])
def test_sizes_that_are_none_are_refused(option_file, size):
    with pytest.raises(SystemExit) as stop:
        equivariance.main(["--opt", option_file, f"--size={size}"])
    assert stop.value.code == 2


def test_reports_that_cannot_be_written_and_devices_that_are_none_are_one_line(option_file, tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        complexity.main(["--opt", option_file, "--size", "4x4", "--json", str(taken / "x.json")])
    with pytest.raises(UserError, match="cannot be written"):
        equivariance.main(["--opt", option_file, "--size", "4x4", "--json", str(taken / "x.json")])
    with pytest.raises(UserError, match="device 'foo'"):
        equivariance.main(["--opt", option_file, "--device", "foo"])


def test_networks_of_basicsr_are_measured_too(tmp_path, capsys):
    path = tmp_path / "basicsr.yml"
    path.write_text(
        yaml.safe_dump({"network_g": {"type": "SRVGGNetCompact", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_conv": 1}})
    )
    complexity.main(["--opt", str(path), "--size", "4x4"])
    equivariance.main(["--opt", str(path), "--size", "4x4"])
    assert "SRVGGNetCompact" in capsys.readouterr().out


def test_networks_that_cannot_be_built_are_named_by_their_file(option_file, tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("network_g:\n  type: MambaIR\n  embed_dimm: 3\n")
    for command, arguments in ((complexity, ["--opt", option_file, str(wrong)]), (equivariance, ["--opt", str(wrong)])):
        with pytest.raises(UserError, match=r"wrong\.yml: MambaIR takes no argument 'embed_dimm'; did you mean 'embed_dim'"):
            command.main([*arguments, "--size", "4x4"])


def test_complexity_table(option_file, tmp_path, capsys):
    report = tmp_path / "report.json"
    complexity.main(["--opt", option_file, "--size", "8x12", "--json", str(report)])
    (row,) = json.loads(report.read_text())["networks"].values()
    assert row["parameters"] == sum(p.numel() for p in build_network(NETWORK).parameters())
    assert f"{row['parameters']:,}" in capsys.readouterr().out


def test_conversion_there_and_back_keeps_every_weight(tmp_path):
    network = build_network(NETWORK)
    ours, published, back = (tmp_path / name for name in ("ours.safetensors", "published.pth", "back.pth"))
    save_weights(ours, network.state_dict(), NETWORK)
    convert_weights.main(["--weights", str(ours), "--output", str(published), "--official"])
    assert "eqconv_first.weights" in read_state(published)[0]
    convert_weights.main(["--weights", str(published), "--output", str(back)])
    for key, value in read_state(back)[0].items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-6, atol=1e-7)
    with pytest.raises(UserError, match="exists"):
        convert_weights.main(["--weights", str(ours), "--output", str(back)])
