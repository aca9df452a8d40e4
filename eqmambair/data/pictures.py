"""Where the paths of option files lead, and how recognition reads pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from eqmambair.errors import UserError


def absolute(root: Path | None, path: str) -> Path:
    """A path with ``~`` expanded, relative ones taken from ``root`` (None: the current folder)."""
    expanded = Path(path).expanduser()
    return expanded if expanded.is_absolute() else (root or Path.cwd()) / expanded


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """A file as Pillow opens it, to be decoded inside ``with``.

    Raises:
        UserError: it cannot be read; named.
    """
    try:
        with Image.open(path) as picture:
            yield picture
    except UserError:  # is a ValueError, and says all already
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({' '.join(str(error).split())[:100]})") from None


def open_picture(path: str | Path, decode: bool = True, upright: bool = False) -> Image.Image:
    """A file as an RGB picture, as classification has always read them: by Pillow, CMYK and palettes converted, alpha dropped.

    Gray of 16 bit is brought to 8, which Pillow by itself would cut off at 255.

    Args:
        decode: false: only the header is read; the size is known, the pixels are not.
        upright: apply the EXIF orientation, as viewers do; published data sets are read without.

    Raises:
        UserError: it cannot be read, or has pixels of 32 bit; named.
    """
    with opened(path) as picture:
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):  # PNG has 16 bit at most
            raise UserError(f"{path}: has pixels of 32 bit; 8 or 16 are read")
        if not decode:
            return picture
        seen = ImageOps.exif_transpose(picture) if upright else picture
        if seen.mode.startswith("I"):
            seen = Image.fromarray(((np.asarray(seen).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
        return seen.convert("RGB")
