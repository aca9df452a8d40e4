"""Labels of every pixel of a picture: resized, whole or in windows, at several scales, mirrored, turned; at the picture's own size."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from eqmambair.data.joint_views import fitted, resized
from eqmambair.data.views import IMAGENET_MEAN, IMAGENET_STD, check_colours
from eqmambair.errors import UserError
from eqmambair.inference.cards import from_card


@dataclass(frozen=True)
class Protocol:
    """How a segmentation network is tested.

    Args:
        resize: long and short side that pictures are fitted into, without a change of aspect; None: their own size.
        mean: of each channel, in [0, 1].
        std: of each channel.
        mode: ``whole`` picture at once, or overlapping windows (``slide``) whose logits are averaged.
        window: height and width of the windows.
        stride: steps between windows, down and right.
        ratios: factors of the size; with more than one, or mirrored, probabilities are averaged.
        flip: also the left-right mirror image of every size.
        pad_multiple: fill pictures up with zeros, right and below, to multiples of it; the rest is cut off again. With 32 and
            networks that are equivariant for such sizes only, turned pictures give turned labels.

    Raises:
        UserError: a value is impossible.
    """

    resize: tuple[int, int] | None = None
    mean: Sequence[float] = field(default=IMAGENET_MEAN)
    std: Sequence[float] = field(default=IMAGENET_STD)
    mode: Literal["whole", "slide"] = "whole"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    ratios: Sequence[float] = (1.0,)
    flip: bool = False
    pad_multiple: int | None = None

    def __post_init__(self) -> None:
        check_colours(self.mean, self.std)
        if min(*self.window, *self.stride) < 1 or any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise UserError(f"windows {self.window} with stride {self.stride}: the stride must lie between 1 and the window's side")
        if not self.ratios or not all(0 < ratio < math.inf for ratio in self.ratios):
            raise UserError(f"ratios must be positive, found {list(self.ratios)}")
        if self.resize is not None and min(self.resize) < 1:
            raise UserError(f"resize must be positive, found {self.resize}")
        if self.pad_multiple is not None and self.pad_multiple < 1:
            raise UserError(f"pad_multiple must be positive, found {self.pad_multiple}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be kept with weights."""
        return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in asdict(self).items()}


class Segmenter:
    """Segments pictures with a network by a protocol.

    Args:
        network: maps normalised images (b, 3, h, w) to logits (b, classes, h', w') of any size; in evaluation mode.
        protocol: how.
        device: where the network is.
    """

    def __init__(self, network: nn.Module, protocol: Protocol, device: torch.device | str = "cpu") -> None:
        self.network, self.protocol, self.device = network, protocol, torch.device(device)

    @torch.no_grad()
    def classes(self) -> int:
        """How many classes the network tells apart, found by trying it on a small picture.

        Raises:
            UserError: it does not segment pictures.
        """
        name = type(self.network).__name__
        try:
            return int(self._whole(torch.zeros(3, 32, 32, device=self.device)).shape[0])
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{name} does not segment pictures ({' '.join(str(error).split())[:100]})") from error

    @torch.no_grad()
    def scores(self, picture: Tensor, turns: int = 0) -> Tensor:
        """How well each class fits each pixel.

        Args:
            picture: uint8, (3, h, w).
            turns: counter-clockwise quarter turns of what the network sees, after resizing and padding; its logits are turned back.

        Returns:
            (classes, h, w): logits, or mean probabilities where several sizes or mirror images are looked at.
        """
        p = self.protocol
        height, width = int(picture.shape[-2]), int(picture.shape[-1])
        views = [(ratio, mirrored) for ratio in p.ratios for mirrored in ((False, True) if p.flip else (False,))]
        total: Tensor | None = None
        for ratio, mirrored in views:
            scale = p.resize if p.resize is not None else (max(height, width), min(height, width))
            size = fitted((height, width), (max(int(scale[0] * ratio), 1), max(int(scale[1] * ratio), 1)))
            seen = resized(picture, size).to(self.device)
            image = T.normalize_image(T.to_dtype_image(seen, torch.float32, scale=True), list(p.mean), list(p.std))
            logits = self._logits(image.flip(-1) if mirrored else image, turns)
            logits = _resized(logits.flip(-1) if mirrored else logits, (height, width))
            view = logits.softmax(0) if len(views) > 1 else logits
            total = view if total is None else total + view
        assert total is not None
        return total / len(views)

    def labels(self, picture: Tensor, turns: int = 0) -> Tensor:
        """The class of each pixel, int64 (h, w); arguments as of `scores`."""
        return self.scores(picture, turns).argmax(0)

    def _logits(self, image: Tensor, turns: int) -> Tensor:
        """Logits of a normalised image (3, h, w) at its own size, (classes, h, w)."""
        height, width = int(image.shape[-2]), int(image.shape[-1])
        multiple = self.protocol.pad_multiple or 1
        canvas = F.pad(image, (0, -width % multiple, 0, -height % multiple))
        turned = torch.rot90(canvas, turns, (-2, -1))
        logits = self._whole(turned) if self.protocol.mode == "whole" else self._windows(turned)
        return torch.rot90(logits, -turns, (-2, -1))[:, :height, :width]

    def _whole(self, image: Tensor) -> Tensor:
        output = self.network(image[None].contiguous(memory_format=torch.channels_last))
        if not isinstance(output, Tensor) or output.dim() != 4:
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"the type {type(output).__name__}"
            raise UserError(
                f"{type(self.network).__name__} does not segment pictures: its output has {found}, logits of pixels have four axes"
            )
        return _resized(output[0].float(), (int(image.shape[-2]), int(image.shape[-1])))

    def _windows(self, image: Tensor) -> Tensor:
        p = self.protocol
        height, width = int(image.shape[-2]), int(image.shape[-1])
        total: Tensor | None = None
        count = image.new_zeros(1, height, width)
        for top in _starts(height, p.window[0], p.stride[0]):
            for left in _starts(width, p.window[1], p.stride[1]):
                rows, columns = slice(top, top + p.window[0]), slice(left, left + p.window[1])
                logits = self._whole(image[:, rows, columns])
                total = logits.new_zeros(logits.shape[0], height, width) if total is None else total
                total[:, rows, columns] += logits
                count[:, rows, columns] += 1
        assert total is not None
        return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin; the last one ends at the border."""
    last = max(length - window, 0)
    return [min(start, last) for start in range(0, last + stride, stride)] if last else [0]


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def protocol_of(card: dict[str, Any], **changes: Any) -> Protocol:
    """The protocol that a weight file's card asks for (whole pictures at their own size without), with ``changes`` that are not None."""
    return from_card(Protocol, card, "protocol", changes)
