"""How results are encoded: containers, codecs, their quality, and the pixel format that fits a source and a codec."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from eqmambair.errors import UserError
from eqmambair.video._pyav import one_line, pyav
from eqmambair.video.pixels import Kind, tag

#: Extensions of the files that are read as videos.
VIDEO_EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mxf",
)  # fmt: skip
#: Those that are written, and what FFmpeg calls them: formats that keep every frame's own time.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
WRITTEN_EXTENSIONS = tuple(CONTAINERS)

# Constant quality, the same to the eye: about that of a good original.
_QUALITY = {"libx264": 16, "libx265": 18, "libvpx-vp9": 22, "libsvtav1": 22}
_MOST_FRAMES_A_SECOND = 500  # that the encoder is told; parts are kept in a format that counts milliseconds


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded.

    Attributes:
        codec: FFmpeg's name of the encoder; None: libx264, and libvpx-vp9 for .webm.
        crf: constant quality, lower is better; None: 16 for libx264, 18 for libx265, 22 for libvpx-vp9 and libsvtav1, else the codec's own.
        pixel_format: FFmpeg's name; None: as the source's in sampling of colours, and in depth up to 10 bit.
        options: of the encoder, by FFmpeg's names.
    """

    codec: str | None = None
    crf: int | None = None
    pixel_format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def codec_for(self, target: Path) -> str:
        """The encoder for a file of this extension."""
        return self.codec or ("libvpx-vp9" if target.suffix.lower() == ".webm" else "libx264")

    def encoder_options(self, codec: str) -> dict[str, str]:
        """What the encoder is told."""
        crf = _QUALITY.get(codec) if self.crf is None else self.crf
        named = {} if crf is None or {"qp", "crf", "lossless", "b"} & set(self.options) else {"crf": str(crf)}
        return {**named, **self.options}


def check_codec(codec: str) -> Any:
    """PyAV's description of an encoder for video.

    Raises:
        UserError: PyAV comes without it, or it encodes something else.
    """
    av = pyav()
    try:
        found = av.Codec(codec, "w")
    except (ValueError, LookupError, av.FFmpegError) as error:
        here = [name for name in (*_QUALITY, "ffv1", "mpeg4") if name in av.codecs_available]
        raise UserError(f"PyAV has no encoder {codec!r} here; give --video_codec one of {', '.join(here)}") from error
    if found.type != "video":
        raise UserError(f"{codec} encodes {found.type}, not video; give another --video_codec")
    return found


def pixel_format(encoding: Encoding, codec: str, kind: Kind, width: int, height: int) -> str:
    """The pixel format of the result: that of the options, else the nearest to the source that the codec takes.

    Colours at half resolution need even sides; odd ones get full resolution, so that no row or column is lost or invented.

    Raises:
        UserError: the codec takes none that would do.
    """
    known = [each.name for each in check_codec(codec).video_formats or []]
    if encoding.pixel_format is not None:
        if encoding.pixel_format not in known:
            raise UserError(f"{codec} takes no pixel format {encoding.pixel_format!r}; it takes {', '.join(known)}")
        return encoding.pixel_format
    fits = {"420": width % 2 == 0 and height % 2 == 0, "422": width % 2 == 0, "444": True}
    samplings = [each for each in ("420", "422", "444") if each >= kind.chroma and fits[each]]
    depths = ["10le", ""] if kind.depth > 8 else [""]
    for sampling in [*samplings, *(["420"] if fits["420"] else [])]:
        for depth in depths:
            if (name := f"yuv{sampling}p{depth}") in known:
                return name
    raise UserError(f"{codec} cannot hold frames of {width}x{height} pixels; give --video_codec libx264, or --pixel_format")


@dataclass(frozen=True)
class Form:
    """What frames of a result are and how they are encoded.

    Attributes:
        codec: from `Encoding.codec_for`.
        options: from `Encoding.encoder_options`.
        pixel_format: from `pixel_format`.
        width: pixels.
        height: pixels.
        kind: of the source, for its colour tags.
        rate: frames a second, which encoders use to spread bits.
        aspect: width over height of a pixel; None where the source does not say.
    """

    codec: str
    options: dict[str, str]
    pixel_format: str
    width: int
    height: int
    kind: Kind
    rate: Fraction
    aspect: Fraction | None

    def add_stream(self, container: Any) -> Any:
        """Add the stream that encodes frames, counted from 0, to an output container of PyAV's.

        Raises:
            UserError: the encoder does not take the options.
        """
        rate = min(self.rate, Fraction(_MOST_FRAMES_A_SECOND))
        with one_line(f"the encoder {self.codec} does not start with these options", ValueError):
            stream = container.add_stream(self.codec, rate=rate, options=self.options)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
            context = stream.codec_context
            context.time_base = 1 / rate
            if self.aspect:
                context.sample_aspect_ratio = self.aspect
            tag(context, self.kind, self.pixel_format)
        return stream
