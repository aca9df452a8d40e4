"""What every image classifier of the registry offers, so that dense prediction can stand on any of them."""

from collections.abc import Sequence

from torch import Tensor, nn

from eqmambair.layers.kit import LayerKit


class Classifier(nn.Module):
    """Image to logits by way of stage maps; the base of VMamba, EQVMamba and the other recognition networks.

    A subclass calls ``super().__init__`` first and implements `features` and `classify`. With ``num_classes = 0`` it builds no
    classification head (neither its norm nor its linear layer): that is a backbone, of which only `features` may be called.

    Args:
        in_chans: channels of the image.
        num_classes: logits; 0 for a backbone without head.
        feature_channels: channels of each stage's map, all orientations together; four for pyramids, one for isotropic networks.
        kit: the layers that the maps are made of and for: plain, or of a group (then a map holds ``kit.order`` orientations).

    Raises:
        ValueError: if `in_chans` is below 1 or `num_classes` negative.
    """

    def __init__(self, *, in_chans: int, num_classes: int, feature_channels: Sequence[int], kit: LayerKit) -> None:
        super().__init__()
        if in_chans < 1 or num_classes < 0:
            raise ValueError(
                f"in_chans = {in_chans}, num_classes = {num_classes}: an image has a channel, num_classes is 0 (no head) or more"
            )
        self.in_chans, self.num_classes, self.feature_channels, self.kit = in_chans, num_classes, tuple(feature_channels), kit

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps of the stages, before any output norm.

        Args:
            x: normalised images, (b, in_chans, h, w).

        Returns:
            (b, feature_channels[i], h_i, w_i) for every stage; in a pyramid h_i = ceil(h / 2^(i+2)), the strides 4, 8, 16, 32.
        """
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """The last stage's map (b, c, h, w) -> logits (b, num_classes); exists only with ``num_classes > 0``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (b, in_chans, h, w) -> logits (b, num_classes).

        Raises:
            RuntimeError: the network has no head (``num_classes = 0``).
        """
        if not self.num_classes:
            raise RuntimeError("this network was built without a head (num_classes = 0); call its features()")
        return self.classify(self.features(x)[-1])


class OutputNorms(nn.ModuleDict):
    """One norm for each stage map that a dense-prediction network reads; made of the backbone's own kind of layers.

    Args:
        kit: the backbone's layers.
        channels: channels of every stage's map, all orientations together.
        stages: the stages that are read; None for all. Keys are their numbers.
    """

    def __init__(self, kit: LayerKit, channels: Sequence[int], stages: Sequence[int] | None = None) -> None:
        self.stages = tuple(range(len(channels)) if stages is None else stages)
        super().__init__({str(i): kit.norm(channels[i] // kit.order) for i in self.stages})

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of all stages -> those that are read, (b, c_i, h_i, w_i), each normalised over the channels of a pixel."""
        return [self[str(i)](maps[i]) for i in self.stages]
