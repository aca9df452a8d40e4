"""Short videos made by PyAV, with sound where asked, and what one reads from a video to compare it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed (extra [video])")

MILLISECOND = Fraction(1, 1000)  # of MP4's own clock, in which lengths are written
TICK = Fraction(1, 12800)  # seconds


def scenes(count, height=24, width=32, channels=3, dtype=np.uint8):
    """Frames (h, w, c) that differ: a ramp that moves, with a square on it."""
    top = np.iinfo(dtype).max
    rows, columns = np.mgrid[:height, :width]
    for number in range(count):
        planes = [(rows * (3 + c) + columns * (5 - c) + number * 7) % 200 / 255 for c in range(channels)]
        frame = np.stack(planes, 2)
        frame[number % height : number % height + 4, 4:10] = 0.9
        yield (frame * top).astype(dtype)


def irregular(count):
    """Times in ticks with unequal gaps."""
    return np.cumsum([0, *(512 if number % 3 else 1300 for number in range(count - 1))]).tolist()


def write_clip(
    path: Path, frames, times=None, *, codec="libx264", options=None, pixel_format="yuv420p", sound=False, subtitles=(), start=0, **context
):
    """Encode frames, shown at these times (ticks; 25 a second by default); ``context`` sets attributes of the codec's context."""
    frames = list(frames)
    times = times or [number * 512 for number in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or ({"qp": "0"} if codec == "libx264" else {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = TICK
        rotation = context.pop("rotation", None)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if sound:
            voice = container.add_stream("aac", rate=16000, layout="mono")
        if subtitles:
            words = container.add_stream("mov_text" if path.suffix == ".mp4" else "subrip")
            words.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"
        for number, (image, time) in enumerate(zip(frames, times, strict=True)):
            layout = {(1, 1): "gray", (1, 2): "gray16le", (3, 1): "rgb24", (3, 2): "rgb48le"}[image.shape[2], image.itemsize]
            frame = av.VideoFrame.from_ndarray(image[:, :, 0] if image.shape[2] == 1 else image, format=layout)
            if stream.codec_context.color_range:
                frame = frame.reformat(
                    format=pixel_format,
                    dst_colorspace={1: 1, 5: 5, 6: 5}.get(stream.codec_context.colorspace, 5),
                    src_color_range=2,
                    dst_color_range=stream.codec_context.color_range,
                )
            frame.pts, frame.time_base = start + time, TICK
            container.mux(stream.encode(frame))
            if sound:  # a tone, as long as a frame at the usual rate
                samples = np.sin((np.arange(640) + 640 * number) * 0.2)[None].astype(np.float32)
                tone = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                tone.sample_rate, tone.pts = 16000, 640 * number
                container.mux(voice.encode(tone))
        container.mux(stream.encode(None))
        if sound:
            container.mux(voice.encode(None))
        for begin, text in subtitles:
            packet = av.Packet(len(text).to_bytes(2, "big") + text if path.suffix == ".mp4" else text)
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = begin
            packet.duration = 400
            container.mux(packet)
    return path


@dataclass
class Seen:
    """What a player sees: times of frames and the video's length in seconds, frames as RGB, and the packets of the other streams."""

    times: list
    length: object  # None in Matroska
    frames: list
    first: object
    others: dict


def seen(path: Path, layout="rgb24"):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        length = None if stream.duration is None else stream.duration * stream.time_base
        decoded = list(container.decode(stream))
    with av.open(str(path)) as container:
        others = {}
        for packet in container.demux(*container.streams.audio, *container.streams.subtitles):
            if packet.size:
                others.setdefault(packet.stream.type, []).append((packet.pts * packet.time_base, bytes(packet)))
    times = [frame.pts * frame.time_base for frame in decoded]
    return Seen(times, length, [frame.to_ndarray(format=layout) for frame in decoded], decoded[0], others)
