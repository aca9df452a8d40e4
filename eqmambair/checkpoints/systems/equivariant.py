"""How the published equivariant networks keep their filters.

They keep 3x3 filters as coefficients over a `Basis` buffer that differs from machine to machine (so it is read from the file, never
recomputed), and cache expanded filters that may be stale (so they are dropped).
"""

import torch
from torch import Tensor

from eqmambair.checkpoints.systems.layout import Rule, pair

_ROOT_ORDER = 2.0  # sqrt(T) for quarter turns: our weights are sqrt(T) times the filters


def filters_from_basis(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace coefficients over a stored basis by filters, and drop the bases and the caches beside them."""
    bases = {key.removesuffix("Basis"): basis for key, basis in state.items() if key.endswith(".Basis")}
    filters = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        basis = bases.get(f"{module}.")
        if basis is None:
            filters[key] = value
        elif name == "weights":
            filters[key] = torch.einsum("...q,ijq->...ij", value, basis[:, :, 0].to(value.dtype))
        elif name == "c":
            filters[key] = value
    return filters


def basis_from_filters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace filters by coefficients over half the pixel basis, and store that basis as the published code does."""
    stored = {}
    for key, value in state.items():
        if key.endswith(".weights") and value.dim() >= 5:
            k = value.shape[-1]
            pixels = torch.eye(k * k, dtype=value.dtype, device=value.device).view(k, k, k * k) / 2
            stored[key.removesuffix("weights") + "Basis"] = torch.stack([torch.rot90(pixels, t, (0, 1)) for t in range(4)], dim=2)
            value = 2 * value.flatten(-2)
        stored[key] = value
    return stored


def eq_conv(official: str, ours: str, kind: str) -> list[Rule]:
    """Rules of a filter layer: `kind` is group, ends (lifting, projection: one orientation on one side) or depthwise."""
    if kind == "depthwise":
        load, save = (lambda w: w[0, :, 0] * _ROOT_ORDER), (lambda w: w[None, :, None] / _ROOT_ORDER)
        save_bias = lambda c: c.view(1, 1, -1, 1)  # noqa: E731
    else:
        one = kind == "ends"
        load = (lambda w: w[:, :, 0] * _ROOT_ORDER) if one else (lambda w: w * _ROOT_ORDER)
        save = (lambda w: w[:, :, None] / _ROOT_ORDER) if one else (lambda w: w / _ROOT_ORDER)
        save_bias = lambda c: c.view(1, -1, 1, 1)  # noqa: E731
    return [
        pair(f"{official}.weights", f"{ours}.weight", load, save),
        pair(f"{official}.c", f"{ours}.bias", torch.Tensor.flatten, save_bias),
    ]


def eq_linear(official: str, *ours: str) -> list[Rule]:
    return [
        Rule(f"{official}.weights", tuple(f"{name}.weight" for name in ours), lambda w: w[:, 0], lambda w: w[:, None]),
        pair(f"{official}.c", f"{ours[0]}.bias", torch.Tensor.flatten, lambda c: c[:, None]),
    ]
