"""Linear layers that commute with a group, multiplied in the group's Fourier basis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eqmambair.ops import backends
from eqmambair.ops.scan import LIBRARY

LIBRARY.define("group_linear(Tensor x, Tensor weight, Tensor? bias, Tensor transform, int[] rows) -> Tensor")
LIBRARY.define("group_linear_backward(Tensor grad, Tensor x, Tensor weight, Tensor transform, int[] rows) -> (Tensor, Tensor, Tensor)")


def group_linear(x: Tensor, weight: Tensor, bias: Tensor | None, transform: Tensor, rows: Sequence[int]) -> Tensor:
    """``y_t = sum over s of W[t^-1 s] x_s + b`` for every token, by compiled kernels on the CPU in float32.

    The characters of the group make the layer block-diagonal: 6/16 of the multiplications for quarter turns, 12/64 with mirror images.

    Args:
        x: (..., t*n), orientation slowest.
        weight: (m, n, t), the last axis by group element.
        bias: (m), or None.
        transform: the real characters, (t, t): `Group.characters`.
        rows: rows of each irreducible representation there: `Group.representations`.

    Returns:
        (..., t*m), contiguous.
    """
    return torch.ops.eqmambair.group_linear(x, weight, bias, transform, rows)


def takes_group_linear(x: Tensor, weight: Tensor) -> bool:
    """Whether there are compiled kernels for these tensors; not while a graph is exported, nor under autocast."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and backends.load("cpu")
    )


def _fake(x, weight, bias, transform, rows):
    return x.new_empty((*x.shape[:-1], weight.shape[0] * transform.shape[0]))


def _fake_backward(grad, x, weight, transform, rows):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, transform, ctx.rows = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(x, weight, transform)


def _gradient(ctx, grad):
    dx, dweight, dbias = torch.ops.eqmambair.group_linear_backward(grad, *ctx.saved_tensors, ctx.rows)
    return dx, dweight, dbias if ctx.biased else None, None, None


def _no_second_gradient(ctx, *grads):
    raise NotImplementedError("group_linear has no second derivative")


torch.library.register_fake("eqmambair::group_linear", _fake, lib=LIBRARY)
torch.library.register_fake("eqmambair::group_linear_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("eqmambair::group_linear", _gradient, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("eqmambair::group_linear_backward", _no_second_gradient, lib=LIBRARY)
