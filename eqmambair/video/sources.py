"""Where frames come from: a video file, or pictures in the order of their numbers. Frame after frame, none kept."""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from eqmambair.data.io import IMAGE_EXTENSIONS, Image, read_image
from eqmambair.errors import UserError
from eqmambair.video._pyav import one_line, pyav
from eqmambair.video.pixels import Converter, Kind, kind_of

COPIED = ("audio", "subtitle")  # kinds of streams that go into the result as they are
_PRINTF = re.compile(r"%0?(\d*)d")
_USUAL_RATE = Fraction(25)
# FFmpeg's names of formats whose head says how long the file is, besides avi. Streams (TS, MPG) have no such head.
_WITH_LENGTH = {"matroska", "mov", "flv", "asf", "mxf"}
_INEXACT = (Fraction(1), Fraction(1, 200))  # seconds, and share of the whole, that a head may promise too much


@dataclass(frozen=True)
class Frame:
    """A picture and when it is shown.

    Attributes:
        time: in units of the source's ``time_base``; grows from frame to frame.
        duration: in the same units; 0 where the source does not say.
        pixels: (h, w, 1) or (h, w, 3), uint8 or uint16.
    """

    time: int
    duration: int
    pixels: Image


class VideoFile:
    """The frames of the first video stream of a file, upright.

    Opening decodes the file once, frame by frame, so that damage is found before hours of work, and the number of frames is known.

    Args:
        path: the file.
        counted: called after each frame that was checked.

    Attributes:
        kind: what the frames share.
        count: number of frames.
        time_base: seconds in a unit of time.
        rate: mean frames a second.
        aspect: width over height of an upright pixel; None where the file does not say.
        notes: what of the file has no place in the result, one line each.

    Raises:
        UserError: the file is no video, has no video stream, is damaged or cut off, or changes its size; it is named. A cut is seen where
            the file's head says how long it is.
    """

    def __init__(self, path: Path, counted: Callable[[], object] | None = None) -> None:
        self.path = path
        self.fingerprint = [_stamp(path)]
        self.notes: list[str] = []
        with self.opened() as container:
            stream = video_stream(container, path)
            self.time_base = Fraction(stream.time_base)
            rate, aspect = stream.average_rate, stream.sample_aspect_ratio
            for other in container.streams:
                if other.index != stream.index and (other.type not in COPIED or other.codec_context is None):
                    self.notes.append(f"{path}: stream {other.index} ({other.type}) is left out")
            if stream.metadata.get("alpha_mode") == "1":  # of WebM; not every decoder shows it
                self.notes.append(f"{path}: has alpha, which is left out")
        self._step = max(1, round(1 / (Fraction(rate or _USUAL_RATE) * self.time_base)))
        self.count, self._size = 0, (0, 0)
        shown, decoded = _Clock(), _Clock()
        for frame in self._decoded():
            if self.count == 0:
                self._size, self.kind = (frame.width, frame.height), kind_of(frame)
                self._note(frame)
            shown.add(_shown(frame))
            decoded.add(frame.dts)
            self.count += 1
            if counted is not None:
                counted()
        if self.count == 0:
            raise UserError(f"{path}: its video stream holds no frame; the file is damaged or cut off")
        self._check_length(shown.longest * self.time_base)
        # AVI has no times of display; what is said to be them is wrong where frames wait for others
        self._shift = shown.first - decoded.first if shown.faults > decoded.faults else None
        self.rate = Fraction(rate) if rate else _mean_rate(self.count, (shown.last - shown.first) * self.time_base)
        self.aspect = Fraction(aspect) if aspect else None
        if self.aspect is not None and self.kind.orientation >= 5:
            self.aspect = 1 / self.aspect

    def opened(self) -> Any:
        """PyAV's container, to be closed by the caller."""
        with one_line(f"{self.path}: cannot be read as a video; it is damaged, cut off or of another kind"):
            return pyav().open(str(self.path), metadata_errors="ignore")

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """The frames, the first ``skip`` of them left out.

        A frame without a time, or not behind the one before, comes one usual step later.
        """
        converter = Converter(self.kind)
        last: int | None = None
        for number, decoded in enumerate(self._decoded()):
            time = _shown(decoded) if self._shift is None or decoded.dts is None else decoded.dts + self._shift
            if last is not None and (time is None or time <= last):
                time = last + self._step
            last = time or 0
            if number >= skip:
                yield Frame(last, int(decoded.duration or 0), converter.to_array(decoded))

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames."""
        number = 0
        with self.opened() as container:
            stream = video_stream(container, self.path)
            stream.thread_type = "AUTO"
            with one_line(f"{self.path}: damaged or cut off; repair it first"):
                for packet in container.demux(stream):
                    decoded = packet.decode()
                    if packet.is_corrupt or any(frame.is_corrupt for frame in decoded):
                        raise UserError(f"{self.path}: damaged or cut off at frame {number}; repair it first")
                    for frame in decoded:
                        if self._size not in ((0, 0), (frame.width, frame.height)):
                            sizes = f"{frame.width}x{frame.height}, those before are {self._size[0]}x{self._size[1]}"
                            raise UserError(f"{self.path}: frame {number} is {sizes}; cut the file there first")
                        number += 1
                        yield frame

    def _check_length(self, longest: Fraction) -> None:
        """See that the packets of all streams go on for as long as the file's head says.

        Args:
            longest: seconds between two frames; the last may be shown as long, which not every format says.
        """
        with self.opened() as container:
            length, end = _promised(container, video_stream(container, self.path)), Fraction(0)
            with one_line(f"{self.path}: damaged or cut off; repair it first"):
                for packet in container.demux():
                    if packet.pts is not None:
                        end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if length - end > max(longest, _INEXACT[0], length * _INEXACT[1]):
            told = f"ends after {float(end):.1f} s, but says that it lasts {float(length):.1f} s"
            raise UserError(f"{self.path}: {told}; it is cut off, or its head is wrong; repair it first (ffmpeg -i IN -c copy OUT)")

    def _note(self, frame: Any) -> None:
        if frame.interlaced_frame:
            self.notes.append(f"{self.path}: is interlaced, and its rows are restored as they lie; deinterlace it first")
        if any(component.is_alpha for component in frame.format.components):
            self.notes.append(f"{self.path}: has alpha, which is left out")


class PictureSequence:
    """Pictures as the frames of a video, in the order of the numbers in their names.

    Args:
        files: pictures of one size and kind, 8 or 16 bit, gray or RGB.
        rate: frames a second.

    Raises:
        UserError: a file cannot be read, has alpha, or differs from the first in size or kind.
    """

    def __init__(self, files: Sequence[Path], rate: Fraction = _USUAL_RATE) -> None:
        self.files = sorted(files, key=lambda path: _natural(path.name))
        self.path, self.count = self.files[0], len(self.files)
        self.rate, self.time_base, self.aspect = rate, 1 / rate, None
        self.notes: list[str] = []
        first = self._read(self.files[0])
        self.kind = Kind(first.shape[1], first.shape[0], first.shape[2] == 1, 16 if first.dtype == np.uint16 else 8)
        self._shape, self._dtype = first.shape, first.dtype
        self.fingerprint = [_stamp(path) for path in self.files]

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """The pictures, the first ``skip`` of them left out."""
        for number in range(skip, self.count):
            pixels = self._read(self.files[number])
            if (pixels.shape, pixels.dtype) != (self._shape, self._dtype):
                kinds = [
                    f"{s[1]}x{s[0]} pixels, {s[2]} channels, {d}" for s, d in ((pixels.shape, pixels.dtype), (self._shape, self._dtype))
                ]
                raise UserError(f"{self.files[number]}: {kinds[0]}, but {self.files[0].name} has {kinds[1]}")
            yield Frame(number, 1, pixels)

    def _read(self, file: Path) -> Image:
        pixels = read_image(file)
        if pixels.shape[2] == 4:
            raise UserError(f"{file}: has alpha, which a video cannot hold; remove it first")
        return pixels


Source: TypeAlias = VideoFile | PictureSequence


def video_stream(container: Any, path: Path) -> Any:
    """The first stream of an open file that moves.

    Raises:
        UserError: there is none, or nothing here decodes it.
    """
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise UserError(f"{path}: has no video stream")
    if streams[0].codec_context is None:
        raise UserError(f"{path}: PyAV has no decoder for its video; convert it first")
    return streams[0]


def is_pattern(path: Path) -> bool:
    """Whether a name that is no file stands for pictures: ``frame_%05d.png`` or ``frame_*.png``."""
    return not path.exists() and bool(_PRINTF.search(path.name) or glob.has_magic(path.name))


def expand_pattern(path: Path) -> list[Path]:
    """The pictures that a pattern stands for, in the order of their numbers; empty where there are none.

    Raises:
        UserError: a number is missing between two that are there.
    """
    printf = _PRINTF.search(path.name)
    if printf is None:
        found = [each for each in path.parent.glob(path.name) if each.suffix.lower() in IMAGE_EXTENSIONS]
        return sorted(found, key=lambda each: _natural(each.name))
    before, after = path.name[: printf.start()], path.name[printf.end() :]
    digits = f"\\d{{{printf[1]},}}" if printf[1] else r"\d+"
    rule = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    numbered = {int(match[1]): each for each in path.parent.glob("*") if (match := rule.fullmatch(each.name))}
    for number in numbered:
        if number + 1 not in numbered and number < max(numbered):
            raise UserError(f"{path}: number {number + 1} is missing")
    return [numbered[number] for number in sorted(numbered)]


def _natural(name: str) -> list[tuple[int, str]]:
    """The order in which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & pyav().stream.Disposition.attached_pic)


def _shown(frame: Any) -> int | None:
    """When a decoded frame is shown, as far as the file says."""
    time: int | None = frame.dts if frame.pts is None else frame.pts
    return time


def _promised(container: Any, stream: Any) -> Fraction:
    """How many seconds a file lasts as its head says; 0 where it does not say."""
    format_ = container.format.name
    if format_ == "avi":  # its duration is FFmpeg's guess by the size of the file
        return Fraction(stream.frames * stream.time_base)
    return Fraction(container.duration or 0, pyav().time_base) if _WITH_LENGTH & set(format_.split(",")) else Fraction(0)


class _Clock:
    """Times of one kind as they come: the first and the last, the longest step, and how many are missing or do not grow."""

    def __init__(self) -> None:
        self.first = self.last = self.longest = self.faults = 0
        self._started = False

    def add(self, time: int | None) -> None:
        if time is None or (self._started and time <= self.last):
            self.faults += 1
        elif self._started:
            self.longest, self.last = max(self.longest, time - self.last), time
        else:
            self.first = self.last = time
            self._started = True


def _mean_rate(count: int, seconds: Fraction) -> Fraction:
    return Fraction(count - 1) / seconds if seconds > 0 else _USUAL_RATE


def _stamp(path: Path) -> list[Any]:
    """Name, size and time of change."""
    with one_line(f"{path}: cannot be read"):
        found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]
