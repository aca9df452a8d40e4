"""Pairs of pictures: the same from disk and LMDB, with any number of workers; what does not fit is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eqmambair.data.checking import check_dataset
from eqmambair.data.datasets import PairedImageDataset, SingleImageDataset
from eqmambair.data.io import write_image
from eqmambair.data.prepare import downscale, make_lmdb
from eqmambair.data.sampler import Key
from eqmambair.data.seeded import SeededDataset
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.loader import training_batches
from eqmambair.engine.schema import DatasetOptions
from eqmambair.errors import UserError
from tests.engine.tiny import make_pictures


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Five pairs, one in a sub-folder and one with a dot in its name."""
    make_pictures(tmp_path / "gt", count=3, size=26)
    make_pictures(tmp_path / "gt" / "deep", count=1, size=30, seed=1)
    (make_pictures(tmp_path / "more", count=1, seed=2) / "picture_00.png").rename(tmp_path / "gt" / "an.other näme.png")
    from eqmambair.data.io import list_images, read_image

    for path in list_images(tmp_path / "gt", recursive=True):
        folder = (tmp_path / "lq" / path.relative_to(tmp_path / "gt")).parent
        write_image(folder / f"{path.stem}x2.png", downscale(read_image(path), 2))
    return tmp_path


def build(root: Path, **changes: Any) -> PairedImageDataset:
    given: dict[str, Any] = {
        "dataroot_gt": "gt",
        "dataroot_lq": "lq",
        "filename_tmpl": "{}x2",
        "gt_size": 8,
        "use_hflip": True,
        "use_rot": True,
    }
    return PairedImageDataset(**{**given, **changes}, scale=2, root=root)


def draw(dataset: Any, workers: int = 0, seed: int = 1, batches: int = 6, batch: int = 3) -> list[dict[str, Any]]:
    section = DatasetOptions(type="PairedImageDataset", batch_size_per_gpu=batch, num_worker_per_gpu=workers)
    loader = training_batches(dataset, section, torch.utils.data.default_collate, Ranks(), seed=seed, first=0, last=batches)
    try:
        return list(loader)
    finally:
        loader.close()


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return all(torch.equal(a["lq"], b["lq"]) and torch.equal(a["gt"], b["gt"]) for a, b in zip(one, other, strict=True))


def test_disk_lmdb_and_workers_give_the_same_batches(pairs: Path) -> None:
    for name in ("gt", "lq"):
        make_lmdb(pairs / name, pairs / f"{name}.lmdb", recursive=True)
    disk = draw(build(pairs))
    assert equal(disk, draw(build(pairs), workers=2))
    lmdb = build(pairs, dataroot_gt="gt.lmdb", dataroot_lq="lq.lmdb", io_backend={"type": "lmdb"})
    assert lmdb.keys == build(pairs).keys
    assert equal(disk, draw(lmdb))
    assert equal(disk, draw(lmdb, workers=2))
    assert not equal(disk, draw(build(pairs), seed=2))


def test_crops_differ_in_every_epoch(pairs: Path) -> None:
    seeded = SeededDataset(build(pairs), seed=1)
    first, again, second = seeded[Key(0, 0)], seeded[Key(0, 0)], seeded[Key(1, 0)]
    assert torch.equal(first.batch["gt"], again.batch["gt"])
    draws = [seeded[Key(epoch, 0)].batch["gt"] for epoch in range(6)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) > 3
    assert second.error is None


def test_seeding_a_sample_leaves_the_global_generators_alone(pairs: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    SeededDataset(build(pairs), seed=1)[Key(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_crops_of_a_pair_show_the_same_place(pairs: Path) -> None:
    """Where the truth is a ramp, a pair cut at different places would differ by more than rounding."""
    ramp = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1)
    image = np.concatenate([ramp * 4 % 256, ramp[:, :, :1]], -1).astype(np.uint8)
    write_image(pairs / "ramp_gt" / "a.png", image)
    write_image(pairs / "ramp_lq" / "a.png", image[::2, ::2])
    dataset = build(pairs, dataroot_gt="ramp_gt", dataroot_lq="ramp_lq", filename_tmpl="{}")
    for epoch in range(20):
        sample = SeededDataset(dataset, seed=0)[Key(epoch, 0)].batch
        rows = [sample["gt"][:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        assert any(torch.equal(sample["lq"], each) for each in rows)  # which of the four depends on the flips


def test_small_pictures_made_from_crops_equal_those_of_the_whole(pairs: Path) -> None:
    from eqmambair.data import transforms

    image = (np.random.default_rng(0).random((60, 52, 3)) * 255).astype(np.uint8)
    whole = downscale(image, 2)
    for _ in range(20):
        gt, lq = transforms.crop_and_shrink(image, 12, 2)
        places = np.lib.stride_tricks.sliding_window_view(whole, (6, 6, 3)).reshape(-1, 6, 6, 3)
        assert gt.shape == (12, 12, 3)
        assert (places == lq).all(axis=(1, 2, 3)).any()


def test_validation_crops_the_truth_to_the_output(pairs: Path) -> None:
    write_image(pairs / "odd_gt" / "a.png", np.zeros((25, 27, 3), np.uint8))
    write_image(pairs / "odd_lq" / "a.png", np.zeros((12, 13, 3), np.uint8))
    sample = build(pairs, dataroot_gt="odd_gt", dataroot_lq="odd_lq", filename_tmpl="{}", phase="val")[0]
    assert sample["gt"].shape == (3, 24, 26)
    on_the_fly = build(pairs, dataroot_gt="odd_gt", dataroot_lq=None, filename_tmpl="{}", phase="val")[0]
    assert on_the_fly["lq"].shape == (3, 12, 13)


def test_gray_is_repeated_and_sixteen_bit_kept(pairs: Path) -> None:
    write_image(pairs / "gray" / "a.png", np.full((8, 8, 1), 51, np.uint8))
    write_image(pairs / "deep16" / "a.png", np.full((8, 8, 3), 257 * 51, np.uint16))
    gray = build(pairs, dataroot_gt="gray", dataroot_lq=None, phase="val")[0]["gt"]
    deep = build(pairs, dataroot_gt="deep16", dataroot_lq=None, phase="val")[0]["gt"]
    assert gray.shape == (3, 8, 8)
    torch.testing.assert_close(gray, deep)
    one = build(pairs, dataroot_gt="gray", dataroot_lq=None, phase="val", color="gray")[0]["gt"]
    assert one.shape == (1, 8, 8)


def test_alpha_is_refused_unless_opaque_or_to_be_dropped(pairs: Path) -> None:
    rgba = np.full((8, 8, 4), 255, np.uint8)
    write_image(pairs / "opaque" / "a.png", rgba)
    rgba[0, 0, 3] = 0
    write_image(pairs / "clear" / "a.png", rgba)
    assert build(pairs, dataroot_gt="opaque", dataroot_lq=None, phase="val")[0]["gt"].shape[0] == 3
    with pytest.raises(UserError, match=r"a\.png: is partly transparent"):
        build(pairs, dataroot_gt="clear", dataroot_lq=None, phase="val")[0]
    assert build(pairs, dataroot_gt="clear", dataroot_lq=None, phase="val", alpha="drop")[0]["gt"].shape[0] == 3


def test_all_bad_files_are_named_at_once(pairs: Path) -> None:
    (pairs / "gt" / "picture_00.png").write_bytes(b"text")
    data = (pairs / "lq" / "picture_01x2.png").read_bytes()
    (pairs / "lq" / "picture_01x2.png").write_bytes(data[: len(data) // 2])
    (pairs / "lq" / "picture_02x2.png").unlink()
    with pytest.raises(UserError) as caught:
        check_dataset(build(pairs), "full", "error", "train")
    for name in ("picture_00.png", "picture_01x2.png", "picture_02"):
        assert name in str(caught.value)
    assert "3 of 5 samples" in str(caught.value)


def test_headers_alone_show_wrong_sizes_and_files_that_are_no_pictures(pairs: Path) -> None:
    (pairs / "gt" / "picture_00.png").write_bytes(b"text")
    write_image(pairs / "lq" / "picture_01x2.png", np.zeros((12, 12, 3), np.uint8))
    data = (pairs / "lq" / "picture_02x2.png").read_bytes()
    (pairs / "lq" / "picture_02x2.png").write_bytes(data[: len(data) // 2])  # only decoding shows that
    with pytest.raises(UserError) as caught:
        check_dataset(build(pairs), "header", "error", "train")
    assert "2 of 5 samples" in str(caught.value)
    assert "26x26 is not 2 times 12x12" in str(caught.value)


def test_bad_files_are_left_out_and_counted_on_request(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pairs / "gt" / "picture_00.png").write_bytes(b"text")
    dataset = build(pairs)
    with caplog.at_level("WARNING", "eqmambair"):
        good = check_dataset(dataset, "full", "skip", "train")
    assert [dataset.keys[index] for index in range(5) if index not in good] == ["picture_00"]
    assert "1 of 5 samples left out" in caplog.text


def test_file_that_breaks_later_names_itself_from_a_worker(pairs: Path) -> None:
    dataset = build(pairs)
    (pairs / "gt" / "picture_01.png").write_bytes(b"text")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"picture_01\.png") as caught:
            draw(dataset, workers=workers)
        assert "\n" not in str(caught.value)


def test_wrong_sizes_name_both_files(pairs: Path) -> None:
    write_image(pairs / "lq" / "picture_00x2.png", np.zeros((12, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r"picture_00\.png: 26x26 is not 2 times 12x12 of .*picture_00x2\.png"):
        build(pairs)[build(pairs).keys.index("picture_00")]


def test_lists_may_have_blank_lines_and_spaces_in_names(pairs: Path) -> None:
    (pairs / "list.txt").write_text("picture_00.png (26,26,3)\n\nan.other näme.png (24,24,3) 1\n", encoding="utf-8")
    assert build(pairs, meta_info_file="list.txt").keys == ["picture_00", "an.other näme"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataroot_gt": "nowhere/HR"}, "no such folder .*prepare_datasets.py list"),
        ({"dataroot_lq": "set/LR_bicubic/X2"}, "prepare_datasets.py lr --hr .*set/HR --scales 2"),
        ({"dataroot_gt": "set/HR_sub"}, "prepare_datasets.py subimages --input .*HR "),
        ({"dataroot_gt": "empty"}, "holds no images"),
        ({"filename_tmpl": "x2"}, "must contain {} once"),
        ({"dataroot_gt": None, "dataroot_lq": None}, "needs dataroot_gt"),
    ],
)
def test_missing_data_are_told_with_the_way_to_make_them(pairs: Path, changes: dict[str, Any], message: str) -> None:
    (pairs / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        build(pairs, **changes)


def test_two_extensions_for_one_name_are_refused(pairs: Path) -> None:
    write_image(pairs / "gt" / "picture_00.bmp", np.zeros((26, 26, 3), np.uint8))
    with pytest.raises(UserError, match="differ in their extension alone"):
        build(pairs)


def test_pictures_without_truth_have_none(pairs: Path) -> None:
    sample = SingleImageDataset(dataroot_lq="lq", root=pairs, scale=2)[0]
    assert "gt" not in sample


def test_sample_that_fails_instead_of_another_is_named_itself(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build(pairs)

    whole = dataset.draw

    def draw(index: int, size: int | None) -> dict[str, Any]:
        if index in (1, 2):
            raise ValueError("broken")
        return whole(index, size)

    monkeypatch.setattr(dataset, "draw", draw)
    skipped = SeededDataset(dataset, seed=1, skip=True)[Key(0, 1)].skipped
    assert skipped == [f"{dataset.describe(index)}: ValueError: broken" for index in (1, 2)]
