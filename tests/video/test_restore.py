"""Videos keep what they had but their pictures, whatever happens on the way."""

import errno
import os
import resource
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from eqmambair.data.io import write_image
from eqmambair.errors import UserError
from eqmambair.video import Encoding, PictureSequence, Stopped, VideoFile, expand_pattern, is_pattern, restore_video
from tests.video.clips import MILLISECOND, av, irregular, scenes, seen, write_clip

LOSSLESS = Encoding("ffv1", pixel_format="bgr0")


def larger(image):
    """Each pixel as a 2x2 square: exact, so that frames can be compared to the last bit."""
    return image.repeat(2, 0).repeat(2, 1)


def restore(source, target, scale=2, function=larger, **options):
    source = VideoFile(source) if isinstance(source, Path) else source
    return restore_video(source, target, function, scale, **options)


def stopping_after(count):
    """A function for frames that gives up at frame ``count``."""
    left = [count]

    def function(image):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return larger(image)

    return function


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def short_parts(monkeypatch):
    monkeypatch.setattr("eqmambair.video.restore.PART_FRAMES", 5)


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("codec", [None, "mpeg4", "libx265", "ffv1"])
def test_times_and_sound_are_kept_and_frames_are_restored(tmp_path, codec):
    clip = write_clip(tmp_path / "a.mp4", scenes(23), irregular(23), sound=True)
    target = tmp_path / ("out.mkv" if codec == "ffv1" else "out.mp4")
    restore(clip, target, encoding=LOSSLESS if codec == "ffv1" else Encoding(codec))
    before, after = seen(clip), seen(target)
    shift = after.times[0] - before.times[0]  # Matroska has no times below 0, so all streams begin later by what sound is early
    tolerance = 0 if codec != "ffv1" else Fraction(1, 1000)
    assert all(abs(b - a - shift) <= tolerance for a, b in zip(before.times, after.times, strict=True))
    if codec != "ffv1":  # Matroska does not say how long the last frame is shown
        assert abs(after.length - before.length) < MILLISECOND
        assert shift == 0
    assert [data for _, data in after.others["audio"]] == [data for _, data in before.others["audio"]]
    assert all(abs(b - a - shift) <= tolerance for (a, _), (b, _) in zip(before.others["audio"], after.others["audio"], strict=True))
    errors = [np.abs(larger(a).astype(int) - b).mean() for a, b in zip(before.frames, after.frames, strict=True)]
    assert max(errors) < (
        5 if codec == "ffv1" else 12
    )  # ffv1: colours at half resolution, enlarged in two ways; others lose at sharp edges
    assert hidden(tmp_path) == []


def test_frames_are_those_that_the_picture_path_makes(tmp_path):
    """Without any loss on the way: RGB in, RGB out."""
    frames = list(scenes(7))
    clip = write_clip(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="bgr0")
    restore(clip, tmp_path / "out.mkv", encoding=LOSSLESS)
    for given, found in zip(frames, seen(tmp_path / "out.mkv").frames, strict=True):
        np.testing.assert_array_equal(found, larger(given))


def test_the_default_quality_is_close_to_the_picture(tmp_path):
    smooth = [np.full((48, 64, 3), (90 + 2 * n, 120, 150 - n), np.uint8) + np.arange(64, dtype=np.uint8)[None, :, None] for n in range(6)]
    restore(write_clip(tmp_path / "a.mp4", smooth), tmp_path / "out.mp4")
    for given, found in zip(smooth, seen(tmp_path / "out.mp4").frames, strict=True):
        assert np.abs(larger(given).astype(int) - found).mean() < 1.5


@pytest.mark.parametrize(("matrix", "range_"), [(1, 1), (1, 2), (6, 1), (5, 2)])
def test_colours_and_their_tags_are_kept(tmp_path, matrix, range_):
    frames = [np.full((32, 32, 3), (200, 60, 30), np.uint8)] * 3
    clip = write_clip(tmp_path / "a.mp4", frames, colorspace=matrix, color_range=range_, color_primaries=1, color_trc=1)
    restore(clip, tmp_path / "out.mp4")
    before, after = seen(clip), seen(tmp_path / "out.mp4")
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        assert int(getattr(after.first, name)) == int(getattr(before.first, name)), name
    raw = [[bytes(plane)[0] for plane in each.first.planes] for each in (before, after)]
    assert np.abs(np.subtract(*raw, dtype=int)).max() <= 2  # the very samples: whatever the tags say, nothing was scaled


def test_what_was_small_is_tagged_as_it_was_made(tmp_path):
    """Untagged 480 lines are BT.601; 960 untagged lines would be taken for BT.709."""
    clip = write_clip(tmp_path / "a.mp4", scenes(2, 480, 64))
    restore(clip, tmp_path / "out.mp4")
    assert int(seen(tmp_path / "out.mp4").first.colorspace) == 6


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright(tmp_path, degrees):
    frames = list(scenes(3, 24, 40))
    clip = write_clip(tmp_path / "a.mp4", frames, rotation=degrees)
    restore(clip, tmp_path / "out.mp4", encoding=Encoding("libx264", options={"qp": "0"}, pixel_format="yuv444p"))
    after = seen(tmp_path / "out.mp4")
    assert after.first.rotation == 0
    for given, found in zip(seen(clip).frames, after.frames, strict=True):
        turned = [larger(np.rot90(given, turns)) for turns in range(4)]
        errors = [np.abs(each.astype(int) - found).mean() if each.shape == found.shape else 255 for each in turned]
        assert int(np.argmin(errors)) == degrees // 90
        assert min(errors) < 5


@pytest.mark.parametrize(("scale", "size"), [(1, (15, 21)), (3, (15, 21)), (2, (15, 21)), (3, (16, 21)), (1, (16, 22))])
def test_any_size_at_any_scale(tmp_path, scale, size):
    clip = write_clip(tmp_path / "a.mkv", scenes(3, *size), codec="ffv1", pixel_format="yuv420p")
    restore(clip, tmp_path / "out.mp4", scale, lambda image: image.repeat(scale, 0).repeat(scale, 1))
    first = seen(tmp_path / "out.mp4").first
    height, width = size[0] * scale, size[1] * scale
    assert (first.height, first.width) == (height, width)
    assert first.format.name == ("yuv420p" if height % 2 == width % 2 == 0 else "yuv444p")


@pytest.mark.parametrize(("pixel_format", "dtype"), [("gray", np.uint8), ("gray16le", np.uint16)])
def test_gray_stays_gray(tmp_path, pixel_format, dtype):
    frames = list(scenes(3, channels=1, dtype=dtype))
    clip = write_clip(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format=pixel_format)
    handed = []
    restore(
        clip, tmp_path / "out.mp4", function=lambda image: handed.append(image) or larger(image), encoding=Encoding(options={"qp": "0"})
    )
    assert {image.shape for image in handed} == {(24, 32, 1)}
    assert {image.dtype for image in handed} == {np.dtype(dtype)}
    for given, found in zip(frames, handed, strict=True):
        np.testing.assert_array_equal(found, given)
    decoded = seen(tmp_path / "out.mp4")
    colours = np.ptp(np.stack(decoded.frames).astype(int), axis=-1)
    assert colours.max() <= 1


def test_ten_bits_stay(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", scenes(3, dtype=np.uint16), pixel_format="yuv444p10le")
    restore(clip, tmp_path / "out.mkv", encoding=Encoding(options={"qp": "0"}))
    before, after = seen(clip, "rgb48le"), seen(tmp_path / "out.mkv", "rgb48le")
    assert after.first.format.name == "yuv444p10le"
    errors = [np.abs(larger(a).astype(int) - b).mean() for a, b in zip(before.frames, after.frames, strict=True)]
    assert max(errors) < 128  # two steps of ten bits


def test_wide_pixels_stay_wide(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", scenes(2), sample_aspect_ratio=Fraction(4, 3))
    restore(clip, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_subtitles_are_copied(tmp_path, extension):
    clip = write_clip(tmp_path / f"a{extension}", scenes(20), sound=True, subtitles=[(100, b"one"), (500, b"two")])
    restore(clip, tmp_path / f"out{extension}")
    before, after = seen(clip).others["subtitle"], seen(tmp_path / f"out{extension}").others["subtitle"]
    assert len(before) >= 2
    assert after == before


def test_names_and_languages_are_kept(tmp_path):
    plain = write_clip(tmp_path / "plain.mkv", scenes(4), sound=True)
    with av.open(str(plain)) as given, av.open(str(tmp_path / "a.mkv"), "w") as container:
        container.metadata["title"] = "Grüße"
        copies = {stream.index: container.add_stream_from_template(stream, opaque=True) for stream in given.streams}
        copies[1].metadata["language"] = "deu"
        for packet in given.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    restore(tmp_path / "a.mkv", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "Grüße"
        assert container.streams.audio[0].metadata["language"] == "deu"


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("stops", [[3], [5, 7], [1, 1, 1, 10]])
def test_a_stopped_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, stops):
    clip = write_clip(tmp_path / "a.mp4", scenes(17), irregular(17), sound=True)
    restore(clip, tmp_path / "whole.mp4")
    done = 0
    for count in stops:
        outcome = restore(clip, tmp_path / "out.mp4", function=stopping_after(count))
        done += count
        assert (outcome.done, outcome.earlier, outcome.whole) == (done, done - count, False)
        assert not (tmp_path / "out.mp4").exists()
    made = []
    outcome = restore(clip, tmp_path / "out.mp4", function=lambda image: made.append(1) or larger(image))
    assert (outcome.done, outcome.earlier, outcome.whole, len(made)) == (17, done, True, 17 - done)
    whole, joined = seen(tmp_path / "whole.mp4"), seen(tmp_path / "out.mp4")
    assert (joined.times, joined.others) == (whole.times, whole.others)
    assert abs(joined.length - whole.length) < MILLISECOND
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(whole.frames, joined.frames, strict=True)]
    assert max(errors) < 12
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("short_parts")
def test_a_run_that_broke_at_a_part_gives_the_same_file(tmp_path):
    """As after a kill: parts end where they would have ended. (x264 itself does not give the same bits twice.)"""
    clip = write_clip(tmp_path / "a.mp4", scenes(17), irregular(17), sound=True)
    restore(clip, tmp_path / "whole.mkv", encoding=LOSSLESS)

    def breaking(image, left=[13]):  # noqa: B006
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return larger(image)

    with pytest.raises(KeyboardInterrupt):
        restore(clip, tmp_path / "out.mkv", function=breaking, encoding=LOSSLESS)
    outcome = restore(clip, tmp_path / "out.mkv", encoding=LOSSLESS)
    assert outcome.earlier == 10
    whole, joined = seen(tmp_path / "whole.mkv"), seen(tmp_path / "out.mkv")
    assert (joined.times, joined.others) == (whole.times, whole.others)
    np.testing.assert_array_equal(joined.frames, whole.frames)


@pytest.mark.usefixtures("short_parts")
def test_parts_of_other_settings_or_of_another_source_are_not_used(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", scenes(9))
    options = {"settings": {"weights": "first"}}
    restore(clip, tmp_path / "out.mp4", function=stopping_after(6), **options)
    assert restore(clip, tmp_path / "out.mp4", function=stopping_after(6), settings={"weights": "second"}).earlier == 0
    assert restore(clip, tmp_path / "out.mp4", function=stopping_after(0), settings={"weights": "second"}).earlier == 6
    write_clip(clip, scenes(10))
    outcome = restore(clip, tmp_path / "out.mp4", settings={"weights": "second"})
    assert (outcome.earlier, outcome.done, outcome.whole) == (0, 10, True)


def test_two_runs_never_work_on_one_result(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", scenes(3))

    def again(image):
        with pytest.raises(UserError, match="another process is making it"):
            restore(clip, tmp_path / "out.mp4")
        return larger(image)

    assert restore(clip, tmp_path / "out.mp4", function=again).whole


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("extension", [".mp4", ".mov"])
def test_a_cut_file_is_refused_before_any_work(tmp_path, keep, extension):
    clip = tmp_path / f"a{extension}"
    write_clip(clip, scenes(30, 48, 64), sound=True)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=f"a{extension}: .*(damaged|cut off)"):
        restore(clip, tmp_path / "out.mp4", function=None)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]


@pytest.mark.parametrize("extension", [".mkv", ".webm", ".avi", ".flv"])
def test_a_file_that_ends_before_its_head_says_is_refused_before_any_work(tmp_path, extension):
    """Their readers take what is there for the whole."""
    clip = tmp_path / f"a{extension}"
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".flv": "flv"}.get(extension, "libx264")
    write_clip(clip, scenes(100, 32, 48), codec=codec)
    assert VideoFile(clip).count == 100
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 5])
    with pytest.raises(UserError, match=rf"a\{extension}: (ends after \d\.\d s, but says that it lasts 4\.0 s; it is cut|damaged or cut)"):
        restore(clip, tmp_path / "out.mkv", function=None)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_a_last_frame_that_is_shown_for_long_is_no_cut(tmp_path, extension):
    clip = write_clip(tmp_path / f"a{extension}", scenes(4), [0, 12800 * 5, 12800 * 12, 12800 * 15])
    assert VideoFile(clip).count == 4


def test_frames_that_wait_for_others_keep_their_pace_in_avi(tmp_path):
    """AVI counts packets; FFmpeg makes times of that which jump to and fro where B-frames are."""
    clip = write_clip(tmp_path / "a.avi", scenes(20), options={"bf": "3"}, time_base=Fraction(1, 25))
    assert not np.all(np.diff(seen(clip).times) > 0)  # else this shows nothing
    times = [frame.time for frame in VideoFile(clip).frames()]
    assert np.diff(times).tolist() == [1] * 19


def test_a_damaged_stream_is_refused_before_any_work(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", scenes(30, 48, 64), options={"crf": "20"})
    data = bytearray(clip.read_bytes())
    begin = data.index(b"mdat") + 3000
    data[begin : begin + 2000] = bytes(2000)
    clip.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.mp4: damaged"):
        restore(clip, tmp_path / "out.mkv", function=None)


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "words.mp4").write_text("no video at all")
    with pytest.raises(UserError, match=r"words\.mp4: cannot be read as a video"):
        VideoFile(tmp_path / "words.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        tone.sample_rate, tone.pts = 16000, 0
        container.mux([*stream.encode(tone), *stream.encode(None)])
    with pytest.raises(UserError, match=r"sound\.mp4: has no video stream"):
        VideoFile(tmp_path / "sound.mp4")
    with pytest.raises(UserError, match=r"nowhere\.mp4: cannot be read"):
        VideoFile(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize(
    ("target", "encoding", "said"),
    [
        ("out.mp4", Encoding("libx999"), "no encoder 'libx999' here; give --video_codec one of libx264"),
        ("out.mp4", Encoding("aac"), "aac encodes audio"),
        ("out.mp4", Encoding(pixel_format="rgb24"), "takes no pixel format 'rgb24'"),
        ("out.mp4", Encoding(options={"preset": "hasty"}), "option"),
        ("out.webm", Encoding("libx264"), "webm"),
        ("out.webm", Encoding(), r"stream 1 \(audio, aac\) cannot be copied into \.webm"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(tmp_path, target, encoding, said):
    clip = write_clip(tmp_path / "a.mp4", scenes(3), sound=True)
    with pytest.raises(UserError, match=said) as caught:
        restore(clip, tmp_path / target, function=None, encoding=encoding)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sides_need_a_codec_that_takes_them(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", scenes(2, 15, 21), codec="ffv1")
    with pytest.raises(UserError, match="mpeg4 cannot hold frames of 21x15 pixels"):
        restore(clip, tmp_path / "out.mp4", 1, function=None, encoding=Encoding("mpeg4"))


@pytest.mark.usefixtures("short_parts")
def test_a_full_disk_is_one_line_and_costs_no_finished_part(tmp_path):
    """A limit on the size of files stands for the full disk: the whole does not fit, its parts do."""
    clip = write_clip(tmp_path / "a.mkv", scenes(20, 48, 64), codec="ffv1", pixel_format="bgr0")
    whole = tmp_path / "whole.mkv"
    restore(clip, whole, encoding=LOSSLESS)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for share in (0.1, 0.6):  # not even a part; the parts alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(whole.stat().st_size * share), hard))
        try:
            with pytest.raises(UserError, match=os.strerror(errno.EFBIG)):
                restore(clip, tmp_path / "out.mkv", encoding=LOSSLESS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert not (tmp_path / "out.mkv").exists()
        assert not list(tmp_path.glob(".out.mkv.parts/whole*"))
    outcome = restore(clip, tmp_path / "out.mkv", encoding=LOSSLESS)
    assert (outcome.earlier, outcome.whole) == (20, True)


def test_memory_does_not_grow_with_length(tmp_path):
    """Kept frames of the longer clip would take 110 MB."""
    for count in (30, 150):
        write_clip(tmp_path / f"{count}.mp4", scenes(count, 240, 320), options={"preset": "ultrafast"})
    encoding = Encoding(options={"preset": "ultrafast"})
    restore(tmp_path / "30.mp4", tmp_path / "a.mp4", encoding=encoding)
    first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    restore(tmp_path / "150.mp4", tmp_path / "b.mp4", encoding=encoding)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first) / 1024 < 20  # MiB


def test_pictures_become_a_video_in_the_order_of_their_numbers(tmp_path):
    frames = list(scenes(11))
    for number, frame in enumerate(frames):
        write_image(tmp_path / f"f{number}.png", frame)
    sequence = PictureSequence(list(tmp_path.glob("*.png")), Fraction(24000, 1001))
    restore(sequence, tmp_path / "out.mp4")
    after = seen(tmp_path / "out.mp4")
    assert after.times == [number * Fraction(1001, 24000) for number in range(11)]
    for number, found in enumerate(after.frames):
        errors = [np.abs(larger(frame).astype(int) - found).mean() for frame in frames]
        assert int(np.argmin(errors)) == number


def test_pictures_of_a_video_are_of_one_kind(tmp_path):
    write_image(tmp_path / "1.png", np.zeros((8, 8, 3), np.uint8))
    write_image(tmp_path / "2.png", np.zeros((8, 10, 3), np.uint8))
    with pytest.raises(UserError, match=r"2\.png: 10x8 pixels, 3 channels, uint8, but 1\.png has 8x8"):
        restore(PictureSequence(sorted(tmp_path.glob("*.png"))), tmp_path / "out.mp4")
    shutil.rmtree(tmp_path / ".out.mp4.parts")
    write_image(tmp_path / "1.png", np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(UserError, match=r"1\.png: has alpha"):
        PictureSequence(sorted(tmp_path.glob("*.png")))


def test_patterns_stand_for_numbered_pictures(tmp_path):
    for name in ("f_0009.png", "f_0010.png", "f_0011.png", "f_x.png", "other_0010.png"):
        (tmp_path / name).write_bytes(b"")
    wanted = ["f_0009.png", "f_0010.png", "f_0011.png"]
    assert is_pattern(tmp_path / "f_%04d.png")
    assert [path.name for path in expand_pattern(tmp_path / "f_%04d.png")] == wanted
    assert [path.name for path in expand_pattern(tmp_path / "f_%d.png")] == wanted
    assert [path.name for path in expand_pattern(tmp_path / "f_0*.png")] == wanted
    assert not is_pattern(tmp_path / "f_0009.png")
    assert expand_pattern(tmp_path / "g_%d.png") == []
    (tmp_path / "f_0010.png").unlink()
    with pytest.raises(UserError, match="number 10 is missing"):
        expand_pattern(tmp_path / "f_%04d.png")
