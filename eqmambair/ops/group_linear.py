"""Linear layers that commute with a group, multiplied in the group's Fourier basis."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from eqmambair.ops import backends
from eqmambair.ops.scan import LIBRARY

#: In training the kernels pay from one token for so many products of fields on; measured at 196 tokens.
_FEW_TOKENS = 32

LIBRARY.define("group_linear(Tensor x, Tensor weight, Tensor? bias, Tensor transform, int[] rows) -> Tensor")
LIBRARY.define("group_linear_backward(Tensor grad, Tensor x, Tensor weight, Tensor transform, int[] rows) -> (Tensor, Tensor, Tensor)")


LIBRARY.define(
    "fused_linear(Tensor x, Tensor weight, Tensor? bias, Tensor transform, int[] rows, Tensor? gain, Tensor? shift, float eps, bool silu,"
    " Tensor? gate, Tensor? skip, Tensor? skip_scale) -> Tensor"
)


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


def fused_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, transform: Tensor, rows: Sequence[int], *,
    norm: tuple[Tensor, Tensor, float] | None = None, silu: bool = False, gate: Tensor | None = None,
    skip: Tensor | None = None, skip_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`group_linear` with what stands around it, ``skip_scale * skip + gate * silu(linear(norm(x)))``, in one pass over memory.

    For inference where `takes_group_linear` says so; it has no gradient.

    Args:
        x, weight, bias, transform, rows: as of `group_linear`.
        norm: gain, shift and eps of a layer norm over the last axis of x; gain and shift (t*n), or (n) for all orientations.
        silu: whether SiLU follows the layer.
        gate: (..., t*m), a factor.
        skip: (..., t*m), what is added, times `skip_scale`, (t*m) or (m); both or neither.

    Returns:
        (..., t*m), contiguous.
    """
    gain, shift, eps = norm or (None, None, 0.0)
    return torch.ops.eqmambair.fused_linear(x, weight, bias, transform, rows, gain, shift, eps, silu, gate, skip, skip_scale)


def takes_group_linear(x: Tensor, weight: Tensor) -> bool:
    """Whether `group_linear` has kernels for these tensors and is faster than the dense matrix.

    It is wherever it was measured, but in training with so few tokens that bringing the weights into the basis and their gradient back
    costs more. EQMAMBAIR_FOURIER=always or never decides instead. Never while a graph is exported, nor under autocast.
    """
    wanted = os.environ.get("EQMAMBAIR_FOURIER", "auto")
    if (
        wanted == "never"
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_exporting()
        or not backends.load("cpu")
    ):
        return False
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    tokens = x.numel() // x.shape[-1]
    return wanted == "always" or not trains or tokens * _FEW_TOKENS >= weight.shape[0] * weight.shape[1]


def _fake(x, weight, bias, transform, rows):
    return x.new_empty((*x.shape[:-1], weight.shape[0] * transform.shape[0]))


def _fake_fused(x, weight, bias, transform, rows, *around):
    return _fake(x, weight, bias, transform, rows)


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


def _no_gradient(ctx, grad):
    raise NotImplementedError("fused_linear has no gradient; group_linear has")


torch.library.register_fake("eqmambair::group_linear", _fake, lib=LIBRARY)
torch.library.register_fake("eqmambair::fused_linear", _fake_fused, lib=LIBRARY)
torch.library.register_fake("eqmambair::group_linear_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("eqmambair::group_linear", _gradient, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("eqmambair::group_linear_backward", _no_second_gradient, lib=LIBRARY)
torch.library.register_autograd("eqmambair::fused_linear", _no_gradient, lib=LIBRARY)
