"""One picture that shows several results side by side, with an enlarged detail under each."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from eqmambair.data.io import Image

_MARGIN, _LABEL = 8, 26  # pixels
_RED = (220, 30, 30)


def telling_box(worse: Image, better: Image, truth: Image, side: int) -> tuple[int, int]:
    """Return the upper left corner (top, left) of the side x side window in which ``better`` gains most over ``worse``."""
    first, second = (((picture.astype(np.float64) - truth) ** 2).mean(2) for picture in (worse, better))
    error = first - second
    sums = cv2.boxFilter(error, -1, (side, side), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
    inside = sums[: max(error.shape[0] - side + 1, 1), : max(error.shape[1] - side + 1, 1)]
    top, left = np.unravel_index(np.argmax(inside), inside.shape)
    return int(top), int(left)


def comparison(panels: Sequence[tuple[str, NDArray[np.uint8]]], corner: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """Return one RGB picture: each panel with its title, the detail marked in red, and the detail enlarged below.

    Args:
        panels: titles and pictures (h, w, 3) uint8, all of one size.
        corner: top and left of the detail.
        side: of the detail, in pixels.
    """
    width = panels[0][1].shape[1]
    top, left = corner
    columns = []
    for title, picture in panels:
        marked = picture.copy()
        cv2.rectangle(marked, (left, top), (left + side - 1, top + side - 1), _RED, 2)
        detail = picture[top : top + side, left : left + side]
        enlarged = cv2.resize(detail, (width, width * detail.shape[0] // detail.shape[1]), interpolation=cv2.INTER_NEAREST)
        label = np.full((_LABEL, width, 3), 255, np.uint8)
        cv2.putText(label, title, (4, _LABEL - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        gap = np.full((_MARGIN, width, 3), 255, np.uint8)
        columns.append(np.concatenate([label, marked, gap, enlarged], axis=0))
    between = np.full((columns[0].shape[0], _MARGIN, 3), 255, np.uint8)
    row = [columns[0]]
    for column in columns[1:]:
        row += [between, column]
    return np.concatenate(row, axis=1)
