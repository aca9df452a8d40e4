"""Preparing folders: pixels as the benchmarks', nothing lost on the way, every bad file named."""

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from eqmambair.cli import prepare_datasets
from eqmambair.data import prepare
from eqmambair.data.io import decode_image, list_images, read_image, write_image
from eqmambair.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def picture(height=24, width=36, channels=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.fixture
def hr(tmp_path):
    folder = tmp_path / "HR"
    for number, (height, width) in enumerate([(24, 36), (25, 37), (30, 26)]):
        write_image(folder / f"p{number}.png", picture(height, width, seed=number))
    return folder


def command(*arguments):
    return prepare_datasets.main([str(argument) for argument in arguments])


def cubic(x):
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def plain_downscale(row, scale):
    """Antialiased bicubic of one row of numbers as MATLAB defines it: kernel stretched by the scale, mirrored at the ends."""
    out = []
    for k in range(len(row) // scale):
        centre = (k + 0.5) * scale - 0.5
        places = range(int(centre) - 2 * scale - 1, int(centre) + 2 * scale + 3)
        weights = [cubic((centre - place) / scale) for place in places]
        period = 2 * len(row)
        mirrored = [place % period if place % period < len(row) else period - 1 - place % period for place in places]
        out.append(sum(w * row[m] for w, m in zip(weights, mirrored, strict=True)) / sum(weights))
    return np.array(out)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(24, 36), (4, 7), (5, 100)])
def test_downscale_is_the_antialiased_bicubic(scale, size):
    image = prepare.mod_crop(picture(*size, channels=1), scale)
    rows = np.stack([plain_downscale(row, scale) for row in image[:, :, 0].astype(np.float64)])
    wanted = np.stack([plain_downscale(column, scale) for column in rows.T], axis=1)
    found = prepare.downscale(image, scale)[:, :, 0]
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-3  # rounded to whole numbers, and nothing else


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_downscale_equals_basicsr_to_the_last_bit(dtype):
    from basicsr.utils.matlab_functions import imresize

    image, largest = picture(dtype=dtype), np.iinfo(dtype).max
    wanted = (np.clip(imresize(image.astype(np.float32) / largest, 1 / 3), 0, 1) * largest).round().astype(dtype)
    np.testing.assert_array_equal(prepare.downscale(image, 3), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 2), (30, 20)])
def test_upscale_takes_any_size_and_keeps_constants(size):
    image = np.full((*size, 3), 77, np.uint8)
    found = prepare.upscale(image, 3)
    assert found.shape == (3 * size[0], 3 * size[1], 3)
    assert (found == 77).all()


def test_mirroring_small_pictures_is_the_same_as_resizing_large_ones():
    image = picture(40, 40)
    np.testing.assert_array_equal(
        prepare._bicubic(image, 0.5, margin=10, smallest=1000),  # mirrored outwards first
        prepare._bicubic(image, 0.5, margin=10, smallest=12),
    )


def test_lr_writes_every_scale_once(hr, capsys):
    assert command("lr", "--hr", hr, "--scales", 2, 3, "--workers", 1) == 0
    for scale in (2, 3):
        for path in list_images(hr):
            small = read_image(hr.parent / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
            np.testing.assert_array_equal(small, prepare.downscale(read_image(path), scale))
    capsys.readouterr()
    assert command("lr", "--hr", hr, "--scales", 2, 3, "--workers", 1) == 0
    assert "0 written, 6 there already" in capsys.readouterr().out


def test_lr_continues_and_renews_what_is_older(hr):
    command("lr", "--hr", hr, "--scales", 2, "--workers", 1)
    folder = hr.parent / "LR_bicubic" / "X2"
    (folder / "p1x2.png").unlink()
    write_image(hr / "p2.png", picture(30, 26, seed=9))
    report = prepare.make_lr(hr, hr.parent / "LR_bicubic", [2])
    assert (report.written, report.kept) == (2, 1)
    np.testing.assert_array_equal(read_image(folder / "p2x2.png"), prepare.downscale(picture(30, 26, seed=9), 2))


def replaced_by_an_older_file(path, image):
    write_image(path, image)
    os.utime(path, (1_000_000_000, 1_000_000_000))


def test_lr_notices_a_picture_replaced_by_an_older_one(hr):
    prepare.make_lr(hr, hr.parent / "LR", [2])
    replaced_by_an_older_file(hr / "p2.png", picture(30, 26, seed=9))
    report = prepare.make_lr(hr, hr.parent / "LR", [2])
    assert (report.written, report.kept) == (1, 2)
    np.testing.assert_array_equal(read_image(hr.parent / "LR/X2/p2x2.png"), prepare.downscale(picture(30, 26, seed=9), 2))
    assert prepare.make_lr(hr, hr.parent / "LR", [2]).kept == 3


def test_lr_tells_results_of_two_suffixes_apart(hr):
    prepare.make_lr(hr, hr.parent / "LR", [2])
    replaced_by_an_older_file(hr / "p2.png", picture(30, 26, seed=9))
    prepare.make_lr(hr, hr.parent / "LR", [2], suffix="")
    assert prepare.make_lr(hr, hr.parent / "LR", [2]).written == 1  # p2x2.png is still that of the former p2.png


def test_lr_never_replaces_its_own_pictures(tmp_path):
    write_image(tmp_path / "X2" / "a.png", picture())
    with pytest.raises(UserError, match=r"a\.png: is a picture of"):
        command("lr", "--hr", tmp_path / "X2", "--output", tmp_path, "--scales", 2, "--suffix", "", "--overwrite")
    np.testing.assert_array_equal(read_image(tmp_path / "X2" / "a.png"), picture())


@pytest.mark.parametrize("suffix", ["{", "{x}", "{0}", "{scale"])
def test_lr_takes_any_suffix_as_it_is(hr, suffix):
    assert command("lr", "--hr", hr, "--scales", 2, "--suffix", suffix, "--workers", 1) == 0
    assert (hr.parent / "LR_bicubic" / "X2" / f"p0{suffix}.png").exists()


def test_a_damaged_record_is_named(hr):
    prepare.make_lr(hr, hr.parent / "LR", [2])
    (hr.parent / "LR/X2/.made_from.json").write_text("{")
    with pytest.raises(UserError, match=r"made_from\.json: cannot be read"):
        prepare.make_lr(hr, hr.parent / "LR", [2])


def test_lr_names_bad_files_and_does_the_others(hr, capsys):
    (hr / "broken.png").write_bytes((hr / "p0.png").read_bytes()[:200])
    (hr / "empty.jpg").write_bytes(b"")
    write_image(hr / "tiny.png", picture(1, 1))
    assert command("lr", "--hr", hr, "--scales", 2, "--workers", 1) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("broken.png", "empty.jpg", "tiny.png"))
    assert len(list_images(hr.parent / "LR_bicubic" / "X2")) == 3


def test_several_processes_write_the_same(tmp_path):
    for number in range(prepare._JOBS_WORTH_PROCESSES):
        write_image(tmp_path / "HR" / f"{number:02d}.png", picture(8, 8, seed=number))
    (tmp_path / "HR" / "07.png").write_bytes(b"no")
    report = prepare.make_lr(tmp_path / "HR", tmp_path / "LR", [2], workers=2)
    assert report.written == prepare._JOBS_WORTH_PROCESSES - 1
    assert len(report.problems) == 1
    assert "07.png" in report.problems[0]
    np.testing.assert_array_equal(read_image(tmp_path / "LR" / "X2" / "03x2.png"), prepare.downscale(picture(8, 8, seed=3), 2))


def test_wrong_folders_and_numbers_are_one_clear_error(hr, tmp_path):
    (tmp_path / "void").mkdir()
    for arguments, said in [
        (["lr", "--hr", tmp_path / "none"], "no such folder"),
        (["lr", "--hr", tmp_path / "void"], "no picture here"),
        (["lr", "--hr", hr, "--scales", 1], "at least 2"),
        (["lr", "--hr", hr, "--workers", 0], "--workers"),
        (["subimages", "--input", hr, "--output", tmp_path / "s", "--size", 0], "at least 1"),
        (["subimages", "--input", hr, "--output", hr], "to be cut"),
        (["lmdb", "--input", hr, "--output", tmp_path / "plain"], r"\.lmdb"),
        (["lr", "--hr", hr, "--suffix", "/x"], "no part of a file name"),
        (["check", "--hr", hr, "--lr", hr, "--scale", 0], "at least 1, not 0"),
        (["check", "--hr", hr, "--lr", hr, "--scale", -1], "at least 1, not -1"),
        (["meta", "--input", hr, "--output", hr / "p0.png"], "one of the pictures"),
    ]:
        with pytest.raises(UserError, match=said):
            command(*arguments)


def test_equal_names_with_different_extensions_are_refused(hr):
    write_image(hr / "p0.bmp", picture())
    with pytest.raises(UserError, match=r"p0\.bmp, p0\.png"):
        command("lr", "--hr", hr)
    with pytest.raises(UserError, match="same key p0"):
        command("lmdb", "--input", hr)


def test_subimages_cover_the_picture_to_the_border(tmp_path):
    image = picture(50, 70)
    write_image(tmp_path / "in" / "a.png", image)
    assert command("subimages", "--input", tmp_path / "in", "--output", tmp_path / "out", "--size", 32, "--step", 16, "--workers", 1) == 0
    corners = [(top, left) for top in (0, 16, 18) for left in (0, 16, 32, 38)]
    found = list_images(tmp_path / "out")
    assert [path.name for path in found] == [f"a_s{number:03d}.png" for number in range(1, 13)]
    for path, (top, left) in zip(found, corners, strict=True):
        np.testing.assert_array_equal(read_image(path), image[top : top + 32, left : left + 32])
    assert prepare.make_subimages(tmp_path / "in", tmp_path / "out", size=32, step=16).kept == 12


def cut(source, **settings):
    return prepare.make_subimages(source, source.parent / "sub", **{"size": 16, "step": 8, **settings})


@pytest.mark.parametrize("other", [{"size": 12}, {"step": 4}, {"threshold": 7}, {"multiple": 2}])
def test_subimages_of_other_settings_never_mix(hr, other):
    cut(hr)
    before = {path.name: path.read_bytes() for path in list_images(hr.parent / "sub")}
    with pytest.raises(UserError, match="pieces cut with size 16, step 8, threshold 0, multiple 1"):
        cut(hr, **other)
    assert {path.name: path.read_bytes() for path in list_images(hr.parent / "sub")} == before
    cut(hr, **other, overwrite=True)
    prepare.make_subimages(hr, hr.parent / "fresh", **{"size": 16, "step": 8, **other})
    for name in {path.name for folder in ("sub", "fresh") for path in list_images(hr.parent / folder)}:
        assert (hr.parent / "sub" / name).read_bytes() == (hr.parent / "fresh" / name).read_bytes()


def test_subimages_cut_anew_leave_other_files_alone(hr):
    cut(hr)
    write_image(hr.parent / "sub" / "stranger_s001.png", picture())
    (hr / "p1.png").unlink()
    cut(hr, size=12, overwrite=True)
    assert {path.name.split("_")[0] for path in list_images(hr.parent / "sub")} == {"p0", "p2", "stranger"}


def test_subimages_of_unknown_settings_are_not_taken_for_ones_own(hr):
    write_image(hr.parent / "sub" / "p0_s001.png", picture(9, 9))
    with pytest.raises(UserError, match="settings that nothing tells"):
        cut(hr)
    cut(hr, overwrite=True)
    assert read_image(hr.parent / "sub" / "p0_s001.png").shape == (16, 16, 3)


def test_subimages_follow_a_picture_replaced_by_an_older_and_smaller_one(hr):
    cut(hr)
    replaced_by_an_older_file(hr / "p2.png", picture(20, 16, seed=9))
    cut(hr)
    found = [path for path in list_images(hr.parent / "sub") if path.name.startswith("p2")]
    np.testing.assert_array_equal([read_image(path) for path in found], [picture(20, 16, seed=9)[:16], picture(20, 16, seed=9)[4:]])
    assert cut(hr).written == 0


def test_subimages_go_on_after_an_interrupt(hr, monkeypatch):
    def interrupted(path, image):
        if path.name == "p1_s003.png":
            raise KeyboardInterrupt
        write_image(path, image)

    monkeypatch.setattr(prepare, "write_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut(hr)
    monkeypatch.undo()
    with pytest.raises(UserError, match="pieces cut with"):  # what was begun is known
        cut(hr, size=12)
    there = len(list_images(hr.parent / "sub"))
    report = cut(hr)
    assert report.kept == there > 0
    assert report.written > 0
    assert cut(hr).written == 0


def test_subimages_of_both_resolutions_pair_by_name(hr):
    command("lr", "--hr", hr, "--scales", 2, "--workers", 1)
    prepare.make_subimages(hr, hr.parent / "HR_sub", size=16, step=8, multiple=2)
    report = prepare.make_subimages(hr.parent / "LR_bicubic" / "X2", hr.parent / "LR_sub", size=8, step=4)
    assert not report.problems
    high, low = ({path.name for path in list_images(hr.parent / folder)} for folder in ("HR_sub", "LR_sub"))
    assert high
    assert high == low


def test_subimages_name_pictures_that_are_too_small(hr, capsys):
    assert command("subimages", "--input", hr, "--output", hr.parent / "sub", "--size", 25, "--step", 8, "--workers", 1) == 1
    assert "p0.png: 36x24 is smaller than a piece of 25x25" in capsys.readouterr().err


def test_lmdb_holds_the_bytes_of_the_files(tmp_path):
    folder = tmp_path / "in"
    names = ["a.png", "ü 画像 b.png", "dots.in.name.jpg", "sub/c.png"]
    for number, name in enumerate(names):
        write_image(folder / name, picture(seed=number))
    assert command("lmdb", "--input", folder, "--output", tmp_path / "x.lmdb", "--recursive") == 0
    with lmdb.open(str(tmp_path / "x.lmdb"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.stat()["entries"] == 4
        for name in names:
            data = transaction.get(Path(name).with_suffix("").as_posix().encode())
            assert data == (folder / name).read_bytes()
            np.testing.assert_array_equal(decode_image(data, name), read_image(folder / name))
    lines = (tmp_path / "x.lmdb" / "meta_info.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(f"{name} (24,36,3) 0" for name in names)
    assert sorted(prepare.read_meta_info(tmp_path / "x.lmdb" / "meta_info.txt")) == sorted(names)


def test_lmdb_grows_beyond_its_first_size(tmp_path):
    for number in range(8):  # 8 x 3 MB of noise; the map begins with 16 MB
        write_image(tmp_path / "in" / f"{number}.bmp", picture(1000, 1000, seed=number))
    assert prepare.make_lmdb(tmp_path / "in", tmp_path / "x.lmdb").written == 8


def test_lmdb_is_left_alone_when_complete_and_refused_when_other(hr, capsys):
    assert command("lmdb", "--input", hr) == 0
    assert command("lmdb", "--input", hr) == 0
    assert "0 written, 3 there already" in capsys.readouterr().out
    write_image(hr / "new.png", picture())
    with pytest.raises(UserError, match="--overwrite"):
        command("lmdb", "--input", hr)
    assert command("lmdb", "--input", hr, "--overwrite") == 0
    assert len(prepare.read_meta_info(hr.parent / "HR.lmdb" / "meta_info.txt")) == 4
    assert sorted(path.name for path in hr.parent.iterdir()) == ["HR", "HR.lmdb"]


@pytest.mark.parametrize("size", [(24, 36), (8, 8)])
def test_lmdb_of_changed_pictures_is_not_called_complete(hr, size):
    prepare.make_lmdb(hr, hr.parent / "x.lmdb")
    replaced_by_an_older_file(hr / "p0.png", picture(*size, seed=7))
    with pytest.raises(UserError, match=r"its p0\.png is not that of .*--overwrite"):
        prepare.make_lmdb(hr, hr.parent / "x.lmdb")
    prepare.make_lmdb(hr, hr.parent / "x.lmdb", overwrite=True)
    assert prepare.make_lmdb(hr, hr.parent / "x.lmdb").kept == 3


def test_lmdb_with_pictures_that_are_gone_is_not_called_complete(hr):
    prepare.make_lmdb(hr, hr.parent / "x.lmdb")
    (hr / "p1.png").unlink()
    with pytest.raises(UserError, match=r"holds p1\.png, which is not in"):
        prepare.make_lmdb(hr, hr.parent / "x.lmdb")


def test_lmdb_never_replaces_a_folder_of_anything_else(hr, tmp_path):
    folder = tmp_path / "photos.lmdb"
    write_image(folder / "a.png", picture())
    for source in (hr, folder):
        with pytest.raises(UserError, match=r"photos\.lmdb: holds"):
            prepare.make_lmdb(source, folder, overwrite=True)
    assert (folder / "a.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are always UTF-8 there")
def test_names_that_are_no_utf8_are_problems_and_the_rest_is_done(hr, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    write_image(hr / name, picture())
    for arguments in (["lmdb"], ["lmdb"], ["meta", "--workers", 1]):
        assert command(*arguments, "--input", hr) == 1
        said = capsys.readouterr()
        assert r"caf\xe9.png: the name is no UTF-8" in said.err
        assert "1 problems" in said.out
    assert len(prepare.read_meta_info(hr.parent / "HR.lmdb" / "meta_info.txt")) == 3
    assert len(prepare.read_meta_info(hr.parent / "meta_info_HR.txt")) == 3


def test_lmdb_leaves_damaged_files_out_by_name(hr, capsys):
    (hr / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    for _ in range(2):  # made, then compared
        assert command("lmdb", "--input", hr) == 1
        assert "bad.png" in capsys.readouterr().err
    assert len(prepare.read_meta_info(hr.parent / "HR.lmdb" / "meta_info.txt")) == 3


def test_meta_lists_names_and_sizes(hr, tmp_path):
    write_image(hr / "with space.png", picture(channels=1))
    assert command("meta", "--input", hr, "--output", tmp_path / "meta.txt", "--workers", 1) == 0
    lines = (tmp_path / "meta.txt").read_text().splitlines()
    assert lines == ["p0.png (24,36,3)", "p1.png (25,37,3)", "p2.png (30,26,3)", "with space.png (24,36,1)"]
    assert prepare.read_meta_info(tmp_path / "meta.txt")[-1] == "with space.png"


def test_check_accepts_what_lr_makes(hr, capsys):
    command("lr", "--hr", hr, "--scales", 3, "--workers", 1)
    assert command("check", "--hr", hr, "--lr", hr.parent / "LR_bicubic" / "X3", "--scale", 3, "--workers", 1) == 0
    assert "6 pictures read, 0 problems" in capsys.readouterr().out


def test_check_names_every_fault(hr, capsys):
    command("lr", "--hr", hr, "--scales", 2, "--workers", 1)
    low = hr.parent / "LR_bicubic" / "X2"
    (low / "p0x2.png").write_bytes(b"text")
    write_image(low / "p1x2.png", picture(12, 17))
    write_image(low / "stray.png", picture(12, 18))
    write_image(hr / "gray.png", picture(channels=1))
    write_image(hr / "deep.png", picture(dtype=np.uint16))
    write_image(hr / "small.png", picture(4, 4))
    assert command("check", "--hr", hr, "--lr", low, "--scale", 2, "--min_size", 16, "--workers", 1) == 1
    said = capsys.readouterr().err
    for expected in (
        "p0x2.png: is not an image",
        "p1x2.png: 17x12, but p1.png of 37x25 needs 18x12 at scale 2",
        "stray.png: no partner",
        "gray.png: no partner",
        "gray.png: 1 channels of uint8",
        "deep.png: 3 channels of uint16",
        "small.png: 4x4 is smaller than 16",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("truth", "other", "suffix", "both"),
    [
        (["a", "b"], ["a", "b"], None, {"a": "a", "b": "b"}),
        (["a", "b"], ["ax2", "b_x2"], None, {"a": "ax2", "b": "b_x2"}),
        (["img", "imgx2"], ["imgx2", "imgx2x2"], None, {"img": "imgx2", "imgx2": "imgx2x2"}),
        (["a", "b"], ["a_SR", "b"], "_SR", {"a": "a_SR", "b": "b"}),
        (["a"], ["A"], None, {}),
        (["a"], ["ax3"], None, {}),
    ],
)
def test_names_are_paired_with_their_suffix(truth, other, suffix, both):
    pairs = prepare.pair_by_name([Path(f"{t}.png") for t in truth], [Path(f"{o}.jpg") for o in other], 2, suffix)
    assert {t.stem: o.stem for t, o in pairs.both} == both
    assert {p.stem for p in pairs.truth_alone} == set(truth) - set(both)
    assert {p.stem for p in pairs.other_alone} == set(other) - set(both.values())


def test_equal_stems_in_one_folder_are_ambiguous():
    pairs = prepare.pair_by_name([Path("g/a.png")], [Path("s/a.png"), Path("s/a.jpg")], 2)
    assert pairs.both == []
    assert "a.png, a.jpg have the same name" in pairs.ambiguous[0]


def test_the_embedded_sample_is_what_scikit_image_ships(tmp_path):
    assert command("sample", "--output", tmp_path) == 0
    stored = [
        path.relative_to(ROOT / "datasets/sample")
        for part in ("train", "val")
        for path in list_images(ROOT / "datasets/sample" / part / "HR")
    ]
    assert len(stored) == 12
    for path in stored:
        made, kept = read_image(tmp_path / path), read_image(ROOT / "datasets/sample" / path)
        # the rocket is a JPEG: decoders may differ by a little
        assert np.abs(made.astype(int) - kept.astype(int)).max() <= (8 if "rocket" in path.name else 0)
        assert (ROOT / "datasets/sample" / path).stat().st_size < 1_000_000
    listed = (ROOT / "datasets/sample/README.md").read_text()
    assert all(picture.file.split(".")[0].replace("ihc", "immunohistochemistry") in listed for picture in prepare.SAMPLE)


def test_sample_parts_share_no_picture():
    parts = {part: {picture.file for picture in prepare.SAMPLE if picture.part == part} for part in ("train", "val")}
    assert parts["train"]
    assert parts["val"]
    assert not parts["train"] & parts["val"]


def test_options_are_written_out(hr):
    with pytest.raises(SystemExit):
        command("lr", "--hr", hr, "--over")


def test_the_launcher_works_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts/prepare_datasets.py", "list"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("DIV2K", "Flickr2K", "Set5", "Set14", "B100", "Urban100", "Manga109", "BSD400", "WED", "SIDD", "Classic5", "LIVE1"):
        assert name in done.stdout
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/prepare_datasets.py", "lr", "--hr", "nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: nowhere: no such folder"
