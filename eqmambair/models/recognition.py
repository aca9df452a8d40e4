"""What classification and segmentation ask of a network and of the classes of its data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from eqmambair.errors import UserError
from eqmambair.models.building import check_channels, described


def check_fit(network: nn.Module, options: Mapping[str, Any], kind: str, classes: Sequence[str], others: Sequence[str] | None) -> None:
    """Whether a network can be trained or tested on a data set, together with another one.

    Args:
        network: what gives the logits.
        options: what it was built from.
        kind: type of the data set, for messages.
        classes: names of its classes, in the order of their numbers.
        others: those of the data set that was built before, if there was one.

    Raises:
        UserError: the network takes other pictures than RGB or has another number of classes, or the sets differ in theirs.
    """
    check_channels(network, options, kind, 3)
    logits = getattr(network, "num_classes", len(classes))
    if len(classes) != logits:
        raise UserError(f"datasets: {kind} has {len(classes)} classes, the network {logits} (network_g.num_classes)")
    if others is not None and list(others) != list(classes):
        if len(others) != len(classes):
            raise UserError(f"datasets: training and validation have {len(others)} and {len(classes)} classes")
        one, other = next(pair for pair in zip(others, classes, strict=True) if pair[0] != pair[1])
        raise UserError(f"datasets: training and validation differ in their classes ({one} and {other} have the same number)")


def checked_logits(output: Any, axes: int, classes: int, name: str) -> Tensor:
    """The output of a network as float32, if it is logits.

    Args:
        output: what it gave.
        axes: 2 for (b, classes), 4 for (b, classes, h, w).
        classes: how many there are.
        name: of the network, for the message.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(output, Tensor) or output.dim() != axes or output.shape[1] != classes:
        wanted = f"(batch, {classes})" if axes == 2 else f"(batch, {classes}, height, width)"
        raise UserError(f"network_g: {name} gives {described(output)}, not logits of shape {wanted}")
    return output.float()


def distinct(names: Sequence[str]) -> list[str]:
    """Names of classes for tables: those that several classes have (ImageNet's two cranes) with the number of their class."""
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)]
