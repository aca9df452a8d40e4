"""What a network costs: parameters, multiply-accumulates, activations, counted while it runs once."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

#: Operations of the scan per token, channel and state: exp, multiply-add for the state, product for the input, multiply-add for the output.
SCAN_MACS_PER_STATE = 4


@dataclass(frozen=True)
class Complexity:
    """What one forward pass costs.

    Attributes:
        parameters: trainable numbers.
        dense_macs: multiply-accumulates of convolutions and matrix products, as the papers count them: equivariant layers in dense form.
        fourier_macs: those that are left where compiled kernels multiply group linear layers in the group's Fourier basis.
        scan_macs: those of the selective scans, `SCAN_MACS_PER_STATE` for every token, channel and state (the papers leave them out or
            count them differently).
        activations: numbers that convolutions and matrix products write.
    """

    parameters: int
    dense_macs: int
    fourier_macs: int
    scan_macs: int
    activations: int

    def as_dict(self) -> dict[str, Any]:
        """The figures by name, for JSON."""
        return asdict(self)


def _scan_flops(u_shape: tuple[int, ...], delta_shape: tuple[int, ...], A_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, length, paths, channels = delta_shape
    return 2 * SCAN_MACS_PER_STATE * batch * length * paths * channels * A_shape[-1]


def _depthwise_flops(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], *_: Any, **__: Any) -> int:
    batch, _, height, width = x_shape
    return 2 * batch * height * width * math.prod(weight_shape)


class _GroupLinearFlops:
    """Counts group linear layers in dense form, and adds up what the Fourier basis saves."""

    def __init__(self) -> None:
        self.saved = 0

    def __call__(self, x_shape: Any, weight_shape: Any, bias: Any, transform_shape: Any, rows: Sequence[int], **_: Any) -> int:
        products = 2 * math.prod(x_shape[:-1]) * weight_shape[0] * weight_shape[1]
        dense = products * transform_shape[0] ** 2
        self.saved += dense - products * sum({1: 1, 2: 4, 4: 8}[each] for each in rows)
        return dense


class _ActivationCounter(torch.utils._python_dispatch.TorchDispatchMode):
    """Adds up the sizes of what the dense operators write."""

    dense = frozenset(
        {
            torch.ops.aten.convolution,
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.bmm,
            torch.ops.aten.baddbmm,
            torch.ops.eqmambair.depthwise_conv,
            torch.ops.eqmambair.group_linear,
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.dense:
            self.total += result.numel()
        return result


@torch.no_grad()
def complexity(model: nn.Module, x: Tensor) -> Complexity:
    """Count what one forward pass on x costs; the mode of the network is restored.

    Args:
        model: any network.
        x: its input, (b, c, h, w).
    """
    scan = torch.ops.eqmambair.selective_scan_forward
    training = model.training
    model.eval()
    group_linear = _GroupLinearFlops()
    ops = torch.ops.eqmambair
    mapping = {scan: _scan_flops, ops.depthwise_conv: _depthwise_flops, ops.group_linear: group_linear}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    activations = _ActivationCounter()
    try:
        with activations, counter:
            model(x)
    finally:
        model.train(training)
    scan_flops = sum(flops for operator, flops in counter.get_flop_counts()["Global"].items() if "selective_scan" in str(operator))
    return Complexity(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        dense_macs=(counter.get_total_flops() - scan_flops) // 2,
        fourier_macs=(counter.get_total_flops() - scan_flops - group_linear.saved) // 2,
        scan_macs=scan_flops // 2,
        activations=activations.total,
    )
