"""Decoded frames as arrays and back: upright, RGB or gray, 8 or 16 bit, with the colour tags that players need."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from eqmambair.data.io import Image, upright
from eqmambair.video._pyav import pyav

# FFmpeg's numbers: what a stream's tags say (AVCOL_SPC_*, AVCOL_RANGE_*), and how its converter names the same matrices (SWS_CS_*).
RGB, BT709, UNSPECIFIED, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9
LIMITED, FULL = 1, 2
_CONVERTERS = {BT709: 1, FCC: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020: 9, 10: 9}
_HD_LINES = 720  # untagged pictures of so many lines or more are BT.709, smaller ones BT.601: the rule of most players

# bicubic chroma, both ways at full resolution and with all bits; the converter's defaults save time instead
_QUALITY = 0x4 | 0x40000 | 0x2000 | 0x4000


@dataclass(frozen=True)
class Kind:
    """What all frames of a source share.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        gray: whether there is no colour.
        depth: bits of a sample.
        chroma: "420", "422" or "444": how colour is sampled.
        matrix: AVCOL_SPC_* number; never unspecified.
        range: LIMITED or FULL.
        primaries: AVCOL_PRI_* number.
        transfer: AVCOL_TRC_* number.
        orientation: EXIF number of the turn that makes frames upright; 1 = none.
    """

    width: int
    height: int
    gray: bool = False
    depth: int = 8
    chroma: str = "420"
    matrix: int = BT709
    range: int = LIMITED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    orientation: int = 1


def kind_of(frame: Any) -> Kind:
    """What a decoded frame says of its stream; where it says nothing, what players assume."""
    pixels = frame.format
    gray = pixels.name.startswith(("gray", "ya", "mono"))
    chroma = {(32, 32): "420", (64, 64): "444", (16, 16): "420"}.get((pixels.chroma_width(64), pixels.chroma_height(64)), "422")
    orientation = _orientation(frame)
    width, height = (frame.height, frame.width) if orientation >= 5 else (frame.width, frame.height)
    matrix = int(frame.colorspace)
    if matrix not in _CONVERTERS:
        matrix = BT709 if frame.height >= _HD_LINES else SMPTE170M
    full = int(frame.color_range) == FULL or pixels.name.startswith("yuvj") or pixels.is_rgb
    return Kind(
        width=width,
        height=height,
        gray=gray,
        depth=max(component.bits for component in pixels.components),
        chroma="420" if gray else chroma,
        matrix=matrix,
        range=FULL if full and not pixels.is_rgb else LIMITED,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        orientation=orientation,
    )


class Converter:
    """Frames of one kind as arrays and back.

    Args:
        kind: of the source.
    """

    def __init__(self, kind: Kind) -> None:
        from av.video.reformatter import VideoReformatter

        self.kind = kind
        self._reader, self._writer = VideoReformatter(), VideoReformatter()

    def to_array(self, frame: Any) -> Image:
        """A decoded frame as (h, w, 3) RGB or (h, w, 1), uint8, or uint16 where its samples have more than 8 bits; upright."""
        kind = self.kind
        matrix = _CONVERTERS[kind.matrix]
        # gray values are carried as they are: the network sees the range that the file uses
        range_ = FULL if kind.gray or frame.format.is_rgb else kind.range
        array = self._reader.reformat(
            frame,
            format=_layout(kind.depth > 8, kind.gray),
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=range_,
            dst_color_range=FULL,
            interpolation=_QUALITY,
            threads=1,
        ).to_ndarray()
        return np.ascontiguousarray(upright(array[:, :, None] if array.ndim == 2 else array, kind.orientation))

    def to_frame(self, image: Image, pixel_format: str) -> Any:
        """A frame in a codec's pixel format, with the source's colour tags, from (h, w, 1) or (h, w, 3) uint8 or uint16."""
        gray = image.shape[2] == 1
        matrix = _CONVERTERS[self.kind.matrix]
        pixels = np.ascontiguousarray(image[:, :, 0] if gray else image)
        frame = self._writer.reformat(
            pyav().VideoFrame.from_ndarray(pixels, format=_layout(image.dtype == np.uint16, gray)),
            format=pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL,
            dst_color_range=FULL if gray or holds_rgb(pixel_format) else self.kind.range,
            interpolation=_QUALITY,
            threads=1,
        )
        tag(frame, self.kind, pixel_format)
        return frame


def tag(target: Any, kind: Kind, pixel_format: str) -> None:
    """Write the colour tags of ``kind`` on a frame or a codec's context."""
    rgb = holds_rgb(pixel_format)
    target.colorspace = RGB if rgb else kind.matrix
    target.color_range = FULL if rgb else kind.range
    target.color_primaries = kind.primaries
    target.color_trc = kind.transfer


def holds_rgb(pixel_format: str) -> bool:
    """Whether a pixel format holds red, green and blue."""
    return bool(pyav().VideoFormat(pixel_format, 16, 16).is_rgb)


def _layout(deep: bool, gray: bool) -> str:
    """The pixel format of arrays."""
    return ("gray16le" if deep else "gray") if gray else ("rgb48le" if deep else "rgb24")


def _orientation(frame: Any) -> int:
    """The EXIF number of what the display matrix of a frame asks for; 1 where it asks for nothing, or for no right angle."""
    for data in frame.side_data:
        if data.type.name != "DISPLAYMATRIX":
            continue
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
        if a == d == 0 and b and c:  # transposed, then mirrored where the sign is negative
            return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[(c < 0, b < 0)]
        if b == c == 0 and a and d:
            return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[(a < 0, d < 0)]
    return 1
