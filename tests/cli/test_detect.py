"""The command that finds things in pictures."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image
from torch import Tensor, nn

from eqmambair import build_network
from eqmambair.cli import detect
from eqmambair.errors import UserError

mask_tools = pytest.importorskip("pycocotools.mask", reason="detection needs pycocotools")


@ARCH_REGISTRY.register()
class BrightThings(nn.Module):
    """Finds the bright part of a picture, as the second class and surely, and all of it, as the first and hardly."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scores = nn.Parameter(torch.tensor([0.9, 0.3]))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        outputs = []
        for image in images:
            if image.shape[2] == 31:
                raise RuntimeError("can't allocate memory: you tried to allocate 9 bytes")
            bright = image.mean(0) > 0.5
            masks = torch.stack([bright, torch.ones_like(bright)])[:, None].float()
            rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
            box = [float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0] if len(rows) else [0.0, 0.0, 1.0, 1.0]
            boxes = torch.tensor([box, [0.0, 0.0, *map(float, image.shape[:0:-1])]])
            outputs.append({"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": self.scores, "masks": masks})
        return outputs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    options = {"type": "BrightThings", "num_classes": 2}
    card = {"task": "detection", "classes": ["ground", "lamp"]}
    torch.save({"params": BrightThings().state_dict(), "network_g": options, "card": card}, tmp_path / "detector.pth")
    return tmp_path / "detector.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of 300x280, a lamp of 40x20 in the second of which only the place differs."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, (x, y) in {"a.png": (30, 50), "deep/b.png": (200, 10)}.items():
        pixels = np.zeros((280, 300, 3), np.uint8)
        pixels[y : y + 20, x : x + 40] = 255
        cv2.imwrite(str(tmp_path / "in" / name), pixels)
    return tmp_path / "in"


def run(folder: Path, weights: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    out = folder.parent / "out"
    code = detect.main([str(folder), "-w", str(weights), "-o", str(out), "--recursive", *more])
    return code, json.loads((out / "detections.json").read_text())


def test_things_are_drawn_and_written_as_coco_writes_results(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = run(folder, weights)
    assert code == 0
    assert [(each["image_id"], each["category_id"], each["bbox"]) for each in results] == [
        ("a.png", 2, [30, 50, 40, 20]),
        ("deep/b.png", 2, [200, 10, 40, 20]),
    ]
    assert results[0]["score"] == pytest.approx(0.9)
    mask = mask_tools.decode(results[0]["segmentation"])
    assert mask.shape == (280, 300)
    assert mask.sum() == mask[50:70, 30:70].sum() == 800
    drawn = np.asarray(Image.open(folder.parent / "out" / "a_found.png"))
    assert drawn.shape == (280, 300, 3)
    assert len(np.unique(drawn[68, 40:60], axis=0)) == 1  # the mask, half of its colour over white
    assert drawn[68, 50].tolist() != [255, 255, 255]
    assert not drawn[200:].any()
    assert (folder.parent / "out" / "deep" / "b_found.png").is_file()
    said = capsys.readouterr().out
    assert "[1/2]" in said
    assert "1 lamp" in said
    assert "2 searched, 2 things found, 0 problems" in said


def test_scores_and_the_numbers_of_an_annotation_file(folder: Path, weights: Path, tmp_path: Path) -> None:
    images = [{"id": 71, "file_name": "deep/b.png", "width": 300, "height": 280}]
    categories = [{"id": 9, "name": "lamp"}, {"id": 4, "name": "ground"}]
    (tmp_path / "set.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    code, results = run(folder, weights, "--score", "0.2", "--annotations", str(tmp_path / "set.json"))
    assert code == 1  # a.png is not listed
    assert [(each["image_id"], each["category_id"]) for each in results] == [(71, 9), (71, 4)]
    assert results[1]["bbox"] == [0, 0, 300, 280]


def test_small_pictures_are_enlarged_until_names_can_be_read(tmp_path: Path, weights: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    assert detect.main([str(tmp_path / "x.png"), "-w", str(weights), "-o", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "x_found.png") as picture:
        assert picture.size == (320, 240)


def test_what_cannot_be_used_is_told_in_a_line_each(folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.png").write_bytes(b"none")
    Image.new("RGB", (31, 9)).save(folder / "huge.png")
    code, results = run(folder, weights)
    assert code == 1
    assert len(results) == 2
    problems = capsys.readouterr().err.splitlines()
    assert len(problems) == 2
    assert "bad.png: cannot be decoded" in problems[0]
    assert "huge.png: not enough memory for 31x9 pixels" in problems[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "2"], "--score 2.0: must be from 0 to 1"),
        (["--classes", "list"], "2 classes, but 1 names"),
        (["--annotations", "set.json"], "has 2 classes, but set.json has 1"),
        (["--annotations", "list"], "list: is no JSON"),
        (["in/a.png"], "name of another"),
    ],
)
def test_refusals_in_one_line(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(folder.parent)
    Path("list").write_text("a one\n")
    Path("set.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    with pytest.raises(UserError, match=message):
        detect.main(["in", *arguments, "-w", str(weights), "-o", "out"])
    assert not Path("out").exists()


def test_an_opacity_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        detect.main(["in", "--opacity", "2"])
    assert "argument --opacity: '2' is no number from 0 to 1" in capsys.readouterr().err


def test_a_classifier_finds_nothing(folder: Path) -> None:
    options = {"type": "VMamba", "dims": 8, "depths": [1, 1], "num_classes": 3}
    torch.save({"params": build_network(options).state_dict(), "network_g": options}, folder.parent / "classifier.pth")
    with pytest.raises(UserError, match="VMamba does not find things"):
        detect.main([str(folder), "-w", str(folder.parent / "classifier.pth"), "-o", str(folder.parent / "out")])
