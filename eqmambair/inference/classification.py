"""What pictures show: the classes that a network finds in them, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from eqmambair.data.views import Preprocessing
from eqmambair.errors import UserError
from eqmambair.inference.cards import from_card


@dataclass(frozen=True)
class Guess:
    """A class, its number, and how likely the network takes it for, in [0, 1]."""

    name: str
    number: int
    probability: float


class PictureClassifier:
    """Classifies pictures with a network.

    Args:
        network: maps (b, 3, size, size) to logits (b, classes); in evaluation mode.
        preprocessing: the view of a picture that it takes.
        classes: names; numbers if absent.
        device: where the network is.

    Raises:
        UserError: the network is no classifier, or there are not as many names as logits.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, classes: Sequence[str] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.network, self.preprocessing, self.device = network, preprocessing, torch.device(device)
        try:
            logits = self.logits([Image.new("RGB", (preprocessing.size, preprocessing.size))])
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{type(network).__name__} classifies no views of {preprocessing.size} pixels ({reason})") from error
        if logits.dim() != 2:
            raise UserError(f"{type(network).__name__} is no classifier: its output has shape {tuple(logits.shape)}")
        count = int(logits.shape[1])
        self.classes = list(classes) if classes is not None else [str(number) for number in range(count)]
        if len(self.classes) != count:
            raise UserError(f"{type(network).__name__} has {count} classes, but {len(self.classes)} names are given")

    def logits(self, views: Sequence[Image.Image]) -> Tensor:
        """Logits (b, classes) of 8-bit views, each of the size that the network takes."""
        batch = torch.stack([self.preprocessing.normalised(view) for view in views]).to(self.device)
        with torch.no_grad():
            output: Tensor = self.network(batch.contiguous(memory_format=torch.channels_last))
        return output.float()

    def guesses(self, pictures: Sequence[Image.Image], count: int = 5) -> list[list[Guess]]:
        """The ``count`` likeliest classes of each RGB picture, best first."""
        probabilities = self.logits([self.preprocessing.crop(picture) for picture in pictures]).softmax(1)
        best = probabilities.topk(min(count, len(self.classes)), dim=1)
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [[Guess(self.classes[n], n, p) for p, n in zip(values, numbers, strict=True)] for values, numbers in rows]


def preprocessing_of(card: dict[str, Any], **changes: Any) -> Preprocessing:
    """The view that a weight file's card asks for (ImageNet's usual one without), with values of ``changes`` that are not None instead."""
    return from_card(Preprocessing, card, "preprocessing", changes)
