"""The inference command on videos: signals, kills, folders, patterns."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eqmambair.cli import inference
from eqmambair.data.io import read_image, write_image
from eqmambair.engine.interrupts import INTERRUPTED
from eqmambair.errors import UserError
from eqmambair.inference.restore import Restorer
from tests.video.clips import MILLISECOND, irregular, scenes, seen, write_clip

ROOT = Path(__file__).resolve().parents[2]
EXACT = ["--video_codec", "ffv1", "--pixel_format", "bgr0"]


def command(*arguments):
    return inference.main([str(argument) for argument in arguments])


@pytest.fixture
def short_parts(monkeypatch):
    monkeypatch.setattr("eqmambair.video.restore.PART_FRAMES", 3)


def exact_clip(path, count):
    return write_clip(path, scenes(count, 12, 16), codec="ffv1", pixel_format="bgr0")


def test_frames_are_those_of_the_picture_command(tmp_path, weights_x2):
    clip = exact_clip(tmp_path / "a.mkv", 3)
    for number, frame in enumerate(scenes(3, 12, 16)):
        write_image(tmp_path / "pictures" / f"{number}.png", frame)
    assert command(clip, tmp_path / "pictures", "-o", tmp_path / "out", "-w", weights_x2, *EXACT) == 0
    for number, frame in enumerate(seen(tmp_path / "out/a.mkv").frames):
        np.testing.assert_array_equal(frame, read_image(tmp_path / f"out/{number}.png"))


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_every_frame_that_is_done(tmp_path, weights_x2, monkeypatch, capsys, number):
    clip = write_clip(tmp_path / "a.mp4", scenes(8, 12, 16), irregular(8), sound=True)
    plain, calls = Restorer.__call__, []

    def told(self, image, progress=None):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), number)
        return plain(self, image, progress)

    monkeypatch.setattr(Restorer, "__call__", told)
    assert command(clip, "-o", tmp_path / "out", "-w", weights_x2) == INTERRUPTED
    assert "5 of 8 frames are kept; the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out/a.mp4").exists()
    assert command(clip, "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert len(calls) == 6 + 3
    before, after = seen(clip), seen(tmp_path / "out/a.mp4")
    assert after.times == before.times
    assert abs(after.length - before.length) < MILLISECOND
    assert after.others == before.others
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]


@pytest.mark.usefixtures("short_parts")
def test_a_killed_run_goes_on(tmp_path, weights_x2):
    clip = exact_clip(tmp_path / "a.mkv", 8)
    arguments = [str(each) for each in (clip, "-o", tmp_path / "out", "-w", weights_x2, "--quiet", *EXACT)]
    code = f"""
import os, signal, sys
from eqmambair.cli import inference
from eqmambair.inference.restore import Restorer
sys.modules["eqmambair.video.restore"].PART_FRAMES = 3
plain, calls = Restorer.__call__, []
def killed(self, image, progress=None):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, image, progress)
Restorer.__call__ = killed
inference.main({arguments!r})
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / "out/a.mkv").exists()
    assert len(list(tmp_path.glob("out/.a.mkv.parts/*.json"))) == 2  # one part, and the settings
    assert command(*arguments) == 0
    assert command(clip, "-o", tmp_path / "whole", "-w", weights_x2, *EXACT) == 0
    joined, whole = seen(tmp_path / "out/a.mkv"), seen(tmp_path / "whole/a.mkv")
    assert joined.times == whole.times
    np.testing.assert_array_equal(joined.frames, whole.frames)


def test_parts_depend_on_weights_and_tiles_and_not_on_the_name_of_the_file(tmp_path, weights_x2, weights_x3, monkeypatch):
    clip = exact_clip(tmp_path / "a.mkv", 3)
    (tmp_path / "copy.safetensors").write_bytes(weights_x2.read_bytes())
    found = []

    def recorded(*_, settings, **__):
        found.append(settings)
        raise UserError("enough")

    monkeypatch.setattr("eqmambair.cli._video.restore_video", recorded)
    for extra in ([weights_x2], [tmp_path / "copy.safetensors"], [weights_x2, "--tile", 8], [weights_x3]):
        assert command(clip, "-o", tmp_path / "out", "-w", *extra) == 1
    assert found[0] == found[1]
    assert found[0] not in found[2:]


def test_damaged_videos_are_named_and_the_rest_is_done(tmp_path, weights_x2, capsys):
    (tmp_path / "in").mkdir()
    exact_clip(tmp_path / "in/a.mkv", 2)
    (tmp_path / "in/b.mp4").write_bytes(b"no video")
    assert command(tmp_path / "in", "-o", tmp_path / "out", "-w", weights_x2, *EXACT) == 1
    said = capsys.readouterr()
    assert "1 restored, 0 there already, 1 problems" in said.out
    assert len([line for line in said.err.splitlines() if line.startswith("problem: ") and "b.mp4: cannot be read as a video" in line]) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mkv"]


def test_a_pattern_of_pictures_becomes_pictures_or_a_video(tmp_path, weights_x2):
    for number, frame in enumerate(scenes(3, 12, 16)):
        write_image(tmp_path / "in" / f"f{number:03d}.png", frame)
    pattern = tmp_path / "in/f%03d.png"
    assert command(pattern, "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert command(pattern, "-o", tmp_path / "out.mkv", "-w", weights_x2, "--fps", 20, *EXACT) == 0
    assert command(tmp_path / "in", "-o", tmp_path / "again.mkv", "-w", weights_x2, *EXACT) == 0
    video = seen(tmp_path / "out.mkv")
    assert [float(time) for time in video.times] == [0, 0.05, 0.1]
    for number, frame in enumerate(video.frames):
        np.testing.assert_array_equal(frame, read_image(tmp_path / f"out/f{number:03d}.png"))
    np.testing.assert_array_equal(seen(tmp_path / "again.mkv").frames, video.frames)


def test_formats_that_are_not_written_become_matroska(tmp_path, weights_x2):
    clip = write_clip(tmp_path / "a.avi", scenes(3, 16, 16), codec="mpeg4")
    assert command(clip, "-o", tmp_path / "out", "-w", weights_x2) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mkv"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["-o", "out.avi"], r"\.avi is not written; use one of \.mp4"),
        (["-o", "out.png"], "videos become videos"),
        (["-o", "out.mp4", "--suffix", "_x2"], "leave --suffix"),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, weights_x2, extra, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4", scenes(2))
    with pytest.raises(UserError, match=said):
        command("a.mp4", *extra, "-w", weights_x2)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--fps", "30"], "--fps is for videos made of pictures"),
        (["--video_codec", "nothing"], "no encoder 'nothing' here"),
        (["--video_option", "preset"], "expected KEY=VALUE"),
    ],
)
def test_options_that_cannot_be_are_one_line(tmp_path, weights_x2, extra, said, capsys):
    clip = write_clip(tmp_path / "a.mp4", scenes(2))
    assert command(clip, "-o", tmp_path / "out", "-w", weights_x2, *extra) == 1
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 1
    assert said in problems[0]
    assert list((tmp_path / "out").iterdir()) == []


def test_without_pyav_a_line_says_what_to_install(tmp_path, weights_x2, monkeypatch, capsys):
    clip = write_clip(tmp_path / "a.mp4", scenes(2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert command(clip, "-o", tmp_path / "out", "-w", weights_x2) == 1
    assert "pip install 'eqmambair[video]'" in capsys.readouterr().err
