"""The exponential moving average of a network: parameters averaged, buffers too where they are fractions."""

import copy

import torch
from torch import nn


class MovingAverage:
    """Holds a second network, averaged over the steps.

    Args:
        network: what is averaged; the average starts as its copy.
        decay: share of the old average that stays at each step, [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network by one step. Whole-number buffers are copied."""
        for mine, theirs in zip(self._tensors(self.network), self._tensors(network), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine.dtype), 1 - self.decay)
            else:
                mine.copy_(theirs)

    @staticmethod
    def _tensors(network: nn.Module) -> list[torch.Tensor]:
        return [*network.parameters(), *network.buffers()]
