"""Restore a video: one frame in memory at a time, finished parts on the disk, the result under its name once it is whole."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqmambair.data.io import Image
from eqmambair.version import __version__
from eqmambair.video._pyav import pyav
from eqmambair.video.encoding import Encoding, Form, pixel_format
from eqmambair.video.joining import check_layout, join
from eqmambair.video.parts import PART_FRAMES, OpenPart, Parts
from eqmambair.video.sources import Source


class Stopped(Exception):
    """Raised by the function that restores frames, to give up the frame and end the run; the frames before it are kept."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``done`` of ``total`` frames are restored, ``earlier`` of them by runs before; ``whole``: the result is there."""

    done: int
    total: int
    earlier: int
    whole: bool


def restore_video(
    source: Source,
    target: Path,
    restore: Callable[[Image], Image],
    scale: int,
    *,
    encoding: Encoding | None = None,
    settings: dict[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Restore every frame of a source and write the result.

    A run that ends early, however it ends, leaves the folder ``.NAME.parts`` beside the target; the next one with the same source and
    settings goes on behind the last finished part. Frames keep their times, sound and subtitles are copied.

    Args:
        source: the frames.
        target: one of `WRITTEN_EXTENSIONS`.
        restore: (h, w, c) to (scale*h, scale*w, c), of the same dtype.
        scale: output pixels per input pixel and side.
        encoding: of the result.
        settings: what ``restore`` depends on, as JSON values; parts made with other settings are not used.
        stop: asked before each frame; true ends the run after what is there was made to last.
        progress: called at the start and after each frame, with how many are done, and how many of these earlier runs did.

    Raises:
        UserError: the source is damaged, codec and formats do not fit, another process is at work on the target, or the disk is full.
    """
    encoding = encoding or Encoding()
    codec = encoding.codec_for(target)
    width, height = source.kind.width * scale, source.kind.height * scale
    format_ = pixel_format(encoding, codec, source.kind, width, height)
    form = Form(codec, encoding.encoder_options(codec), format_, width, height, source.kind, source.rate, source.aspect)
    check_layout(source, target, form)
    made_with = {
        "source": source.fingerprint,
        "settings": settings or {},
        "scale": scale,
        "rate": str(source.rate),
        "encoding": [codec, format_, form.options, PART_FRAMES],
        "versions": [__version__, pyav().__version__],
    }
    with Parts(target, made_with) as parts:
        earlier = done = sum(len(part.times) for part in parts)
        if progress is not None:
            progress(done, earlier)
        part: OpenPart | None = None
        stopped = False
        try:
            for frame in source.frames(skip=done):
                if part is not None and len(part) == PART_FRAMES:
                    part.finish(end=frame.time)
                    part = None
                stopped = stop()
                if stopped:
                    break
                try:
                    restored = restore(frame.pixels)
                except Stopped:
                    stopped = True
                    break
                part = part or parts.begin(form)
                part.add(restored, frame.time, frame.duration)
                done += 1
                if progress is not None:
                    progress(done, earlier)
            if part is not None:
                part.finish(end=frame.time if stopped else None)
                part = None
        finally:
            if part is not None:
                part.discard()
        if stopped:
            return Outcome(done, source.count, earlier, False)
        join(parts, source, target)
        parts.remove()
    return Outcome(done, source.count, earlier, True)
