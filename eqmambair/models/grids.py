"""Pictures that let one see at a glance what a network does."""

import numpy as np


def comparison(lq: np.ndarray, restored: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """Input (enlarged to the result's size), result, truth and four times their difference, side by side; uint8 RGB (h, w, 3)."""
    restored, lq = _rgb(restored), _rgb(lq)
    factor = max(restored.shape[0] // max(lq.shape[0], 1), 1)
    panels = [lq.repeat(factor, 0).repeat(factor, 1)[: restored.shape[0], : restored.shape[1]], restored]
    if truth is not None:
        truth = _rgb(truth)
        difference = np.abs(truth.astype(np.int16) - restored.astype(np.int16))
        panels += [truth, np.clip(difference * 4, 0, 255).astype(np.uint8)]
    return np.concatenate(panels, axis=1)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
