"""Where the paths of option files lead, and how recognition reads pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({' '.join(str(error).split())[:100]})") from None


def open_picture(path: str | Path, decode: bool = True) -> Image.Image:
    """A file as an RGB picture, as classification has always read them: by Pillow, CMYK and palettes converted, orientation tags ignored.

    Args:
        decode: false: only the header is read; the size is known, the pixels are not.

    Raises:
        UserError: it cannot be read; named.
    """
    with opened(path) as picture:
        return picture.convert("RGB") if decode else picture
