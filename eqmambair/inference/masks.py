"""Labels that one can see: coloured, laid over the picture, as files with a palette."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eqmambair.files import replace_file

Pixels = NDArray[np.uint8]


def coloured(labels: NDArray[np.integer], colours: Pixels) -> Pixels:
    """Labels (h, w) in the colours (classes, 3) of their classes, RGB (h, w, 3); what is no class is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    drawn: Pixels = table[labels]
    return drawn


def overlay(picture: Pixels, labels: NDArray[np.integer], colours: Pixels, opacity: float = 0.5) -> Pixels:
    """A picture (h, w, 3) under its coloured labels; where they are no class it shows through."""
    share = opacity * (labels < len(colours))[:, :, None]
    mixed: Pixels = (picture * (1 - share) + coloured(labels, colours) * share).round().astype(np.uint8)
    return mixed


def write_labels(path: Path, labels: NDArray[np.integer], colours: Pixels) -> None:
    """Write labels (h, w) below 256 as a PNG whose values are the labels and whose palette shows the classes.

    Raises:
        UserError: the file cannot be written.
    """
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette(np.vstack([colours, np.zeros((256 - len(colours), 3), np.uint8)]).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())
