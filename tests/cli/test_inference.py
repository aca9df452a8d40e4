"""The inference command: every kind of picture in, the same kind out, and one bad file spoils nothing."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.matlab_functions import imresize

import eqmambair
from eqmambair.cli import _network, inference
from eqmambair.data.io import list_images, read_image, to_float, write_image
from eqmambair.data.prepare import upscale
from eqmambair.errors import UserError
from eqmambair.inference import networks
from eqmambair.zoo import cache

ROOT = Path(__file__).resolve().parents[2]


def picture(height=12, width=17, channels=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def command(*arguments):
    return inference.main([str(argument) for argument in arguments])


def by_hand(weights, image):
    """The network applied to a colour picture, without any of the machinery."""
    network, _ = networks.load_network(weights)
    with torch.inference_mode():
        result = network(torch.from_numpy(to_float(image)).permute(2, 0, 1)[None])[0]
    return (result.clamp(0, 1) * np.iinfo(image.dtype).max).round().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("extension", [".png", ".webp", ".tif", ".bmp"])
def test_a_picture_is_what_the_network_makes_of_it(tmp_path, weights_x2, extension):
    write_image(tmp_path / f"a{extension}", picture())
    assert command(tmp_path / f"a{extension}", "-o", tmp_path / "out", "--weights", weights_x2) == 0
    found = read_image(tmp_path / "out" / f"a{extension}")
    assert found.dtype == np.uint8
    assert np.abs(found - by_hand(weights_x2, picture())).max() <= 1  # folded layers round differently


def test_jpeg_in_jpeg_out(tmp_path, weights_x2):
    write_image(tmp_path / "a.jpg", picture(16, 16) // 8 + 100)
    assert command("-i", tmp_path / "a.jpg", "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert read_image(tmp_path / "out/a.jpg").shape == (32, 32, 3)


def test_sixteen_bit_stays_and_dark_pictures_are_not_taken_for_eight_bit(tmp_path, weights_x2):
    image = picture(dtype=np.uint16) % 200
    write_image(tmp_path / "a.png", image)
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2)
    found = read_image(tmp_path / "out/a.png")
    assert found.dtype == np.uint16
    assert np.abs(found - by_hand(weights_x2, image)).max() <= 2


def test_gray_goes_through_a_colour_network_and_stays_gray(tmp_path, weights_x2):
    image = picture(channels=1) // 2 + 64  # so that no channel is clipped
    write_image(tmp_path / "a.png", image)
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2)
    found = read_image(tmp_path / "out/a.png")
    assert found.shape == (24, 34, 1)
    wanted = by_hand(weights_x2, np.repeat(image, 3, 2)).mean(2)
    assert np.abs(found[:, :, 0] - wanted).max() <= 1.5


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", [(24, 17), (3, 5)])
def test_of_colour_a_gray_network_gets_the_luma(tmp_path, weights_gray, weights_gray_x3, scale, size):
    """By OpenCV: to YCrCb, the network on Y, bicubic on Cr and Cb, and back; luma and chroma are neither clipped nor rounded between."""
    weights, image = weights_gray if scale == 1 else weights_gray_x3, picture(*size) // 2 + 64
    write_image(tmp_path / "a.png", image)
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights)
    parts = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2YCrCb)
    with torch.no_grad():
        luma = networks.load_trained(weights).network(torch.from_numpy(parts[None, None, :, :, 0].copy()))[0, 0].numpy()
    chroma = parts[:, :, 1:]
    if scale > 1:
        around = np.pad(chroma, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
        chroma = imresize(around, scale)[8 * scale : -8 * scale, 8 * scale : -8 * scale]
    wanted = cv2.cvtColor(np.dstack([luma, chroma]).astype(np.float32), cv2.COLOR_YCrCb2RGB).clip(0, 1) * 255
    found = read_image(tmp_path / "out/a.png")
    assert found.shape == (scale * size[0], scale * size[1], 3)
    assert np.abs(found - wanted).max() <= 1.2  # of rounding, and of OpenCV's three digits for the weights of YCrCb


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_enlarged_by_itself(tmp_path, weights_x2, dtype):
    image = picture(channels=4, dtype=dtype)
    write_image(tmp_path / "a.png", image)
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2)
    found = read_image(tmp_path / "out/a.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, :, 3:], upscale(image[:, :, 3:], 2))
    assert np.abs(found[:, :, :3] - by_hand(weights_x2, image[:, :, :3])).max() <= 2


def test_alpha_is_left_alone_at_the_same_size(tmp_path, weights_gray):
    image = picture(channels=4)
    write_image(tmp_path / "a.png", image)
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_gray)
    np.testing.assert_array_equal(read_image(tmp_path / "out/a.png")[:, :, 3], image[:, :, 3])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("tile", [[], ["--tile", 16], ["--tile_mode", "official"], ["--self_ensemble"]])
def test_any_size(tmp_path, weights_x3, size, tile):
    write_image(tmp_path / "a.png", picture(*size))
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x3, *tile) == 0
    assert read_image(tmp_path / "out/a.png").shape == (3 * size[0], 3 * size[1], 3)


def test_names_with_spaces_and_letters_of_any_script(tmp_path, weights_x2):
    for name in ("mein Bild.png", "写真 é.png", "a.b.png"):
        write_image(tmp_path / "in folder" / name, picture(4, 4))
    assert command(tmp_path / "in folder", "-o", tmp_path / "out folder", "-w", weights_x2, "--suffix", "_x2") == 0
    assert {path.name for path in list_images(tmp_path / "out folder")} == {"mein Bild_x2.png", "写真 é_x2.png", "a.b_x2.png"}


def test_folders_are_searched_deeply_on_request_only(tmp_path, weights_x2):
    write_image(tmp_path / "in" / "a.png", picture(4, 4))
    write_image(tmp_path / "in" / "sub" / "a.png", picture(4, 4, seed=1))
    command(tmp_path / "in", "-o", tmp_path / "flat", "-w", weights_x2)
    assert len(list_images(tmp_path / "flat", recursive=True)) == 1
    command(tmp_path / "in", "-o", tmp_path / "deep", "-w", weights_x2, "--recursive")
    assert [p.relative_to(tmp_path / "deep").as_posix() for p in list_images(tmp_path / "deep", recursive=True)] == ["a.png", "sub/a.png"]


def test_results_inside_the_input_folder_are_no_inputs_of_the_next_run(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "in" / "a.png", picture(4, 4))
    for _ in range(2):
        assert command(tmp_path / "in", "-o", tmp_path / "in/out", "-w", weights_x2, "--recursive", "--overwrite") == 0
        assert "1 restored" in capsys.readouterr().out
    assert len(list_images(tmp_path / "in", recursive=True)) == 2


def test_bad_files_are_named_and_the_rest_is_done(tmp_path, weights_x2, capsys):
    folder = tmp_path / "in"
    for name in ("a.png", "z.png"):
        write_image(folder / name, picture(4, 4))
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "letter.png").write_text("Dear image reader,")
    assert command(folder, tmp_path / "missing.png", "-o", tmp_path / "out", "-w", weights_x2) == 1
    said = capsys.readouterr()
    assert "2 restored, 0 there already, 4 problems" in said.out
    for name in ("cut.png", "empty.jpg", "letter.png", "missing.png"):
        assert len([line for line in said.err.splitlines() if name in line and line.startswith("problem: ")]) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "z.png"}


def test_a_file_that_is_no_picture_is_named(tmp_path, weights_x2, capsys):
    (tmp_path / "notes.txt").write_text("words")
    assert command(tmp_path / "notes.txt", "-o", tmp_path / "out", "-w", weights_x2) == 1
    assert "notes.txt: is not an image" in capsys.readouterr().err


def test_equal_stems_keep_apart_by_their_extensions(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "in/a.png", picture(4, 4))
    write_image(tmp_path / "in/a.bmp", picture(4, 4, seed=1))
    assert command(tmp_path / "in", "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.bmp"}
    assert command(tmp_path / "in", "-o", tmp_path / "one", "-w", weights_x2, "--format", "png") == 1
    assert "is that of" in capsys.readouterr().err
    assert np.abs(read_image(tmp_path / "one/a.png") - by_hand(weights_x2, read_image(tmp_path / "in/a.bmp"))).max() <= 1


def test_an_input_is_never_written_over(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "a.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path, "-w", weights_x2, "--overwrite") == 1
    assert "overwrite the input" in capsys.readouterr().err
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path, "-w", weights_x2, "--suffix", "_x2") == 0


def test_what_is_there_is_left_alone_unless_told(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "a.png", picture(4, 4))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"old")
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert "1 there already" in capsys.readouterr().out
    assert (tmp_path / "out/a.png").read_bytes() == b"old"
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2, "--overwrite") == 0
    assert read_image(tmp_path / "out/a.png").shape == (8, 8, 3)


def test_the_output_can_be_one_file_for_one_input(tmp_path, weights_x2):
    write_image(tmp_path / "a.png", picture(4, 4))
    write_image(tmp_path / "b.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path / "big.tif", "-w", weights_x2) == 0
    assert read_image(tmp_path / "big.tif").shape == (8, 8, 3)
    with pytest.raises(UserError, match="one file"):
        command(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "other.png", "-w", weights_x2)


@pytest.mark.parametrize(
    ("name", "extra"), [("j.gif", []), ("j.HEIC", []), ("q.png", ["--format", "webp"]), ("q.png", ["--suffix", "_x2"])]
)
def test_an_output_that_says_two_things_is_refused(tmp_path, weights_x2, name, extra):
    write_image(tmp_path / "a.png", picture(4, 4))
    with pytest.raises(UserError, match=name):
        command(tmp_path / "a.png", "-o", tmp_path / "out" / name, "-w", weights_x2, *extra)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_may_have_a_dot_in_its_name(tmp_path, weights_x2):
    write_image(tmp_path / "a.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path / "run.v2", "-w", weights_x2) == 0
    assert (tmp_path / "run.v2/a.png").exists()


def test_without_a_network_no_folder_appears(tmp_path):
    write_image(tmp_path / "a.png", picture(4, 4))
    with pytest.raises(UserError, match="missing"):
        command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", tmp_path / "missing.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_unread_formats_are_named(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "in" / "a.png", picture(4, 4))
    for name in ("b.gif", "c.HEIC", "sub/d.ppm", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    assert command(tmp_path / "in", "-o", tmp_path / "out", "-w", weights_x2) == 1
    said = capsys.readouterr()
    assert "1 restored, 0 there already, 2 problems" in said.out
    assert "b.gif: GIF is not read" in said.err
    assert "c.HEIC: HEIC is not read" in said.err
    assert command(tmp_path / "in", "-o", tmp_path / "out", "-w", weights_x2, "--recursive") == 1
    assert "d.ppm: PPM is not read" in capsys.readouterr().err


def test_a_picture_named_twice_is_restored_once(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "a.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-i", tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert "1 restored" in capsys.readouterr().out


def test_an_output_that_cannot_be_is_one_clear_error(tmp_path, weights_x2):
    write_image(tmp_path / "a.png", picture(4, 4))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be made a folder"):
        command(tmp_path / "a.png", "-o", tmp_path / "file/out", "-w", weights_x2)
    with pytest.raises(UserError, match="cannot be made a folder"):
        command(tmp_path / "a.png", "-o", tmp_path / "file", "-w", weights_x2)


def test_a_result_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, weights_x2, capsys):
    write_image(tmp_path / "a.png", picture(4, 4, dtype=np.uint16))
    write_image(tmp_path / "b.png", picture(4, 4))
    assert command(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out", "-w", weights_x2, "--format", "jpg") == 1
    assert "16 bit" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "nowhere.pth"], r"nowhere\.pth"),
        (["--model", "best-ever"], "best-ever"),
        (["--opt", "nowhere.yml"], r"nowhere\.yml"),
        (["--weights", "W", "--device", "toaster"], "toaster"),
        (["--weights", "W", "--device", "meta"], "meta"),
        (["--weights", "W", "--suffix", "/x"], "no part of a file name"),
        (["--weights", "W", "--tile", "-4"], "tile"),
        (["--weights", "W", "--tile", "8", "--tile_overlap", "8"], "overlap"),
    ],
)
def test_wrong_use_is_one_clear_error(tmp_path, weights_x2, arguments, said):
    write_image(tmp_path / "a.png", picture(4, 4))
    arguments = [weights_x2 if argument == "W" else argument for argument in arguments]
    with pytest.raises(UserError, match=said):
        command(tmp_path / "a.png", "-o", tmp_path / "out", *arguments)


def test_without_a_network_the_bundled_one_enlarges_by_two(tmp_path, capsys):
    write_image(tmp_path / "a.png", picture(6, 5))
    assert command("-i", tmp_path / "a.png", "-o", tmp_path / "bundled") == 0
    assert "eq_mambair_deep_x2; --model, --weights or --opt names another" in capsys.readouterr().out
    assert command("-i", tmp_path / "a.png", "-o", tmp_path / "named", "--model", "eq_mambair_deep_x2") == 0
    assert capsys.readouterr().out.startswith("1 restored")
    first, second = (read_image(tmp_path / folder / "a.png") for folder in ("bundled", "named"))
    assert first.shape[:2] == (12, 10)
    assert np.array_equal(first, second)


def test_options_are_written_out(tmp_path, weights_x2):
    with pytest.raises(SystemExit):
        command(tmp_path, "-w", weights_x2, "--over")


def test_no_input_is_an_error(weights_x2):
    with pytest.raises(UserError, match="no input"):
        command("-w", weights_x2)


def test_weights_that_say_nothing_of_their_network_are_recognised(tmp_path, weights_x2):
    network, _ = networks.load_network(weights_x2)
    torch.save({"params": network.state_dict()}, tmp_path / "bare.pth")
    official = eqmambair.checkpoints.to_official(network.state_dict())
    torch.save({"params": official}, tmp_path / "official.pth")
    write_image(tmp_path / "a.png", picture())
    for name in ("bare", "official"):
        assert command(tmp_path / "a.png", "-o", tmp_path / name, "-w", tmp_path / f"{name}.pth") == 0
        assert np.abs(read_image(tmp_path / name / "a.png") - by_hand(weights_x2, picture())).max() <= 1


def test_the_option_file_names_network_and_weights(tmp_path, weights_x2):
    _, options = networks.load_network(weights_x2)
    write_image(tmp_path / "a.png", picture(4, 4))
    content = {"scale": 2, "network_g": options, "path": {"pretrain_network_g": str(weights_x2)}}
    (tmp_path / "o.yml").write_text(yaml.safe_dump(content))
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "--opt", tmp_path / "o.yml") == 0
    (tmp_path / "o.yml").write_text(yaml.safe_dump({**content, "network_g": {**options, "embed_dim": 64}}))
    with pytest.raises(UserError, match="mismatched"):
        command(tmp_path / "a.png", "-o", tmp_path / "new", "--opt", tmp_path / "o.yml")
    (tmp_path / "o.yml").write_text(yaml.safe_dump({"network_g": options}))
    with pytest.raises(UserError, match="names no weights"):
        command(tmp_path / "a.png", "-o", tmp_path / "new", "--opt", tmp_path / "o.yml")


def option_file(tmp_path, weights, **content):
    """An option file beside pictures to restore with it; returns what is to be given to the command."""
    _, options = networks.load_network(weights)
    write_image(tmp_path / "a.png", picture(4, 4))
    (tmp_path / "o.yml").write_text(yaml.safe_dump({"network_g": options, **content}))
    return [tmp_path / "a.png", "-o", tmp_path / "out", "--opt", tmp_path / "o.yml"]


def test_weights_of_an_option_file_lie_below_the_project(tmp_path, weights_x2, monkeypatch):
    (tmp_path / "project" / "net.safetensors").parent.mkdir()
    (tmp_path / "project" / "net.safetensors").write_bytes(weights_x2.read_bytes())
    (tmp_path / "net.safetensors").write_bytes(b"those of another project")
    monkeypatch.setattr(_network, "project_root", lambda: tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    for name in ("net.safetensors", "~/net.safetensors"):
        assert command(*option_file(tmp_path, weights_x2, path={"pretrain_network_g": name}), "--overwrite") == 0


def test_param_key_of_an_option_file_chooses_the_weights(tmp_path, weights_x2):
    network, _ = networks.load_network(weights_x2)
    state = network.state_dict()
    damaged = {key: value + float("nan") for key, value in state.items()}
    torch.save({"params": state, "params_ema": damaged}, tmp_path / "net.pth")
    given = option_file(tmp_path, weights_x2, path={"pretrain_network_g": str(tmp_path / "net.pth"), "param_key_g": "params"})
    assert command(*given) == 0
    assert command(*given, "--overwrite", "--param_key", "params_ema") == 1  # the command line wins
    assert command(*given, "--overwrite", "--weights", weights_x2) == 0  # the key belongs to the weights of the file


def test_weights_that_fit_in_part_are_loaded_where_the_option_file_says_so(tmp_path, weights_x2, caplog):
    _, options = networks.load_network(weights_x2)
    path = {"pretrain_network_g": str(weights_x2), "strict_load_g": False}
    given = option_file(tmp_path, weights_x2, path=path)
    (tmp_path / "o.yml").write_text(yaml.safe_dump({"network_g": {**options, "upscale": 3}, "path": path}))
    with caplog.at_level("WARNING", "eqmambair"):
        assert command(*given) == 0
    assert "1 missing" in caplog.text or "mismatched" in caplog.text
    assert read_image(tmp_path / "out" / "a.png").shape == (12, 12, 3)
    with pytest.raises(UserError, match="mismatched"):
        command(*given, "--weights", weights_x2, "--overwrite")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"path": {"pretrain_network_g": "W", "strict_load_g": "no"}}, "strict_load_g: expected true or false, found 'no'"),
        ({"path": {"pretrain_network_g": 5}}, r"o\.yml:\d+: path\.pretrain_network_g: expected the name of a file, found 5"),
        ({"path": "net.pth"}, "path: expected a mapping"),
        ({"path": {"pretrain_network_g": "W", "param_key_g": 3}}, "param_key_g: expected a word, found 3"),
        ({"path": {"pretrain_network_g": "W"}, "scale": "4"}, "scale: expected a whole number of at least 1, found '4'"),
        ({"path": {"pretrain_network_g": "W"}, "scale": 0}, "scale: expected a whole number"),
        ({"path": {"pretrain_network_g": "W"}, "scale": True}, "scale: expected a whole number"),
        ({"path": {"pretrain_network_g": "W"}, "scale": 4.0}, "enlarges by 2, but scale is 4"),
        ({"network_g": "EQMambaIR"}, "network_g: expected a mapping"),
    ],
)
def test_wrong_kinds_in_an_option_file_are_named(tmp_path, weights_x2, content, said):
    given = option_file(tmp_path, weights_x2, **content)
    (tmp_path / "o.yml").write_text((tmp_path / "o.yml").read_text().replace("pretrain_network_g: W", f"pretrain_network_g: {weights_x2}"))
    with pytest.raises(UserError, match=said):
        command(*given)


def test_a_bundled_model_is_found_by_name(tmp_path, weights_x2, monkeypatch):
    monkeypatch.setattr(cache, "WEIGHTS_FOLDER", weights_x2.parent)
    write_image(tmp_path / "a.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "--model", "x2") == 0
    with pytest.raises(UserError, match="no weights are called 'x9'"):
        command(tmp_path / "a.png", "-o", tmp_path / "other", "--model", "x9")


def test_damaged_weights_give_an_error_and_no_picture(tmp_path, weights_x2, capsys):
    network, _ = networks.load_network(weights_x2)
    state = network.state_dict()
    state["lift.weight"][0] = float("nan")
    torch.save({"params": state}, tmp_path / "nan.pth")
    write_image(tmp_path / "a.png", picture(4, 4))
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", tmp_path / "nan.pth") == 1
    assert "no numbers" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_half_precision_is_near_the_full(tmp_path, weights_x2):
    write_image(tmp_path / "a.png", picture())
    command(tmp_path / "a.png", "-o", tmp_path / "out", "-w", weights_x2, "--precision", "bf16")
    error = np.abs(read_image(tmp_path / "out/a.png") - by_hand(weights_x2, picture()))
    assert 0 < error.max() <= 8


def test_tiles_change_little(tmp_path, weights_x2):
    write_image(tmp_path / "a.png", picture(40, 56))
    for name, options in {"whole": ["--tile", 0], "tiles": ["--tile", 24, "--tile_overlap", 12]}.items():
        assert command(tmp_path / "a.png", "-o", tmp_path / name, "-w", weights_x2, *options) == 0
    whole, tiles = (read_image(tmp_path / name / "a.png").astype(int) for name in ("whole", "tiles"))
    assert not np.array_equal(whole, tiles)  # tiles were used
    assert np.abs(whole - tiles).mean() < 2


def test_the_launcher_ends_with_the_right_status(tmp_path, weights_x2):
    write_image(tmp_path / "ok.png", picture(4, 4))
    (tmp_path / "bad.png").write_bytes(b"no")
    launch = [sys.executable, ROOT / "scripts/inference.py"]
    done = subprocess.run([*launch, "ok.png", "bad.png", "-w", weights_x2, "-o", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip() == "problem: bad.png: is not an image, or is damaged; PNG, JPEG, WebP, TIFF and BMP are read"
    assert "1 restored" in done.stdout
    done = subprocess.run([*launch, "ok.png", "-w", "none.pth"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: none.pth")
