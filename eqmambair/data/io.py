"""Image files as arrays and back: RGB order, 8 or 16 bit, nothing converted or dropped unsaid.

OpenCV decodes; what it would change without a word is handled or refused here, by name. Policy:

* Pixels come upright: the EXIF orientation is applied, so an array looks as a viewer shows the file. No tags are written.
* 8 and 16 bit are told apart by the file, never by the pixel values. Other depths (float, 32 bit) are refused.
* Gray stays one channel. Gray with alpha becomes RGBA with three equal colour channels. Palettes and 1-bit images are expanded.
* CMYK, animations, TIFF files of several pages and formats outside `IMAGE_EXTENSIONS` are refused.
* Damaged files are refused where the format can tell. PNG has checksums. A wrong byte inside the data of a complete JPEG, lossy WebP or
  BMP may just change pixels; no decoder can know.
* The reserved fourth byte of plain 32-bit BMP pixels is not alpha (the format says so); a BMP with an alpha mask has alpha.
"""

import io
import os
import struct
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from eqmambair.errors import UserError
from eqmambair.files import replace_file

Image: TypeAlias = NDArray[Any]  # (h, w, c), uint8 or uint16

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
UNREAD_EXTENSIONS = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm")  # pictures all the same
SIXTEEN_BIT_EXTENSIONS = (".png", ".tif", ".tiff")
ALPHA_EXTENSIONS = (".png", ".webp", ".tif", ".tiff", ".bmp")

_ENCODER_OPTIONS = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
}

# OpenCV prints a line of its own for each bad file; the error raised here names the file, which OpenCV's does not. The libraries below it
# (libjpeg, libpng) still print their warnings of corrupt data, also for files that they then decode.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Return the picture in a file as (h, w, c), uint8 or uint16, c = 1 (gray), 3 (RGB) or 4 (RGBA).

    Raises:
        UserError: the file is missing, unreadable, seen to be damaged, or of a kind that the module's policy refuses; it is named.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image:
    """Return the picture that the bytes of a file hold, as `read_image` does; ``name`` is what errors call it."""
    if not data:
        raise UserError(f"{name}: the file is empty")
    orientation, through_pillow = _inspect(data, name)
    pixels = _decode_with_pillow(data, name) if through_pillow else _decode_with_opencv(data, name)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: pixels are {pixels.dtype}; 8 or 16 bit unsigned is needed")
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] not in (1, 3, 4):
        raise UserError(f"{name}: {pixels.shape[2]} channels; 1 (gray), 3 (RGB) or 4 (RGBA) are needed")
    return np.ascontiguousarray(upright(pixels, orientation))


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGBA, uint8 or uint16; the extension tells the format.

    The file appears whole or not at all. JPEG is written with quality 95, WebP without loss (but a gray
    WebP has three equal channels, and the colour of wholly transparent pixels is not kept).

    Raises:
        UserError: unknown extension, a depth or alpha that the format cannot hold, or the file cannot be written.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in IMAGE_EXTENSIONS:
        raise UserError(f"{path}: cannot write {extension or 'a file without extension'}; use one of {', '.join(IMAGE_EXTENSIONS)}")
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels must be uint8 or uint16, not {image.dtype}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or 0 in image.shape:
        raise ValueError(f"an image has shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), not {image.shape}")
    if image.dtype == np.uint16 and extension not in SIXTEEN_BIT_EXTENSIONS:
        raise UserError(f"{path}: {extension} cannot hold 16 bit; use one of {', '.join(SIXTEEN_BIT_EXTENSIONS)}")
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 4 and extension not in ALPHA_EXTENSIONS:
        raise UserError(f"{path}: {extension} cannot hold alpha; use one of {', '.join(ALPHA_EXTENSIONS)}")
    if channels == 4 and extension in (".tif", ".tiff"):
        data = _encode_rgba_tiff(image)
    else:
        planes = image if channels == 1 else np.ascontiguousarray(image[:, :, [2, 1, 0, 3][:channels]])
        try:
            written, buffer = cv2.imencode(extension, planes, _ENCODER_OPTIONS.get(extension, []))
        except cv2.error as error:
            raise UserError(f"{path}: cannot be encoded ({_reason(error)})") from error
        if not written:
            raise UserError(f"{path}: cannot be encoded as {extension} (size {image.shape[1]}x{image.shape[0]})")
        data = buffer.tobytes()
    replace_file(path, data)


def to_float(image: Image) -> NDArray[np.float32]:
    """Return the pixels as float32 in [0, 1]; the depth is taken from the dtype."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"pixels must be uint8 or uint16, not {image.dtype}")
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def list_images(folder: str | os.PathLike[str], recursive: bool = False, extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[Path]:
    """Return the files with one of the (lower-case) extensions in a folder, sorted; hidden files and folders are left out.

    Raises:
        UserError: the folder is missing, is no folder, or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    try:
        candidates = folder.rglob("*") if recursive else folder.iterdir()
        found = [
            path
            for path in candidates
            if path.suffix.lower() in extensions
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        ]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    return sorted(found)


def upright(pixels: Image, orientation: int) -> Image:
    """Undo an EXIF orientation. Bits of the tag minus one, from 5 on: transposed; then left-right and top-bottom mirrors."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _inspect(data: bytes, name: str) -> tuple[int, bool]:
    """Return the EXIF orientation still to be applied (1 = none), and whether Pillow must decode; refuse what no one decodes right."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if b"acTL" in data[: max(data.find(b"IDAT"), 0)]:
            raise UserError(f"{name}: an animated PNG; extract its frames first")
        gray_with_transparent_value = data[25:26] == b"\x00" and b"tRNS" in data[: max(data.find(b"IDAT"), 0)]
        return _orientation(data, data.find(b"eXIf") + 4), gray_with_transparent_value
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data, name)
        return _orientation(data, data.find(b"Exif\0\0", 0, 1 << 17) + 6), False
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if data[12:16] == b"VP8X" and data[20] & 2:
            raise UserError(f"{name}: an animated WebP; extract its frames first")
        start = data.find(b"EXIF") + 8
        return _orientation(data, start + 6 if data[start : start + 6] == b"Exif\0\0" else start), False
    if data[:4] in (b"II*\0", b"MM\0*"):
        return 1, _inspect_tiff(data, name)
    if data[:2] == b"BM":
        return 1, False
    known = {b"GIF8": "a GIF", b"II+\0": "a BigTIFF", b"MM\0+": "a BigTIFF"}
    kind = f"is {known[data[:4]]}" if data[:4] in known else "is not an image, or is damaged"
    raise UserError(f"{name}: {kind}; PNG, JPEG, WebP, TIFF and BMP are read")


def _check_jpeg(data: bytes, name: str) -> None:
    """Refuse CMYK, and files cut off before the end mark (some OpenCV releases fill the missing part with gray)."""
    # Inside scan data 0xFF is always followed by 0x00 or a restart mark, so that both marks below are found as what they are.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise UserError(f"{name}: the JPEG is cut off")
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            if data[at + 9] == 4:
                raise UserError(f"{name}: a CMYK JPEG; convert it to RGB first")
            return
        at += 2 + length


def _tiff_tags(data: bytes, start: int) -> tuple[dict[int, int], int]:
    """Return the first value of each integer tag of the first directory of a TIFF block, and the offset of the next directory."""
    order = "<" if data[start : start + 2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", data, start + 4)
        (count,) = struct.unpack_from(order + "H", data, start + directory)
        tags = {}
        for entry in range(start + directory + 2, start + directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
            if kind not in (3, 4):
                continue
            width = 2 if kind == 3 else 4
            at = entry + 8 if width * values <= 4 else start + struct.unpack_from(order + "I", data, entry + 8)[0]
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at)
        (following,) = struct.unpack_from(order + "I", data, start + directory + 2 + 12 * count)
    except struct.error:
        return {}, 0
    return tags, following


def _orientation(data: bytes, start: int) -> int:
    """Return the EXIF orientation (1 to 8) of the TIFF block at ``start``; 1 where there is none."""
    if data[start : start + 4] not in (b"II*\0", b"MM\0*"):
        return 1
    value = _tiff_tags(data, start)[0].get(274, 1)
    return value if 1 <= value <= 8 else 1


def _inspect_tiff(data: bytes, name: str) -> bool:
    """Refuse what is decoded wrongly; return whether Pillow must decode (OpenCV multiplies 8-bit colours by alpha)."""
    tags, following = _tiff_tags(data, 0)
    if not tags:
        raise UserError(f"{name}: the TIFF is damaged")
    bits, photometric, samples = tags.get(258, 1), tags.get(262, 1), tags.get(277, 1)
    if following:
        raise UserError(f"{name}: a TIFF of several pages; split it first")
    if tags.get(339, 1) != 1 or bits not in (1, 4, 8, 16):
        raise UserError(f"{name}: pixels are not 8 or 16 bit unsigned integers")
    if photometric not in (0, 1, 2, 3, 6) or (bits == 16 and photometric not in (1, 2)):
        raise UserError(f"{name}: a TIFF whose colours are neither gray, RGB, YCbCr nor a palette; convert it first")
    if tags.get(284, 1) != 1 and samples > 1:
        raise UserError(f"{name}: a TIFF with separate colour planes; convert it to interleaved pixels first")
    colours = 3 if photometric in (2, 6) else 1
    if samples - colours not in (0, 1) or (bits == 16 and colours == 1 and samples == 2):
        raise UserError(f"{name}: a TIFF of {samples} samples a pixel; gray, RGB or RGBA is needed")
    return bits == 8 and samples == colours + 1


def _decode_with_opencv(data: bytes, name: str) -> Image:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{name}: cannot be decoded ({_reason(error)})") from error
    if pixels is None:
        raise UserError(f"{name}: cannot be decoded; the file is damaged or cut off")
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels


def _decode_with_pillow(data: bytes, name: str) -> NDArray[np.uint8]:
    from PIL import Image as PillowImage
    from PIL import ImageOps

    try:
        with PillowImage.open(io.BytesIO(data)) as picture:
            if picture.mode.startswith("I"):
                raise UserError(f"{name}: 16-bit gray with one transparent value; convert it to gray with alpha first")
            tiff = picture.format == "TIFF"
            return np.asarray((ImageOps.exif_transpose(picture) if tiff else picture).convert("RGBA"))
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise UserError(f"{name}: cannot be decoded ({error})") from error


def _encode_rgba_tiff(image: Image) -> bytes:
    """OpenCV leaves out the tag that says what the fourth sample is; other programs then do not see alpha."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, photometric="rgb", extrasamples=["unassalpha"], compression="zlib", metadata=None)
    return buffer.getvalue()


def _reason(error: cv2.error) -> str:
    """The last part of OpenCV's message, on one line."""
    return " ".join(str(error.err or error).split())
