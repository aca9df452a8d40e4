"""Restored frames on the disk before the video is whole: finished parts outlive any interruption, and the next run goes on behind them.

A part is a few dozen encoded frames in Matroska, which counts milliseconds; so the true times of its frames lie beside it. The part is
finished once that second file is there.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eqmambair.data.io import Image
from eqmambair.errors import UserError
from eqmambair.files import flush_folder, replace_file
from eqmambair.video._pyav import one_line, pyav
from eqmambair.video.encoding import Form
from eqmambair.video.pixels import Converter

PART_FRAMES = 48  # what a kill can cost; also the longest way between two key frames


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        file: Matroska, one video stream.
        times: of its frames, growing, in units of the source's time base.
        durations: in the same units.
        order: for each packet of the file, which of the frames it shows.
    """

    file: Path
    times: list[int]
    durations: list[int]
    order: list[int]

    @property
    def delay(self) -> int:
        """How many packets a frame waits at most for its turn."""
        return max(place - frame for place, frame in enumerate(self.order))


class Parts:
    """The folder of the parts of one result, held by one process at a time; use it in a ``with`` statement.

    Args:
        target: the result; the folder is a hidden one beside it.
        settings: all that the parts depend on, as JSON; parts made otherwise are thrown away.

    Raises:
        UserError: another process is at work on this result, or the folder cannot be made.
    """

    def __init__(self, target: Path, settings: dict[str, Any]) -> None:
        self.folder = target.with_name(f".{target.name}.parts")
        self._lock = FileLock(target.with_name(f".{target.name}.lock"))
        self._settings = json.dumps(settings, indent=1, sort_keys=True)
        self._target = target

    def __enter__(self) -> "Parts":
        with one_line(f"{self._target}: its folder cannot be written"):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise UserError(f"{self._target}: another process is making it") from error
            try:
                record = self.folder / "settings.json"
                if not record.is_file() or record.read_text(encoding="utf-8") != self._settings:
                    self.remove()
                    self.folder.mkdir()
                    replace_file(record, self._settings)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self.folder.exists():
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def remove(self) -> None:
        """Throw all parts away."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def count(self) -> int:
        """How many parts are finished."""
        number = 0
        while self._paths(number)[1].is_file():
            number += 1
        return number

    def __iter__(self) -> Iterator[Part]:
        for number in range(self.count()):
            yield self.part(number)

    def part(self, number: int) -> Part:
        """One of the finished parts."""
        file, record = self._paths(number)
        return Part(file, **json.loads(record.read_text(encoding="utf-8")))

    def begin(self, form: Form) -> "OpenPart":
        """Begin the next part."""
        return OpenPart(*self._paths(self.count()), form)

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:06d}.mkv", self.folder / f"{number:06d}.json"


class OpenPart:
    """A part that takes frames; what `Parts.begin` returns."""

    def __init__(self, file: Path, record: Path, form: Form) -> None:
        self._path, self._record, self._form = file, record, form
        self._converter = Converter(form.kind)
        self._file: Any = None
        self._times: list[int] = []
        self._durations: list[int] = []

    def __len__(self) -> int:
        return len(self._times)

    def add(self, image: Image, time: int, duration: int) -> None:
        """Encode a frame.

        Raises:
            UserError: the disk is full, or the encoder refuses.
        """
        with one_line(f"{self._path}: cannot be written"):
            if self._file is None:
                self._file = self._path.open("wb")
                self._container = pyav().open(self._file, "w", format="matroska")
                self._stream = self._form.add_stream(self._container)
            frame = self._converter.to_frame(image, self._form.pixel_format)
            frame.pts, frame.time_base = len(self), self._stream.codec_context.time_base
            self._container.mux(self._stream.encode(frame))
            self._times.append(time)
            self._durations.append(duration)

    def finish(self, end: int | None = None) -> None:
        """Make the part last.

        Args:
            end: when the frame behind it is shown; None: there is none.

        Raises:
            UserError: the disk is full.
        """
        with one_line(f"{self._path}: cannot be written"):
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        shown = [following - time for time, following in zip(self._times, [*self._times[1:], end], strict=True) if following is not None]
        if end is None:
            shown.append(self._durations[-1] or (shown[-1] if shown else 1))
        record = asdict(Part(self._path, self._times, shown, _order(self._path, len(self))))
        del record["file"]
        flush_folder(self._path.parent)
        replace_file(self._record, json.dumps(record))

    def discard(self) -> None:
        """Give up what is not finished."""
        if self._file is not None and not self._file.closed:
            self._file.close()
        self._path.unlink(missing_ok=True)


def _order(file: Path, frames: int) -> list[int]:
    """For each packet of a part, which frame it shows: the rank of its time."""
    with one_line(f"{file}: cannot be read back"), pyav().open(str(file)) as container:
        times = [packet.pts for packet in container.demux(container.streams.video[0]) if packet.size]
    ranks = {time: rank for rank, time in enumerate(sorted(times))}
    if len(ranks) != frames:
        raise UserError(f"{file}: the encoder made {len(ranks)} pictures of {frames} frames; give another --video_codec")
    return [ranks[time] for time in times]
