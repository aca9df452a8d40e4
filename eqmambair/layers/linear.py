"""Linear layers that commute with a group, applied to each pixel by itself."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group
from eqmambair.ops import group_linear, takes_group_linear


def small_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """An ordinary linear layer that starts from N(0, 0.02^2), its bias from 0, as those of vision transformers do."""
    linear = nn.Linear(in_features, out_features, bias)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class GroupLinear(nn.Module):
    """Mix fields and orientations of a pixel: ``y_t = sum_s W[t^-1 s] x_s + b``. Commutes with the group; block-circulant for C4.

    Args:
        group: what to commute with.
        in_fields, out_fields: fields before and after; channels are ``group.order`` times as many, orientation slowest.
        bias: whether each output field has a bias.

    Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), the equivariant linear layer.
    """

    relative: Tensor
    characters: Tensor

    def __init__(self, group: Group, in_fields: int, out_fields: int, bias: bool = True) -> None:
        super().__init__()
        self.group = group
        self.representations = list(group.representations)
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields, group.order))
        self.bias = nn.Parameter(torch.empty(out_fields)) if bias else None
        self.register_buffer("relative", group.relative, persistent=False)
        self.register_buffer("characters", group.characters, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias from U(-1/sqrt(c_in), 1/sqrt(c_in)), c_in counting all orientations."""
        bound = 1 / math.sqrt(self.weight.shape[1] * self.group.order)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def plain_weight(self) -> Tensor:
        """The matrix of the ordinary linear layer, (t*m, s*n)."""
        gathered = self.weight[:, :, self.relative]  # (m, n, t, s)
        m, n, t, s = gathered.shape
        return gathered.permute(2, 0, 3, 1).reshape(t * m, s * n)

    def plain_bias(self) -> Tensor | None:
        """The bias of the ordinary linear layer, (t*m)."""
        return None if self.bias is None else self.bias.repeat(self.group.order)

    def forward(self, x: Tensor) -> Tensor:
        """(..., t*n) -> (..., t*m)."""
        if takes_group_linear(x, self.weight):
            return group_linear(x, self.weight, self.bias, self.characters, self.representations)
        return F.linear(x, self.plain_weight(), self.plain_bias())

    def fold(self) -> nn.Linear:
        """The ordinary linear layer with the same output."""
        weight, bias = self.plain_weight().detach(), self.plain_bias()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype)
        linear.weight = nn.Parameter(weight.contiguous())
        if bias is not None:
            linear.bias = nn.Parameter(bias.detach().clone())
        return linear

    def extra_repr(self) -> str:
        return f"group={self.group.name}, weight={tuple(self.weight.shape)}, bias={self.bias is not None}"


class OrientationLinear(nn.Linear):
    """One linear layer applied to every orientation by itself: ``y_t = W x_t + b``. Commutes with the group, mixes no orientations.

    Args:
        group: what to commute with.
        in_fields, out_fields: fields before and after; channels are ``group.order`` times as many, orientation slowest.
        bias: whether each output field has a bias.
    """

    def __init__(self, group: Group, in_fields: int, out_fields: int, bias: bool = True) -> None:
        super().__init__(in_fields, out_fields, bias)
        self.orientations = group.order

    def forward(self, x: Tensor) -> Tensor:
        """(..., t*n) -> (..., t*m)."""
        return super().forward(x.unflatten(-1, (self.orientations, -1))).flatten(-2)


class InvariantLinear(nn.Module):
    """Numbers that the group leaves alone: ``y = V sum_t x_t + b``, from what carries no pixels any more.

    Args:
        group: what the result is invariant under.
        in_fields: fields of the input, which has ``group.order`` times as many channels, orientation slowest.
        out_features: numbers that come out.
        true_fan_in: count all orientations in the initial range, instead of one as the published code does.

    Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), the classifier's linear layer.
    """

    def __init__(self, group: Group, in_fields: int, out_features: int, true_fan_in: bool = True) -> None:
        super().__init__()
        self.group, self.true_fan_in = group, true_fan_in
        self.weight = nn.Parameter(torch.empty(out_features, in_fields))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias from U(-1/sqrt(n), 1/sqrt(n)), n the input fields, times the orientations with `true_fan_in`."""
        bound = 1 / math.sqrt(self.weight.shape[1] * (self.group.order if self.true_fan_in else 1))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(..., t*n) -> (..., m)."""
        return F.linear(x.unflatten(-1, (self.group.order, -1)).sum(-2), self.weight, self.bias)

    def fold(self) -> nn.Linear:
        """The ordinary linear layer with the same output."""
        weight = self.weight.detach().repeat(1, self.group.order)
        linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        linear.weight = nn.Parameter(weight)
        linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear

    def extra_repr(self) -> str:
        return f"group={self.group.name}, weight={tuple(self.weight.shape)}"
