"""What a network gives, as far as it can be measured."""

from torch import Tensor, nn

from eqmambair.errors import UserError


def tensor_of(model: nn.Module, x: Tensor) -> Tensor:
    """The network's output.

    Raises:
        UserError: it is no tensor, as with detectors, whose boxes are lists.
    """
    y = model(x)
    if not isinstance(y, Tensor):
        raise UserError(f"{type(model).__name__} gives objects that it finds, no picture and no scores; this cannot be measured on it")
    return y


def picture_of(model: nn.Module, x: Tensor) -> Tensor:
    """The network's output, (b, c, h, w).

    Raises:
        UserError: it has no pixels.
    """
    y = tensor_of(model, x)
    if y.dim() != 4:
        raise UserError(f"{type(model).__name__} gives no picture, its output has shape {tuple(y.shape)}; this needs pixels")
    return y
