"""Self-attention inside windows, plain and shifted, with a learned bias for every relative position.

Source: Swin Transformer (Liu et al. 2021), section 3.2; MambaIRv2 (arXiv 2411.15269). The published code rolls the map, cuts windows of one
size and masks what does not belong together. What a mask leaves is again windows: smaller ones at the borders. They are cut directly here,
so there is neither a roll, nor a mask, nor work on masked pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.linear import small_linear
from eqmambair.layers.views import channels_first_axis, channels_last_axis, divide_exactly


class WindowAttention(nn.Module):
    """Multi-head attention of every pixel to its window; (b, c_in, h, w) to (b, c, h, w), h and w multiples of the window.

    Shifted windows begin at half a window; what they leave at the borders are windows of their own, half a window (rounded down) wide at
    the top and left, the rest at the bottom and right.

    Args:
        channels_in: width of the map.
        channels: width of queries, keys, values and the result; a multiple of `heads`.
        heads: attention heads.
        window: side of a window, in pixels.
        shifted: whether windows are shifted.
        shift_single: whether a shift also cuts a map that is one window wide. The published code does so.
        qkv_bias: whether queries, keys and values have a bias.

    Raises:
        ValueError: if `heads` does not divide `channels`.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        heads: int,
        window: int,
        *,
        shifted: bool = False,
        shift_single: bool = True,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.head_width = divide_exactly(channels, by=heads, name="the width of the window attention")
        self.heads, self.window, self.shift_single = heads, window, shift_single
        self.shift = window // 2 if shifted else 0
        self.qkv = small_linear(channels_in, 3 * channels, qkv_bias)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.proj = small_linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(channels_last_axis(x))
        bias = self.relative_bias()
        rows = [
            torch.cat(
                [self._attend(qkv[:, top:bottom, left:right], height, width, bias) for left, right, width in self.spans(x.shape[3])], 2
            )
            for top, bottom, height in self.spans(x.shape[2])
        ]
        return channels_first_axis(self.proj(torch.cat(rows, 1)))

    def spans(self, length: int) -> list[tuple[int, int, int]]:
        """The parts of a side that are cut alike: (begin, end, side of the windows in it)."""
        shift = self.shift if self.shift_single or length > self.window else 0
        if not shift:
            return [(0, length, self.window)]
        last = length - self.window + shift
        parts = [(0, shift, shift), (shift, last, self.window), (last, length, self.window - shift)]
        return [part for part in parts if part[0] < part[1]]

    def relative_bias(self) -> Tensor:
        """The bias of each pair of places in a window: (heads, query row, its column, key row, its column), the last four `window` long."""
        side = self.window
        backwards = self.bias_table.t().flip(1).view(self.heads, 2 * side - 1, 2 * side - 1)
        # unfold: [head, i, j, key row, key column] is backwards[head, i + key row, j + key column], where i = side - 1 - query row
        return backwards.unfold(1, side, 1).unfold(2, side, 1).flip(1, 2)

    def _attend(self, qkv: Tensor, height: int, width: int, bias: Tensor) -> Tensor:
        """Attention inside windows of height x width: (b, h, w, 3c) -> (b, h, w, c)."""
        b, h, w, _ = qkv.shape
        across, down = w // width, h // height
        parts = qkv.view(b, down, height, across, width, 3, self.heads, self.head_width).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = parts.reshape(3, b * down * across, self.heads, height * width, self.head_width).unbind()
        area = bias[:, :height, :width, :height, :width].reshape(1, self.heads, height * width, height * width)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=area.to(q.dtype).expand(q.shape[0], -1, -1, -1))
        y = y.view(b, down, across, self.heads, height, width, self.head_width).permute(0, 1, 4, 2, 5, 3, 6)
        return y.reshape(b, h, w, self.heads * self.head_width)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"
