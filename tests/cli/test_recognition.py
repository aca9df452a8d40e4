"""Commands of recognition: classify, segment, and the benchmark on turned pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eqmambair.analysis.rotated import spread, turned
from eqmambair.cli import classify, rotated_benchmark, segment
from eqmambair.errors import UserError
from tests.engine.tiny_recognition import (
    CLASSES,
    TinyClassifier,
    TinySegmenter,
    classification_options,
    make_class_folders,
    make_labelled_pictures,
    segmentation_options,
    write,
)

VIEW = {"size": 12, "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    card = {"task": "classification", "classes": list(CLASSES), "preprocessing": VIEW}
    options = {"type": "TinyClassifier", "num_classes": 3}
    torch.save({"params": TinyClassifier().state_dict(), "network_g": options, "card": card}, tmp_path / "classifier.pth")
    return tmp_path / "classifier.pth"


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    protocol = {"resize": [28, 24], "mode": "whole", "flip": False, "ratios": [1.0]}
    card = {"task": "segmentation", "classes": ["dark", "bright"], "colours": [[9, 9, 9], [250, 0, 0]], "protocol": protocol}
    options = {"type": "TinySegmenter", "num_classes": 2}
    torch.save({"params": TinySegmenter().state_dict(), "network_g": options, "card": card}, tmp_path / "segmenter.pth")
    return tmp_path / "segmenter.pth"


def test_classify_tells_the_likeliest_classes_by_name(tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_class_folders(tmp_path / "pictures", each=2)
    out = tmp_path / "out.json"
    assert classify.main([str(folder), "--recursive", "-w", str(classifier), "--top", "2", "--batch", "4", "--json", str(out)]) == 0
    pictures = json.loads(out.read_text())["pictures"]
    assert len(pictures) == 6
    for guesses in pictures.values():
        assert [len(guesses), *(each["name"] in CLASSES for each in guesses)] == [2, True, True]
        assert guesses[0]["probability"] >= guesses[1]["probability"]
    assert capsys.readouterr().out.count(" %") == 12


def test_classify_goes_on_past_what_cannot_be_read(tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_class_folders(tmp_path / "pictures", each=1)
    (folder / "left" / "bad.png").write_bytes(b"none")
    assert classify.main([str(folder), "--recursive", "-w", str(classifier)]) == 1
    captured = capsys.readouterr()
    assert "bad.png: cannot be decoded" in captured.err
    assert len(captured.out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere.png"], "no such file"), (["empty"], "no picture here"), (["x.png", "--classes", "list"], "3 classes, but 1")],
)
def test_classify_refuses_in_one_line(
    tmp_path: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text("a one\n")
    Image.new("RGB", (9, 9)).save("x.png")
    with pytest.raises(UserError, match=message):
        classify.main([*arguments, "-w", str(classifier)])


def test_a_segmentation_network_is_no_classifier(tmp_path: Path, segmenter: Path, classifier: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="TinySegmenter is no classifier"):
        classify.main([str(tmp_path / "x.png"), "-w", str(segmenter), "--size", "32"])
    with pytest.raises(UserError, match="TinyClassifier does not segment"):
        segment.main([str(tmp_path / "x.png"), "-w", str(classifier), "-o", str(tmp_path / "out")])


def test_networks_of_other_tasks_are_refused_by_name(tmp_path: Path, classifier: Path, segmenter: Path) -> None:
    import eqmambair

    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    out = ["-o", str(tmp_path / "out")]
    with pytest.raises(UserError, match="EQMambaIR is no segmentation network"):
        segment.main([str(tmp_path / "x.png"), "--model", "eq_mambair_small_x2", *out])
    gray = {"type": "VMamba", "dims": 8, "depths": [1, 1], "in_chans": 1, "num_classes": 3}
    torch.save({"params": eqmambair.build_network(gray).state_dict(), "network_g": gray}, tmp_path / "gray.pth")
    for command in (lambda: classify.main([str(tmp_path / "x.png"), "-w", str(tmp_path / "gray.pth")]),
                    lambda: segment.main([str(tmp_path / "x.png"), "-w", str(tmp_path / "gray.pth"), *out])):  # fmt: skip
        with pytest.raises(UserError, match="VMamba takes pictures of 1 channel, recognition is for RGB"):
            command()
    make_labelled_pictures(tmp_path, "train", 2)
    make_labelled_pictures(tmp_path, "val", 2)
    file = write(tmp_path, segmentation_options(tmp_path))
    with pytest.raises(UserError, match="TinyClassifier does not segment pictures"):
        rotated_benchmark.main(["--opt", str(file), "-w", str(classifier)])
    options = {"type": "TinySegmenter", "num_classes": 4}
    torch.save({"params": TinySegmenter(num_classes=4).state_dict(), "network_g": options}, tmp_path / "four.pth")
    with pytest.raises(UserError, match="TinySegmenter has 4 classes, the set 2"):
        rotated_benchmark.main(["--opt", str(file), "-w", str(tmp_path / "four.pth")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["segment", "--opacity", "1.5"], ["segment", "--opacity", "nan"], ["rotated", "--angles", "nan"]])
def test_numbers_out_of_range_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = {
        "segment": lambda rest: segment.main(["x.png", *rest]),
        "rotated": lambda rest: rotated_benchmark.main(["--opt", "x", *rest]),
    }
    with pytest.raises(SystemExit):
        command[arguments[0]](arguments[1:])
    assert f"{arguments[2]!r} is no" in capsys.readouterr().err


def test_pictures_are_seen_as_viewers_show_them(tmp_path: Path, segmenter: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (28, 20)).save(tmp_path / "phone.jpg", exif=tag)
    assert segment.main([str(tmp_path / "phone.jpg"), "-w", str(segmenter), "-o", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "phone_labels.png") as mask:
        assert mask.size == (20, 28)


def test_segment_writes_labels_and_overlays(tmp_path: Path, segmenter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_labelled_pictures(tmp_path, "val", 2) / "val" / "images"
    assert segment.main([str(folder), "-w", str(segmenter), "-o", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "1_labels.png") as mask, Image.open(tmp_path / "out" / "1_overlay.png") as over:
        assert mask.size == over.size == (28, 24)
        assert set(np.unique(np.asarray(mask))) <= {0, 1}
        assert mask.getpalette()[:6] == [9, 9, 9, 250, 0, 0]
    assert "dark" in capsys.readouterr().out
    options = ["--mode", "slide", "--window", "16", "16", "--stride", "8", "8", "--flip", "--ratios", "0.5", "1", "--opacity", "1"]
    assert segment.main([str(folder), "-w", str(segmenter), "-o", str(tmp_path / "other"), *options]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--palette", "loveda"], "2 classes, but 7 names"),
        (["--window", "4", "4", "--stride", "9", "9"], "the stride must lie"),
        (["--ratios", "inf"], "ratios must be positive"),
        (["--ratios", "nan"], "ratios must be positive"),
        (["val/images/0.png"], "name of another"),
    ],
)
def test_segment_refuses_in_one_line(
    tmp_path: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_labelled_pictures(tmp_path, "val", 1)
    with pytest.raises(UserError, match=message):
        segment.main(["val/images", *arguments, "-w", str(segmenter)])


def test_right_angles_move_pixels_and_change_none() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    for turns, angle in enumerate((0.0, 90.0, 180.0, 270.0)):
        assert np.array_equal(np.asarray(turned(Image.fromarray(pixels), angle)), np.rot90(pixels, turns))
    assert np.asarray(turned(Image.fromarray(pixels), 45.0))[0, 0].tolist() == [0, 0, 0]


def test_benchmark_of_classifiers_side_by_side(tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_class_folders(tmp_path / "val", each=3)
    make_class_folders(tmp_path / "train", each=1)
    file = write(tmp_path, classification_options(tmp_path))
    options = torch.load(classifier, weights_only=True)
    torch.save({**options, "params": TinyClassifier().state_dict()}, tmp_path / "second.pth")
    out, drawn = tmp_path / "out.json", tmp_path / "plot.png"
    arguments = ["--opt", str(file), "-w", str(classifier), str(tmp_path / "second.pth"), "--json", str(out), "--plot", str(drawn)]
    rotated_benchmark.main(arguments)
    report = json.loads(out.read_text())
    assert list(report["networks"]) == ["classifier", "second"]
    figures = report["networks"]["second"]
    assert list(figures["angles"]) == [str(angle) for angle in range(0, 360, 15)]
    assert figures["summary"]["mean"] == pytest.approx(np.mean([each["top1"] for each in figures["angles"].values()]))
    assert figures["summary"]["upright"] == figures["angles"]["0"]["top1"]
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    assert "right angles" in capsys.readouterr().out
    rotated_benchmark.main(["--opt", str(file), "-w", str(classifier), "--angles", "0", "-90", "--limit", "4", "--json", str(out)])
    assert list(json.loads(out.read_text())["networks"]["classifier"]["angles"]) == ["0", "270"]


def test_benchmark_of_a_network_that_forgets_the_angle_shows_no_spread(tmp_path: Path) -> None:
    import eqmambair

    make_class_folders(tmp_path / "val", each=4, size=(32, 32))
    network = {"type": "EQVMamba", "num_classes": 3, "dims": 8, "depths": [1, 1], "init": "corrected"}
    model = eqmambair.build_network(network)
    torch.save({"params": model.state_dict(), "network_g": network}, tmp_path / "eq.pth")
    view = {"datasets__val__size": 32, "datasets__val__batch_size_per_gpu": 6, "network_g": network}
    file = write(tmp_path, classification_options(tmp_path, **view))
    rotated_benchmark.main(
        ["--opt", str(file), "-w", str(tmp_path / "eq.pth"), "--angles", "0", "90", "180", "270", "--json", str(tmp_path / "o.json")]
    )
    summary = json.loads((tmp_path / "o.json").read_text())["networks"]["eq"]["summary"]
    assert summary["right_std"] == 0
    assert summary["drop"] == 0


def test_benchmark_of_segmentation_by_both_policies(tmp_path: Path, segmenter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_labelled_pictures(tmp_path, "train", 2)
    make_labelled_pictures(tmp_path, "val", 3)
    file = write(tmp_path, segmentation_options(tmp_path))
    out = tmp_path / "out.json"
    rotated_benchmark.main(["--opt", str(file), "-w", str(segmenter), "--policy", "as-is", "padded", "--json", str(out)])
    report = json.loads(out.read_text())
    assert list(report["networks"]) == ["segmenter, as-is", "segmenter, padded"]
    for each in report["networks"].values():
        assert list(each["angles"]) == ["0", "90", "180", "270"]
        assert each["summary"]["drop"] == pytest.approx(each["summary"]["upright"] - each["summary"]["right"])
    with pytest.raises(UserError, match="right angles"):
        rotated_benchmark.main(["--opt", str(file), "-w", str(segmenter), "--angles", "15"])


def test_spread_is_of_the_population() -> None:
    figures = {0.0: {"x": 4.0}, 90.0: {"x": 2.0}, 45.0: {"x": 0.0}}
    found = spread(figures, "x")
    assert (found["mean"], found["right"], found["right_std"], found["turned"], found["drop"]) == (2, 3, 1, 2, 1)
