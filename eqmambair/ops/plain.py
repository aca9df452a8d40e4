"""The selective scan in plain torch: every device, float64 too. What csrc/ must equal, and what runs where nothing was compiled.

A path is walked in segments, one after the other, and a segment is scanned for all its tokens at once, so a Python step serves
many tokens. Only products of decays and sums are formed, never quotients or logarithms of them: a product of decays that underflows
is the right zero, so no step size is too large.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements of one (tokens, channels, states) temporary. A segment has as many chunks as fit in it, and at least one.
_SEGMENT_ELEMENTS = 1 << 22
_MOST_CHUNKS = 16


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    delta_softplus: bool,
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result (b, l, g, d), and with ``keep`` the states (b, chunks, g, n, d) at the entry of each chunk of tokens."""
    b, length, groups, channels = delta.shape
    states_per_channel = A.shape[2]
    path = _Path(order, b, length)
    y = torch.empty(delta.shape, dtype=u.dtype, device=u.device)
    chunks = -(-length // chunk) if keep else 0
    entries = A.new_empty((b, chunks, groups, states_per_channel, channels))
    state = A.new_zeros((b, groups, channels, states_per_channel))
    segment = chunk * _chunks_per_segment(delta, A, chunk)
    for start in range(0, length, segment):
        stop = min(start + segment, length)
        s = _Segment(path, start, stop, u, delta, A, B, C, delta_bias, delta_softplus)
        h = _linear_scan(s.decay, s.inputs, state)
        if keep:
            entries[:, start // chunk] = state.transpose(-1, -2)
            inner = h[:, chunk - 1 : stop - start - 1 : chunk]
            entries[:, start // chunk + 1 : start // chunk + 1 + inner.shape[1]] = inner.transpose(-1, -2)
        out = torch.einsum("blgdn,blgn->blgd", h, s.C)
        path.write(y, start, stop, out if D is None else out + D * s.u)
        state = h[:, -1]
    return y, entries


def backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, delta_bias; the last two are (g, d) even where the input was None."""
    b, length, groups, channels = delta.shape
    path = _Path(order, b, length)
    # With one u for all groups its gradient is their sum: made per group first, like delta's.
    grad_u = torch.empty_like(delta, memory_format=torch.contiguous_format)
    grad_delta = torch.empty_like(grad_u)
    grad_B = torch.empty_like(B, memory_format=torch.contiguous_format)
    grad_C = torch.empty_like(C, memory_format=torch.contiguous_format)
    grad_A = torch.zeros_like(A, memory_format=torch.contiguous_format)
    grad_D = A.new_zeros((groups, channels))
    grad_bias = A.new_zeros((groups, channels))
    carry = A.new_zeros((b, groups, channels, A.shape[2]))
    segment = chunk * _chunks_per_segment(delta, A, chunk)
    for start in reversed(range(0, length, segment)):
        stop = min(start + segment, length)
        s = _Segment(path, start, stop, u, delta, A, B, C, delta_bias, delta_softplus)
        entry = states[:, start // chunk].transpose(-1, -2)
        h = _linear_scan(s.decay.clone(), s.inputs, entry)
        before = torch.cat([entry[:, None], h[:, :-1]], dim=1)
        dy = path.read(grad, start, stop).to(A.dtype)
        # The gradient of h obeys the same recurrence, walked backwards, with the decay of the token after.
        dh = dy[..., None] * s.C[:, :, :, None, :]
        after = torch.cat([torch.ones_like(s.decay[:, :1]), s.decay[:, 1:].flip(1)], dim=1)
        dh = _linear_scan(after, dh.flip(1), carry).flip(1)
        carry = s.decay[:, 0] * dh[:, 0]
        d_exponent = dh * s.decay * before
        dh_B = torch.einsum("blgdn,blgn->blgd", dh, s.B)
        d_step = torch.einsum("blgdn,gdn->blgd", d_exponent, A) + dh_B * s.u
        d_raw = d_step * s.slope if delta_softplus else d_step
        du = dh_B * s.step if D is None else dh_B * s.step + D * dy
        grad_A += torch.einsum("blgdn,blgd->gdn", d_exponent, s.step)
        grad_D += (dy * s.u).sum((0, 1))
        grad_bias += d_raw.sum((0, 1))
        path.write(grad_u, start, stop, du)
        path.write(grad_delta, start, stop, d_raw)
        path.write(grad_B, start, stop, torch.einsum("blgdn,blgd->blgn", dh, s.step * s.u))
        path.write(grad_C, start, stop, torch.einsum("blgdn,blgd->blgn", h, dy))
    if u.shape[2] != groups:
        grad_u = grad_u.sum(2, keepdim=True)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias


def _chunks_per_segment(delta: Tensor, A: Tensor, chunk: int) -> int:
    per_chunk = chunk * delta.shape[0] * A.numel()
    return max(1, min(_MOST_CHUNKS, _SEGMENT_ELEMENTS // per_chunk))


class _Path:
    """Tokens (b, l, g, x) read and written in the order in which the path visits them."""

    def __init__(self, order: Tensor | None, batch: int, length: int) -> None:
        self.index: Tensor | None = None
        if order is not None:
            index = order.to(torch.int64).transpose(-1, -2)[..., None]
            self.index = index if index.ndim == 4 else index.expand(batch, *index.shape)

    def read(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        if self.index is None:
            return tokens[:, start:stop]
        return tokens.gather(1, self.index[:, start:stop].expand(-1, -1, -1, tokens.shape[3]))

    def write(self, tokens: Tensor, start: int, stop: int, values: Tensor) -> None:
        if self.index is None:
            tokens[:, start:stop] = values
        else:
            tokens.scatter_(1, self.index[:, start:stop].expand(-1, -1, -1, tokens.shape[3]), values.to(tokens.dtype))


class _Segment:
    """What the recurrence needs for the tokens start..stop-1 of a path, in the type of A."""

    def __init__(
        self,
        path: _Path,
        start: int,
        stop: int,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.u = path.read(u.expand(delta.shape), start, stop).to(A.dtype)
        self.B = path.read(B, start, stop).to(A.dtype)  # (b, l, g, n)
        self.C = path.read(C, start, stop).to(A.dtype)
        raw = path.read(delta, start, stop).to(A.dtype)  # (b, l, g, d)
        if delta_bias is not None:
            raw = raw + delta_bias
        self.step = F.softplus(raw) if delta_softplus else raw
        self.slope = torch.sigmoid(raw)
        self.decay = torch.exp(self.step[..., None] * A)  # (b, l, g, d, n)
        self.inputs = (self.step * self.u)[..., None] * self.B[:, :, :, None, :]


def _linear_scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """All h with h[t] = decay[t] * h[t - 1] + inputs[t] along dimension 1, h[-1] = ``initial``. Both tensors are overwritten.

    Tokens are laid out as rows of about sqrt(length): a column at a time is scanned for all rows together, then the rows are joined.
    """
    length = inputs.shape[1]
    row = math.isqrt(length - 1) + 1
    rows = -(-length // row)
    if missing := rows * row - length:
        decay = torch.cat([decay, decay.new_ones((decay.shape[0], missing, *decay.shape[2:]))], dim=1)
        inputs = torch.cat([inputs, inputs.new_zeros((inputs.shape[0], missing, *inputs.shape[2:]))], dim=1)
    decay, h = decay.unflatten(1, (rows, row)), inputs.unflatten(1, (rows, row))
    for column in range(1, row):
        h[:, :, column].addcmul_(decay[:, :, column], h[:, :, column - 1])
        decay[:, :, column] *= decay[:, :, column - 1]
    joined = [initial]
    for r in range(rows - 1):
        joined.append(torch.addcmul(h[:, r, -1], decay[:, r, -1], joined[-1]))
    h.addcmul_(decay, torch.stack(joined, dim=1)[:, :, None])
    return h.flatten(1, 2)[:, :length]
