"""The selective scan: its schema, its checks, its gradient. What computes it stands in plain.py and in csrc/."""

import torch
from torch import Tensor

from eqmambair.ops import backends, plain

# Tokens per chunk: training keeps one state per chunk, and the backward pass recomputes the others a chunk at a time.
CHUNK = 64

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D{none}, Tensor? delta_bias{none}, Tensor? order{none}"
LIBRARY = torch.library.Library("eqmambair", "DEF")
LIBRARY.define(f"selective_scan({_INPUTS.format(none='=None')}, bool delta_softplus=True) -> Tensor")
for _name in ("selective_scan_forward", "plain_scan_forward"):
    LIBRARY.define(f"{_name}({_INPUTS.format(none='')}, bool delta_softplus, int chunk, bool keep) -> (Tensor, Tensor)")
for _name in ("selective_scan_backward", "plain_scan_backward"):
    LIBRARY.define(
        f"{_name}(Tensor grad, {_INPUTS.format(none='')}, Tensor states, bool delta_softplus, int chunk)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    )

LIBRARY.define("simd_level() -> str")

_HALF_TYPES = (torch.bfloat16, torch.float16)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    order: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Selective scan of each group's tokens along its path, every result written where its token was read.

    For the group g and the tokens p(0), p(1), ... of its path, with h zero before the first::

        step    = softplus(delta[p] + delta_bias)              (softplus only with delta_softplus)
        h[d, n] = exp(step[d] * A[d, n]) * h[d, n] + step[d] * B[p, n] * u[p, d]
        y[p, d] = sum over n of C[p, n] * h[d, n]  +  D[d] * u[p, d]

    The state is float32 whatever the type of the inputs (float64 for float64). Under autocast u, delta, B, C are taken in its type.

    Args:
        u: tokens (b, l, g, d), or (b, l, 1, d) for the same tokens in every group; float32, bfloat16, float16 or float64.
        delta: step sizes (b, l, g, d) before bias and softplus, typed as u.
        A: decay (g, d, n), negative. Taken in float32 (float64 for float64), as are D and delta_bias.
        B: input maps (b, l, g, n), typed as u.
        C: output maps (b, l, g, n), typed as u.
        D: skip (g, d), or None for no skip.
        delta_bias: bias of the step (g, d), or None.
        order: the token visited at each step, (g, l) or (b, g, l), int32 or int64, a permutation of 0..l-1 for every group;
            None visits 0..l-1. On the CPU this is checked, elsewhere only with EQMAMBAIR_DEBUG=1 in the environment: without
            it an index out of range is clamped, and a token that is never visited has an undefined result.
        delta_softplus: whether the step is softplus(delta + delta_bias) or delta + delta_bias itself.

    Returns:
        The result (b, l, g, d), contiguous, typed as u.

    Raises:
        ValueError: a shape that does not fit, a size of zero, tensors on several devices, or an order that is no permutation.
        TypeError: a type that is not taken.
    """
    return torch.ops.eqmambair.selective_scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus)


def _selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    order: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    check_inputs(u, delta, A, B, C, D, delta_bias, order)
    state_type = torch.float64 if u.dtype == torch.float64 else torch.float32
    A = A.to(state_type)
    D = None if D is None else D.to(state_type)
    delta_bias = None if delta_bias is None else delta_bias.to(state_type)
    inputs = (u, delta, A, B, C, D, delta_bias)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, _ = torch.ops.eqmambair.selective_scan_forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, CHUNK, keep)
    return y


def check_inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None, order: Tensor | None
) -> None:
    """Raise ValueError or TypeError unless these are what `selective_scan` takes; whether order is a permutation is not looked at."""
    if delta.ndim != 4:
        raise ValueError(f"selective_scan: delta must be (b, l, g, d), not of shape {tuple(delta.shape)}")
    if A.ndim != 3:
        raise ValueError(f"selective_scan: A must be (g, d, n), not of shape {tuple(A.shape)}")
    b, length, groups, channels = delta.shape
    states = A.shape[2]
    if u.ndim == 4 and u.shape[2] == 1:
        _check_shape("u", u, (b, length, 1, channels), "(b, l, 1, d)")
    else:
        _check_shape("u", u, (b, length, groups, channels), "(b, l, g, d)")
    _check_shape("A", A, (groups, channels, states), "(g, d, n)")
    _check_shape("B", B, (b, length, groups, states), "(b, l, g, n)")
    _check_shape("C", C, (b, length, groups, states), "(b, l, g, n)")
    for name, tensor in (("D", D), ("delta_bias", delta_bias)):
        if tensor is not None:
            _check_shape(name, tensor, (groups, channels), "(g, d)")
    for name, size in (("batch", b), ("length", length), ("groups", groups), ("channels", channels), ("states", states)):
        if size == 0:
            raise ValueError(f"selective_scan: {name} is 0")
    if u.dtype not in (torch.float32, torch.float64, *_HALF_TYPES):
        raise TypeError(f"selective_scan: u must be float32, bfloat16, float16 or float64, not {u.dtype}")
    for name, tensor in (("delta", delta), ("B", B), ("C", C)):
        if tensor.dtype != u.dtype:
            raise TypeError(f"selective_scan: {name} must be typed as u ({u.dtype}), not {tensor.dtype}")
    for name, tensor in (("A", A), ("D", D), ("delta_bias", delta_bias)):
        if tensor is not None and not tensor.dtype.is_floating_point:
            raise TypeError(f"selective_scan: {name} must be of a real type, not {tensor.dtype}")
    if order is not None:
        if order.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"selective_scan: order must be int32 or int64, not {order.dtype}")
        if order.ndim == 3:
            _check_shape("order", order, (b, groups, length), "(b, g, l)")
        else:
            _check_shape("order", order, (groups, length), "(g, l) or (b, g, l)")
    for name, tensor in (("delta", delta), ("A", A), ("B", B), ("C", C), ("D", D), ("delta_bias", delta_bias), ("order", order)):
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, u on {u.device}")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    if tensor.ndim != len(expected) or any(size != wanted for size, wanted in zip(tensor.shape, expected, strict=True)):
        raise ValueError(f"selective_scan: {name} must be {letters} = {tuple(expected)}, not {tuple(tensor.shape)}")


def _autocast(device_type: str):
    def cast(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: object, **named: object) -> Tensor:
        wanted = torch.get_autocast_dtype(device_type)
        u, delta, B, C = (x.to(wanted) if x.dtype in (torch.float32, *_HALF_TYPES) else x for x in (u, delta, B, C))
        with torch.amp.autocast(device_type, enabled=False):
            return torch.ops.eqmambair.selective_scan(u, delta, A, B, C, *rest, **named)

    return cast


def _forward(*args):
    u = args[0]
    if u.dtype != torch.float64 and backends.load(u.device.type):
        return torch.ops.eqmambair.selective_scan_forward(*args)
    return _plain_forward(*args)


def _backward(*args):
    u = args[1]
    if u.dtype != torch.float64 and backends.load(u.device.type):
        return torch.ops.eqmambair.selective_scan_backward(*args)
    return plain.backward(*args)


def _plain_forward(*args):
    delta, order = args[1], args[7]
    if order is not None and (order.device.type == "cpu" or backends.debugging()):
        check_order(order, delta.shape[1])
    return plain.forward(*args)


def check_order(order: Tensor, length: int) -> None:
    """Raise ValueError unless every path of ``order`` (..., l) visits each of the tokens 0..l-1 once."""
    right = (order.sort(dim=-1).values == torch.arange(length, device=order.device)).all(-1)
    if not bool(right.all()):
        where = tuple(right.logical_not().nonzero()[0].tolist())
        raise ValueError(f"selective_scan: order{list(where)} is no permutation of 0..{length - 1}")


def _fake_forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, chunk, keep):
    b, length, groups, channels = delta.shape
    chunks = (length + chunk - 1) // chunk if keep else 0
    return u.new_empty(delta.shape), A.new_empty((b, chunks, groups, A.shape[2], channels))


def _fake_backward(grad, u, delta, A, B, C, D, delta_bias, order, states, delta_softplus, chunk):
    per_channel = A.new_empty(A.shape[:2])
    return *(x.new_empty(x.shape) for x in (u, delta, A, B, C)), per_channel, torch.empty_like(per_channel)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.chunk, _ = inputs
    states = output[1]
    ctx.mark_non_differentiable(states)
    ctx.set_materialize_grads(False)  # none of zeros for the states, which are as large as several inputs
    ctx.save_for_backward(*tensors, states)


def _gradient(ctx, grad, _):
    if grad is None:
        return (None,) * len(ctx.needs_input_grad)
    *tensors, states = ctx.saved_tensors
    grads = torch.ops.eqmambair.selective_scan_backward(grad, *tensors, states, ctx.delta_softplus, ctx.chunk)
    wanted = (g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False))
    return *wanted, None, None, None, None


def _no_second_gradient(ctx, *grads):
    raise NotImplementedError("selective_scan has no second derivative")


LIBRARY.impl("selective_scan", _selective_scan, "CompositeImplicitAutograd")
LIBRARY.impl("selective_scan", _autocast("cpu"), "AutocastCPU")
LIBRARY.impl("selective_scan", _autocast("cuda"), "AutocastCUDA")
# For every device until a compiled kernel is registered for it: csrc/ does that when it is loaded.
LIBRARY.impl("selective_scan_forward", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("selective_scan_backward", _backward, "CompositeExplicitAutograd")
# What a compiled kernel calls for float64.
LIBRARY.impl("plain_scan_forward", _plain_forward, "CompositeExplicitAutograd")
LIBRARY.impl("plain_scan_backward", plain.backward, "CompositeExplicitAutograd")
for _name in ("selective_scan_forward", "plain_scan_forward"):
    torch.library.register_fake(f"eqmambair::{_name}", _fake_forward, lib=LIBRARY)
for _name in ("selective_scan_backward", "plain_scan_backward"):
    torch.library.register_fake(f"eqmambair::{_name}", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("eqmambair::selective_scan_forward", _gradient, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("eqmambair::selective_scan_backward", _no_second_gradient, lib=LIBRARY)
