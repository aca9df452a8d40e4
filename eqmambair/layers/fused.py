"""Linear layers with what stands around them, in one pass over memory where that is to be had: inference on a CPU with compiled kernels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.layers.linear import GroupLinear
from eqmambair.ops import fused_linear, takes_group_linear


def fuses(layer: nn.Module, x: Tensor) -> bool:
    """Whether `linear` of this layer on x is one pass, so that giving it the norm in front saves one."""
    return isinstance(layer, GroupLinear) and not torch.is_grad_enabled() and takes_group_linear(x, layer.weight)


def linear(
    layer: nn.Module, x: Tensor, *, norm: nn.Module | None = None, silu: bool = False, gate: Tensor | None = None,
    skip: Tensor | None = None, skip_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``skip_scale * skip + gate * silu(layer(norm(x)))``, of which each but the layer may be missing.

    Args:
        layer: maps (..., c) to (..., c').
        x: (..., c).
        norm: a layer norm over the channels, plain or per field, whatever axis its own forward takes.
        silu: whether SiLU follows the layer.
        gate: (..., c').
        skip: (..., c'), with `skip_scale`, one value for each channel or field.
    """
    if fuses(layer, x):
        assert isinstance(layer, GroupLinear)
        around: Any = None if norm is None else (norm.weight, norm.bias, norm.eps)
        return fused_linear(
            x, layer.weight, layer.bias, layer.characters, layer.representations,
            norm=around, silu=silu, gate=gate, skip=skip, skip_scale=skip_scale,
        )  # fmt: skip
    y = layer(x if norm is None else _normed(norm, x))
    y = F.silu(y) if silu else y
    y = y if gate is None else y * gate
    return y if skip is None or skip_scale is None else y + skip * _for_channels(skip_scale, skip)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], _for_channels(norm.weight, x), _for_channels(norm.bias, x), norm.eps)  # type: ignore[arg-type]


def _for_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.repeat(x.shape[-1] // values.shape[0])
