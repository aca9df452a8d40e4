"""Channel attention, from whichever linear layer it is given: plain or group."""

import torch
from torch import Tensor, nn

from eqmambair.layers.views import positive_width


class ChannelAttention(nn.Module):
    """Scale every channel by what the means of all channels say: ``y = sigmoid(expand(relu(squeeze(mean(x))))) * x``.

    Commutes with a group when its linear layers do. Source: RCAN (Zhang et al. 2018), section 3.3; the group form is the
    EQ-channel-attention of arXiv 2603.09138.

    Args:
        squeeze, expand: linear layers from the channels to the hidden width and back.
    """

    def __init__(self, squeeze: nn.Module, expand: nn.Module) -> None:
        super().__init__()
        self.squeeze, self.expand = squeeze, expand

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w); `skip`, which no one else reads, is added."""
        hidden = self.squeeze(x.mean((2, 3))).relu()
        factors = self.expand(hidden).sigmoid()[:, :, None, None]
        if skip is None:
            return x * factors
        return skip + x * factors if torch.is_grad_enabled() else skip.addcmul_(x, factors)


def squeeze_width(embed_dim: int) -> int:
    """Hidden width of the attention: embed_dim // 30, counted in channels by MambaIR and in fields by EQ-MambaIR.

    Raises:
        ValueError: if `embed_dim` is below 30.
    """
    return positive_width(embed_dim // 30, name="the channel attention", rule="embed_dim // 30")
