"""The whole video from its parts: pictures as they were encoded, sound and subtitles as they were in the source."""

import heapq
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from eqmambair.files import move_into_place
from eqmambair.video._pyav import one_line, pyav
from eqmambair.video.encoding import CONTAINERS, Form
from eqmambair.video.parts import Parts
from eqmambair.video.sources import COPIED, Source, VideoFile, video_stream


def check_layout(source: Source, target: Path, form: Form) -> None:
    """See before any work that the encoder starts, and that the target's format holds what is to be copied.

    Raises:
        UserError: something does not fit; it is named.
    """
    with _original(source) as original, pyav().open(io.BytesIO(), "w", format=CONTAINERS[target.suffix.lower()]) as container:
        form.add_stream(container)
        if original is not None:
            _copied_streams(container, original, source, target)
        with one_line(f"{target}: {form.codec} and this format do not go together, or an option is wrong", ValueError):
            container.start_encoding()


def join(parts: Parts, source: Source, target: Path) -> None:
    """Write the result under a hidden name and move it into place.

    Times are the source's. A packet is decoded as much before it is shown as the frames that it must wait for take.

    Raises:
        UserError: the disk is full, or a stream cannot be copied.
    """
    whole = parts.folder / f"whole{target.suffix}"
    try:
        with one_line(f"{target}: cannot be written"), whole.open("wb") as file:
            with (
                _original(source) as original,
                pyav().open(file, "w", format=CONTAINERS[target.suffix.lower()]) as container,
                pyav().open(str(parts.part(0).file)) as first,
            ):
                video = container.add_stream_from_template(first.streams.video[0], opaque=True)
                video.time_base = source.time_base
                packets = [_video_packets(parts, video, source.time_base)]
                if original is not None:
                    container.metadata.update(original.metadata)
                    container.set_chapters(original.chapters())
                    video.metadata.update(video_stream(original, source.path).metadata)
                    if copies := _copied_streams(container, original, source, target):
                        packets.append(_copied_packets(original, copies, source))
                for _, _, packet in heapq.merge(*packets, key=lambda each: each[:2]):
                    container.mux_one(packet)
            file.flush()
            os.fsync(file.fileno())
            move_into_place(whole, target)
    finally:
        whole.unlink(missing_ok=True)


@contextmanager
def _original(source: Source) -> Iterator[Any]:
    """PyAV's container of the file that streams are copied from; None where there is none."""
    if not isinstance(source, VideoFile):
        yield None
        return
    with source.opened() as container:
        yield container


def _copied_streams(container: Any, original: Any, source: Source, target: Path) -> dict[int, Any]:
    """Add a stream to the result for each of the source's that is copied; by the source's index."""
    copies = {}
    for stream in original.streams:
        if stream.type not in COPIED or stream.codec_context is None:
            continue
        what = f"stream {stream.index} ({stream.type}, {stream.codec_context.name})"
        with one_line(f"{source.path}: {what} cannot be copied into {target.suffix}; name a result in another format", ValueError):
            copy = container.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(stream.metadata)
        copy.disposition = int(stream.disposition)
        copies[stream.index] = copy
    return copies


def _video_packets(parts: Parts, stream: Any, time_base: Fraction) -> Iterator[tuple[Fraction, int, Any]]:
    """The packets of all parts with their times: when to decode, in seconds; 0; the packet."""
    delay = max(part.delay for part in parts)
    start = parts.part(0)
    earlier = [start.times[0] - (delay - place) * start.durations[0] for place in range(delay)]
    for part in parts:
        decoded = [*earlier, *part.times]
        with pyav().open(str(part.file)) as container:
            packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
            for place, (frame, packet) in enumerate(zip(part.order, packets, strict=True)):
                packet.time_base, packet.stream = time_base, stream
                packet.pts, packet.dts, packet.duration = part.times[frame], decoded[place], part.durations[frame]
                yield packet.dts * time_base, 0, packet
        earlier = decoded[len(decoded) - delay :]


def _copied_packets(original: Any, copies: dict[int, Any], source: Source) -> Iterator[tuple[Fraction, int, Any]]:
    """The packets of the streams that are copied: when to decode, in seconds; 1; the packet."""
    with one_line(f"{source.path}: sound or subtitles are damaged; repair it first"):
        for packet in original.demux(*(original.streams[index] for index in copies)):
            if packet.size and packet.dts is not None:
                time = packet.dts * packet.time_base
                packet.stream = copies[packet.stream_index]
                yield time, 1, packet
