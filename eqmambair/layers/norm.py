"""Layer norms, batch norms and learned scales over the channels of a pixel, plain and per field."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.groups import Group
from eqmambair.layers.views import channels_first_axis, channels_last_axis


class ChannelLayerNorm(nn.LayerNorm):
    """Normalise the channels of every pixel, in place of nn.LayerNorm on a transposed copy; (b, c, h, w) in channels_last memory."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return channels_first_axis(super().forward(channels_last_axis(x)))


class FieldLayerNorm(nn.Module):
    """Normalise the last axis over all fields and orientations; gain and shift are per field. Commutes with the group.

    Args:
        group: what to commute with.
        fields: fields of the feature map.
        eps: added to the variance.

    Input and output are (..., t*c), orientation slowest.
    """

    def __init__(self, group: Group, fields: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.group, self.eps = group, eps
        self.weight = nn.Parameter(torch.ones(fields))
        self.bias = nn.Parameter(torch.zeros(fields))

    def forward(self, x: Tensor) -> Tensor:
        t = self.group.order
        return F.layer_norm(x, x.shape[-1:], self.weight.repeat(t), self.bias.repeat(t), self.eps)

    def _folded(self, norm: nn.LayerNorm) -> nn.LayerNorm:
        t = self.group.order
        norm.weight = nn.Parameter(self.weight.detach().repeat(t))
        norm.bias = nn.Parameter(self.bias.detach().repeat(t))
        return norm

    def fold(self) -> nn.LayerNorm:
        """The ordinary layer norm with the same output."""
        return self._folded(nn.LayerNorm(self.group.order * self.weight.numel(), eps=self.eps))


class FieldLayerNorm2d(FieldLayerNorm):
    """`FieldLayerNorm` on pixels: (b, t*c, h, w) in channels_last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_first_axis(super().forward(channels_last_axis(x)))

    def fold(self) -> ChannelLayerNorm:
        return self._folded(ChannelLayerNorm(self.group.order * self.weight.numel(), eps=self.eps))  # type: ignore[return-value]


class FieldBatchNorm2d(nn.Module):
    """Batch norm with one mean, variance, gain and shift a field. Commutes with the group.

    Statistics run over batch, pixels and orientations. The norm itself is an ordinary batch norm on a view of the map, so that
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` works as usual.

    Args:
        group: what to commute with.
        fields: fields of the feature map.

    Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), the batch norm of EQ-UPerNet.
    """

    def __init__(self, group: Group, fields: int) -> None:
        super().__init__()
        self.group = group
        self.norm = nn.BatchNorm2d(fields)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t*c, h, w) -> (b, t*c, h, w); in training a view of channels_last memory: a pixel's orientations stand beside each other."""
        if not self.norm.training:
            own, t = self.norm, self.group.order
            of_fields = (own.running_mean, own.running_var, own.weight, own.bias)
            mean, var, gain, shift = (None if v is None else v.repeat(t) for v in of_fields)
            return F.batch_norm(x, mean, var, gain, shift, False, 0.0, own.eps)
        wide = channels_last_axis(x).unflatten(-1, (self.group.order, -1)).flatten(2, 3)  # (b, h, w*t, c)
        y = channels_last_axis(self.norm(channels_first_axis(wide)))
        return channels_first_axis(y.unflatten(2, (-1, self.group.order)).flatten(3))

    def fold(self) -> nn.BatchNorm2d:
        """The ordinary batch norm with the same output in evaluation mode."""
        t, own = self.group.order, self.norm
        norm = nn.BatchNorm2d(t * own.num_features, own.eps, own.momentum, device=own.weight.device, dtype=own.weight.dtype)
        norm.load_state_dict({key: value.repeat(t) if value.dim() else value for key, value in own.state_dict().items()})
        return norm.eval()


class ChannelScale(nn.Module):
    """Multiply every channel of (b, c, h, w) by a learned factor, 1 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, 1, 1)


class FieldScale(nn.Module):
    """Multiply every field of (b, t*c, h, w) by a learned factor, 1 at first, shared by the orientations. Commutes with the group."""

    def __init__(self, group: Group, fields: int) -> None:
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(torch.ones(fields))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.repeat(self.group.order).view(-1, 1, 1)

    def fold(self) -> ChannelScale:
        """The ordinary per-channel scale with the same output."""
        scale = ChannelScale(self.group.order * self.weight.numel())
        scale.weight = nn.Parameter(self.weight.detach().repeat(self.group.order))
        return scale
