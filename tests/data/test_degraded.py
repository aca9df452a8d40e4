"""Pictures degraded on the fly: the papers' noise and JPEG, alike at every test, new in every epoch, from disk and LMDB."""

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from eqmambair.data.checking import check_dataset
from eqmambair.data.degradations import crop_and_jpeg, jpeg
from eqmambair.data.degraded import DegradedImageDataset
from eqmambair.data.io import write_image
from eqmambair.data.prepare import downscale, make_lmdb
from eqmambair.data.sampler import Key
from eqmambair.data.seeded import SeededDataset
from eqmambair.errors import UserError
from tests.data.test_datasets import draw, equal
from tests.engine.tiny import make_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "gt", count=4, size=42)
    return tmp_path


def build(root: Path, scale: int = 1, **changes: Any) -> DegradedImageDataset:
    return DegradedImageDataset(**{"dataroot_gt": "gt", "gt_size": 16, **changes}, scale=scale, root=root)


def picture(height: int = 70, width: int = 91, channels: int = 3) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2).reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 40, 95])
def test_crop_of_jpeg_is_that_of_the_whole_picture(channels: int, quality: int) -> None:
    image = picture(channels=channels)
    whole = jpeg(image, quality)
    for seed in range(30):
        random.seed(seed)
        gt, lq = crop_and_jpeg(image, 20, quality)
        random.seed(seed)
        top, left = random.randint(0, 50), random.randint(0, 71)
        np.testing.assert_array_equal(gt, image[top : top + 20, left : left + 20])
        np.testing.assert_array_equal(lq, whole[top : top + 20, left : left + 20])


def test_jpeg_keeps_red_red_and_gray_gray() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 200
    assert jpeg(red, 90)[:, :, 0].min() > 190
    assert jpeg(red, 90)[:, :, 2].max() < 10
    assert jpeg(red[:, :, :1], 90).shape == (16, 16, 1)


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_jpeg_at_tests_is_opencvs_of_the_file(root: Path, color: Any, backend: str) -> None:
    """Files read, turned gray, compressed and read again by OpenCV alone."""
    make_lmdb(root / "gt", root / "gt.lmdb")
    source = {"disk": "gt", "lmdb": "gt.lmdb"}[backend]
    dataset = build(root, dataroot_gt=source, io_backend={"type": backend}, color=color, jpeg_quality=10, phase="test")
    flag = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    for index in range(4):
        bgr = cv2.imread(str(root / "gt" / f"picture_{index:02d}.png"))
        truth = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) if color == "gray" else bgr
        _, data = cv2.imencode(".jpg", truth, [cv2.IMWRITE_JPEG_QUALITY, 10])
        wanted = np.atleast_3d(cv2.imdecode(data, flag))[:, :, ::-1]
        lq = dataset[index]["lq"].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal((lq * 255).round().astype(np.uint8), wanted)
        np.testing.assert_allclose(lq, wanted / 255, atol=1e-7, rtol=0)


def test_noise_at_tests_is_the_published_one(root: Path) -> None:
    """numpy's generator seeded with 0 for every picture, drawn for (height, width, BGR) in double precision, not clipped."""
    dataset = build(root, noise_sigma=50.0, phase="test")
    for index in range(2):
        sample = dataset[index]
        np.random.seed(0)
        noise = np.random.normal(0, 50 / 255, (42, 42, 3))
        bgr = sample["gt"].numpy().transpose(1, 2, 0)[:, :, ::-1] + noise
        np.testing.assert_array_equal(sample["lq"].numpy(), bgr[:, :, ::-1].transpose(2, 0, 1).astype(np.float32))
    assert sample["lq"].max() > 1


@pytest.mark.parametrize("strength", [{"noise_sigma": 25}, {"noise_sigma": (0, 50)}, {"jpeg_quality": (5, 60)}], ids=str)
def test_tests_degrade_a_picture_alike_every_time(root: Path, strength: dict[str, Any]) -> None:
    """Whatever the place in the set, the epoch and the seed of the run; another test_seed gives another picture."""
    names = root / "two.txt"
    names.write_text("picture_03.png\npicture_01.png\n")
    full, part = build(root, phase="val", **strength), build(root, phase="val", meta_info_file="two.txt", **strength)
    wanted = full[3]["lq"]
    make_lmdb(root / "gt", root / "gt.lmdb")
    packed = build(root, dataroot_gt="gt.lmdb", io_backend={"type": "lmdb"}, phase="val", **strength)
    assert all(torch.equal(packed[index]["lq"], full[index]["lq"]) for index in range(4))
    assert torch.equal(SeededDataset(part, seed=7)[Key(5, 0)].batch["lq"], wanted)
    other = build(root, phase="val", test_seed=1, **strength)
    assert not all(torch.equal(full[index]["lq"], other[index]["lq"]) for index in range(4))


def test_ranges_give_every_picture_a_strength_of_its_own(root: Path) -> None:
    dataset = build(root, phase="test", noise_sigma=(0, 50))
    sigmas = [float((sample["lq"] - sample["gt"]).std() * 255) for sample in (dataset[index] for index in range(4))]
    assert all(0 <= sigma <= 51 for sigma in sigmas)
    assert max(sigmas) - min(sigmas) > 2


@pytest.mark.parametrize("strength", [{"noise_sigma": (5, 50)}, {"jpeg_quality": (10, 40)}], ids=str)
def test_disk_lmdb_and_workers_give_the_same_batches(root: Path, strength: dict[str, Any]) -> None:
    make_lmdb(root / "gt", root / "gt.lmdb")
    disk = draw(build(root, **strength))
    assert equal(disk, draw(build(root, **strength), workers=2))
    assert equal(disk, draw(build(root, dataroot_gt="gt.lmdb", io_backend={"type": "lmdb"}, **strength)))
    assert not equal(disk, draw(build(root, **strength), seed=2))


def test_training_draws_anew_in_every_epoch(root: Path) -> None:
    seeded = SeededDataset(build(root, gt_size=42, noise_sigma=25.0), seed=1)
    first, again, second = (seeded[Key(epoch, 0)].batch for epoch in (0, 0, 1))
    assert torch.equal(first["lq"], again["lq"])
    assert torch.equal(first["gt"], second["gt"])  # the crop is the whole picture
    assert not torch.equal(first["lq"], second["lq"])
    spread = float((first["lq"] - first["gt"]).std() * 255)
    assert spread == pytest.approx(25, rel=0.05)  # of 5292 numbers


def test_noise_comes_behind_the_bicubic(root: Path) -> None:
    sample = build(root, scale=2, noise_sigma=10.0, phase="val")[0]
    plain = torch.from_numpy(downscale((sample["gt"].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8), 2) / 255)
    assert float((sample["lq"] - plain.permute(2, 0, 1)).std() * 255) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("color", "weights"), [("gray", (0.299, 0.587, 0.114)), ("y", (65.481 / 255, 128.553 / 255, 24.966 / 255))])
def test_one_channel_is_rounded_and_then_degraded(root: Path, color: Any, weights: tuple[float, ...]) -> None:
    clean = build(root, color=color, noise_sigma=0, phase="val")[0]
    rgb = build(root, noise_sigma=0, phase="val")[0]["gt"]
    wanted = (rgb * torch.tensor(weights)[:, None, None]).sum(0) * 255 + (16 if color == "y" else 0)
    steps = clean["gt"][0] * 255
    assert torch.equal(clean["lq"], clean["gt"])
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert float((steps - wanted).abs().max()) < 0.51
    compressed = build(root, color=color, jpeg_quality=20, phase="val")[0]
    pixels = (compressed["gt"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal((compressed["lq"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), jpeg(pixels, 20))


def test_sixteen_bit_takes_noise_but_no_jpeg(root: Path) -> None:
    write_image(root / "deep" / "a.png", np.full((16, 16, 3), 30000, np.uint16))
    sample = build(root, dataroot_gt="deep", noise_sigma=10, phase="test")[0]
    assert sample["gt"].max() == pytest.approx(30000 / 65535)
    with pytest.raises(UserError, match=r"a\.png: has 16 bit"):
        check_dataset(build(root, dataroot_gt="deep", jpeg_quality=10, phase="test"), "full", "error", "test")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "one of the two"),
        ({"noise_sigma": 1, "jpeg_quality": 1}, "one of the two"),
        ({"jpeg_quality": 101}, "jpeg_quality: expected a number from 1 to 100"),
        ({"noise_sigma": (3, 2)}, "noise_sigma: expected a finite number"),
    ],
)
def test_impossible_strengths_are_refused(root: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(root, **arguments)
