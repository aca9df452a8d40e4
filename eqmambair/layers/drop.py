"""Stochastic depth whose every draw commutes with a group."""

import torch
from torch import Tensor, nn

from eqmambair.groups import Group


class FieldDropout(nn.Module):
    """Drop single entries of a feature map, the same ones in every orientation and in places that the group exchanges. Off in evaluation.

    This is the drop that the published EQ code trains with, for any size: on an oblong map the mask is symmetric under those elements that
    keep its shape. Kept entries are divided by the probability to keep.

    Args:
        group: what each draw commutes with.
        rate: probability to drop, in [0, 1).
        whole_batch: draw one mask for all samples, as the published code does, instead of one for each.
    """

    def __init__(self, group: Group, rate: float, whole_batch: bool = False) -> None:
        super().__init__()
        self.group, self.rate, self.whole_batch = group, rate, whole_batch

    def forward(self, x: Tensor) -> Tensor:
        """(b, t*c, h, w) -> (b, t*c, h, w)."""
        if not self.training or self.rate == 0:
            return x
        b, channels, h, w = x.shape
        draws = 1 if self.whole_batch else b
        keep = torch.empty(draws, channels // self.group.order, h * w, device=x.device, dtype=x.dtype).bernoulli_(1 - self.rate)
        mask = keep[:, :, self.group.orbit(h, w, x.device)] / (1 - self.rate)  # (b, c, h, w)
        return x * mask.repeat(1, self.group.order, 1, 1)

    def extra_repr(self) -> str:
        return f"group={self.group.name}, rate={self.rate}"
