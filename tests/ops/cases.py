"""Inputs and ways of running that the tests of the scan share."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from eqmambair.ops import plain
from eqmambair.ops.scan import CHUNK


@dataclasses.dataclass
class Case:
    """Sizes of a scan; ``make`` draws its arguments, always the same."""

    batch: int = 2
    length: int = 70
    groups: int = 2
    channels: int = 5
    states: int = 3
    shared_u: bool = False
    order: str = "shared"  # or 'each' (batch element its own) or 'none'

    def make(self, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
        g = torch.Generator().manual_seed(7)
        b, length, groups, d, n = self.batch, self.length, self.groups, self.channels, self.states
        state = torch.float64 if dtype == torch.float64 else torch.float32

        def draw(*size: int, to: torch.dtype = dtype) -> Tensor:
            return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype).to(to)

        tensors = [draw(b, length, 1 if self.shared_u else groups, d), draw(b, length, groups, d), -draw(groups, d, n, to=state).exp()]
        tensors += [draw(b, length, groups, n), draw(b, length, groups, n), draw(groups, d, to=state), draw(groups, d, to=state)]
        if self.order == "none":
            return [*tensors, None]
        paths = torch.stack([torch.randperm(length, generator=g) for _ in range(b * groups)]).view(b, groups, length)
        return [*tensors, paths if self.order == "each" else paths[0]]


def value_and_gradients(scan: Callable[..., Tensor], arguments: list[Tensor | None], softplus: bool = True) -> list[Tensor]:
    """The result for the arguments, and the gradients of its product with fixed weights for the first seven of them."""
    inputs = [x.detach().clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in arguments]
    y = scan(*inputs, delta_softplus=softplus)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y.backward(weights.to(y.dtype))
    return [y.detach(), *(x.grad for x in inputs[:7] if x is not None)]


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, softplus, *arguments):
        y, states = plain.forward(*arguments, softplus, CHUNK, True)
        ctx.save_for_backward(*arguments, states)
        ctx.softplus = softplus
        return y

    @staticmethod
    def backward(ctx, grad):
        *arguments, states = ctx.saved_tensors
        grads = plain.backward(grad, *arguments, states, ctx.softplus, CHUNK)
        return None, *(g if x is not None else None for g, x in zip(grads, arguments, strict=False)), None


def plain_scan(u, delta, A, B, C, D=None, delta_bias=None, order=None, delta_softplus=True):
    """The plain-torch backend itself, whatever is compiled."""
    return _Plain.apply(delta_softplus, u, delta, A, B, C, D, delta_bias, order)
