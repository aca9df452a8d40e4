"""One memory seen two ways: pixels (b, c, h, w) in channels_last order are tokens (b, h*w, c) without a copy."""

from torch import Tensor


def to_tokens(pixels: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h*w, c), rows first; a view when the input lies in channels_last memory."""
    return pixels.permute(0, 2, 3, 1).flatten(1, 2)


def to_pixels(tokens: Tensor, height: int, width: int) -> Tensor:
    """(b, h*w, c) -> (b, c, h, w) in channels_last memory; a view of contiguous tokens."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def channels_last_axis(pixels: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h, w, c), always a view: for functions that want the channels last."""
    return pixels.permute(0, 2, 3, 1)


def channels_first_axis(features: Tensor) -> Tensor:
    """(b, h, w, c) -> (b, c, h, w), always a view: undoes `channels_last_axis`."""
    return features.permute(0, 3, 1, 2)


def divide_exactly(value: int, *, by: int, name: str) -> int:
    """value / by.

    Raises:
        ValueError: if it leaves a remainder; the message names the argument and the rule.
    """
    if value % by:
        raise ValueError(f"{name} = {value}: must be a multiple of {by}")
    return value // by


def positive_width(value: int, *, name: str, rule: str) -> int:
    """value, if a layer of that width exists.

    Raises:
        ValueError: if it is below one; the message names the width and the rule that produced it.
    """
    if value < 1:
        raise ValueError(f"{name} would be {value} wide ({rule}); choose a larger embed_dim")
    return value
