"""The selective scan in inference with its steps made inside the kernel, from the few numbers of a token that they come from."""

import torch
from torch import Tensor

from eqmambair.ops import backends
from eqmambair.ops.scan import CHUNK, LIBRARY, check_inputs

#: With more numbers than this for each token a matrix product of its own makes the steps faster than the kernel does.
_MOST_NUMBERS = 32

LIBRARY.define(
    "low_rank_scan(Tensor u, Tensor low_rank, Tensor weight, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? order,"
    " bool delta_softplus, int chunk) -> Tensor"
)


def low_rank_scan(
    u: Tensor, low_rank: Tensor, weight: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    delta_bias: Tensor | None = None, order: Tensor | None = None, delta_softplus: bool = True,
) -> Tensor:  # fmt: skip
    """`selective_scan` with ``delta[b, l, g] = low_rank[b, l, g] @ weight[g]``, which nothing writes to memory.

    For inference where `takes_low_rank` says so; it has no gradient.

    Args:
        low_rank: (b, l, g, k), or (b, l, 1, k) for the same numbers in every group; float32.
        weight: (g, k, d), float32.
        u, A, B, C, D, delta_bias, order, delta_softplus: as of `selective_scan`, u, B and C in float32.

    Returns:
        The result (b, l, g, d), contiguous.

    Raises:
        ValueError, TypeError: as of `selective_scan`; or low_rank and weight do not fit.
    """
    if weight.ndim != 3 or low_rank.ndim != 4 or low_rank.shape[2] not in (1, weight.shape[0]) or low_rank.shape[3] != weight.shape[1]:
        raise ValueError(
            f"low_rank_scan: low_rank (b, l, g or 1, k) and weight (g, k, d) do not fit: {tuple(low_rank.shape)}, {tuple(weight.shape)}"
        )
    if weight.shape[1] == 0:
        raise ValueError("low_rank_scan: k is 0")
    delta = low_rank[..., :1].expand(-1, -1, weight.shape[0], weight.shape[2])  # what the steps look like, for the checks
    check_inputs(u, delta, A, B, C, D, delta_bias, order)
    if not u.dtype == weight.dtype == torch.float32:
        raise TypeError(f"low_rank_scan: u and weight must be float32, not {u.dtype} and {weight.dtype}")
    if weight.device != u.device:
        raise ValueError(f"low_rank_scan: weight is on {weight.device}, u on {u.device}")
    real = (None if x is None else x.float() for x in (D, delta_bias))
    return torch.ops.eqmambair.low_rank_scan(u, low_rank, weight, A.float(), B, C, *real, order, delta_softplus, CHUNK)


def takes_low_rank(u: Tensor, rank: int) -> bool:
    """Whether `low_rank_scan` has a kernel for these tokens and so many numbers for each, and is faster than `selective_scan`."""
    return (
        u.device.type == "cpu"
        and u.dtype == torch.float32
        and rank <= _MOST_NUMBERS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and backends.load("cpu")
    )


def _fake(u, low_rank, weight, *rest):
    return u.new_empty((*u.shape[:2], weight.shape[0], weight.shape[2]))


def _no_gradient(ctx, grad):
    raise NotImplementedError("low_rank_scan has no gradient; selective_scan has")


torch.library.register_fake("eqmambair::low_rank_scan", _fake, lib=LIBRARY)
torch.library.register_autograd("eqmambair::low_rank_scan", _no_gradient, lib=LIBRARY)
