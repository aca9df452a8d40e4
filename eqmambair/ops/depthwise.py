"""The depthwise 3x3 convolution in channels_last memory, for the sizes at which torch's own is slow on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F

from eqmambair.ops import backends
from eqmambair.ops.scan import LIBRARY

LIBRARY.define("depthwise_conv(Tensor x, Tensor weight, Tensor? bias, int dilation, bool silu) -> Tensor")
LIBRARY.define(
    "depthwise_conv_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int dilation, bool silu) -> (Tensor, Tensor, Tensor)"
)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1, silu: bool = False) -> Tensor:
    """Convolve each channel by itself, with zero padding that keeps the size; then, if asked, SiLU.

    On a CPU in float32 with 3x3 filters compiled kernels run (csrc/cpu/depthwise.cpp); elsewhere, and while a graph is exported, torch's
    convolution.

    Args:
        x: (b, c, h, w).
        weight: (q*c, 1, k, k), k odd: q filters for every channel, side by side.
        bias: (q*c), or None.
        dilation: distance of the taps in pixels.
        silu: whether the result is ``z * sigmoid(z)`` of the convolution z.

    Returns:
        (b, q*c, h, w), in channels_last memory from the compiled kernels.
    """
    if _compiled(x, weight, bias):
        return torch.ops.eqmambair.depthwise_conv(x, weight, bias, dilation, silu)
    z = F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=x.shape[1])
    return F.silu(z) if silu else z


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cpu"
        and weight.shape[-2:] == (3, 3)
        and all(each is None or each.dtype == torch.float32 for each in (x, weight, bias))
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and backends.load("cpu")
    )


def _fake(x, weight, bias, dilation, silu):
    b, _, h, w = x.shape
    return x.new_empty((b, weight.shape[0], h, w)).to(memory_format=torch.channels_last)


def _fake_backward(grad, x, weight, bias, dilation, silu):
    dx = torch.empty_like(x, memory_format=torch.contiguous_format).to(memory_format=torch.channels_last)
    return dx, torch.empty_like(weight), weight.new_empty(weight.shape[:1])


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, ctx.dilation, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _gradient(ctx, grad):
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.eqmambair.depthwise_conv_backward(grad, x, weight, bias, ctx.dilation, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None, None


def _no_second_gradient(ctx, *grads):
    raise NotImplementedError("depthwise_conv has no second derivative")


torch.library.register_fake("eqmambair::depthwise_conv", _fake, lib=LIBRARY)
torch.library.register_fake("eqmambair::depthwise_conv_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("eqmambair::depthwise_conv", _gradient, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("eqmambair::depthwise_conv_backward", _no_second_gradient, lib=LIBRARY)
