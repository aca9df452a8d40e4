"""What pictures hold: boxes, classes, scores and masks of the things that a network finds, drawn, and as COCO writes results."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from eqmambair.errors import UserError
from eqmambair.metrics.detection import run_lengths

_READABLE = 256  # pixels of the shorter side from which on names can be read
_WIDTH = 300  # pixels of the shorter side for each pixel that outlines are wide


@dataclass(frozen=True)
class Found:
    """What a network found in a picture, best first.

    Attributes:
        boxes: (n, 4) as x0, y0, x1, y1 in pixels, float32.
        labels: (n,), from 1.
        scores: (n,), in [0, 1].
        masks: (n, h, w), bool.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor

    @classmethod
    def of(cls, output: dict[str, Tensor], score: float = 0.0) -> "Found":
        """What a detector says of a picture, on the CPU, without what it is less sure of than `score`."""
        sure = output["scores"] >= score
        masks = (output["masks"][sure][:, 0] > 0.5).cpu()
        return cls(output["boxes"][sure].float().cpu(), output["labels"][sure].cpu(), output["scores"][sure].float().cpu(), masks)

    def results(self, image_id: int | str, categories: Sequence[int]) -> list[dict[str, Any]]:
        """The entries of a COCO result file: image_id, category_id, bbox (x, y, width, height), score, segmentation (run lengths).

        Args:
            image_id: what the annotation file calls the picture.
            categories: what it calls the classes, in the order of the labels.
        """
        entries = []
        for (x0, y0, x1, y1), label, score, runs in zip(
            self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), run_lengths(self.masks), strict=True
        ):
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": categories[label - 1],
                    "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
                    "score": round(score, 5),
                    "segmentation": {"size": list(runs["size"]), "counts": runs["counts"].decode()},
                }
            )
        return entries

    def drawn(self, picture: Tensor, classes: Sequence[str], opacity: float = 0.5) -> NDArray[np.uint8]:
        """The picture with masks, boxes, names and scores in it, each class in its colour.

        Args:
            picture: RGB, uint8 (3, h, w).
            classes: names, in the order of the labels.
            opacity: of the masks over the picture, in [0, 1].

        Returns:
            (k*h, k*w, 3): a small picture is enlarged k times, so that names can be read.
        """
        side = min(picture.shape[1:])
        factor = max(1, _READABLE // side)
        picture, masks = (x.repeat_interleave(factor, -1).repeat_interleave(factor, -2) for x in (picture.cpu(), self.masks))
        if len(self.labels):
            colours = [_colour(label) for label in self.labels.tolist()]
            layer = picture.float()
            for mask, colour in reversed(list(zip(masks, colours, strict=True))):  # the best is painted last
                layer[:, mask] = torch.tensor(colour, dtype=layer.dtype)[:, None]
            picture = torch.lerp(picture.float(), layer, opacity).round().to(torch.uint8)
            names = [f"{classes[label - 1]} {score:.2f}" for label, score in zip(self.labels.tolist(), self.scores.tolist(), strict=True)]
            width = max(1, side * factor // _WIDTH)
            picture = draw_bounding_boxes(picture, self.boxes * factor, names, colors=list(colours), width=width)
        pixels: NDArray[np.uint8] = picture.permute(1, 2, 0).contiguous().numpy()
        return pixels


def _colour(label: int) -> tuple[int, int, int]:
    """A bright colour for each class; steps of the golden section keep neighbours apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class Detector:
    """Finds things in pictures with a network.

    Args:
        network: maps a list of pictures (3, h, w) in [0, 1] to what is in each: boxes, labels, scores, masks; in evaluation mode.
        device: where the network is.

    Raises:
        UserError: the network is no detector.
    """

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        self.network, self.device = network, torch.device(device)
        try:
            self.found(torch.zeros(3, 32, 32, dtype=torch.uint8))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())[:100]
            raise UserError(f"{type(network).__name__} does not find things in pictures ({said})") from error

    def found(self, picture: Tensor, score: float = 0.0) -> Found:
        """What is in a picture, RGB uint8 (3, h, w), with a score of at least `score`."""
        with torch.no_grad():
            (output,) = self.network([picture.to(self.device).float() / 255])
        return Found.of(output, score)
