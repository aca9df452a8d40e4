"""Turn a trained equivariant network into an ordinary one with the same output."""

import copy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def fold(network: Network, keep: tuple[type[nn.Module], ...] = ()) -> Network:
    """A copy of `network` in which every equivariant layer is the plain convolution, linear layer or norm that it amounts to.

    The copy computes the same output (up to rounding) with no group code left; it is for inference and export, and its keys are no
    longer those of a checkpoint. A network without equivariant layers comes back as a plain copy.

    Args:
        network: any module; left as it is.
        keep: classes of layers to leave as they are.

    Returns:
        The folded copy, in evaluation mode.
    """
    folded = copy.deepcopy(network).eval()
    _fold_children(folded, keep)
    return folded


def _fold_children(module: nn.Module, keep: tuple[type[nn.Module], ...]) -> None:
    for name, child in module.named_children():
        own_fold = getattr(child, "fold", None)
        if isinstance(child, keep):
            continue
        if callable(own_fold):
            setattr(module, name, own_fold())
        else:
            _fold_children(child, keep)
