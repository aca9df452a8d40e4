"""Ways to compute the selective scan, for the benchmarks: the operator, and what it is measured against."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eqmambair.ops import plain, scan


class Arguments(NamedTuple):
    """What the scan takes, all of it given."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor
    order: Tensor


def operator(arguments: Arguments) -> Tensor:
    """eqmambair.ops.selective_scan, whatever runs it here."""
    return scan.selective_scan(*arguments)


class _PlainBackend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        y, states = plain.forward(*arguments, True, scan.CHUNK, True)
        ctx.save_for_backward(*arguments, states)
        return y

    @staticmethod
    def backward(ctx, grad):
        *arguments, states = ctx.saved_tensors
        return *plain.backward(grad, *arguments, states, True, scan.CHUNK), None


def plain_backend(arguments: Arguments) -> Tensor:
    """The plain-torch backend, also where a compiled one is loaded."""
    return _PlainBackend.apply(*arguments)


def _along_path(arguments: Arguments) -> tuple[Tensor, ...]:
    u, delta, A, B, C, _, bias, order = arguments
    index = order.t()[None, :, :, None]
    u, delta, B, C = (x.gather(1, index.expand(x.shape[0], -1, -1, x.shape[-1])) for x in (u.expand_as(delta), delta, B, C))
    step = F.softplus(delta + bias)
    return u, step, torch.exp(step[..., None] * A), (step * u)[..., None] * B[:, :, :, None], C, index


def token_loop(arguments: Arguments) -> Tensor:
    """One Python step for each token, as in the reference code of published models."""
    u, _, decay, inputs, C, index = _along_path(arguments)
    h = torch.zeros_like(decay[:, 0])
    out = []
    for t in range(u.shape[1]):
        h = decay[:, t] * h + inputs[:, t]
        out.append((h * C[:, t, :, None]).sum(-1))
    y = torch.stack(out, dim=1) + arguments[5] * u
    return torch.zeros_like(y).scatter(1, index.expand_as(y), y)


def associative_scan(arguments: Arguments) -> Tensor:
    """All prefixes at once in log2(tokens) steps, the usual way to scan in plain torch."""
    u, _, decay, h, C, index = _along_path(arguments)
    distance = 1
    while distance < u.shape[1]:
        h = torch.cat([h[:, :distance], h[:, distance:] + decay[:, distance:] * h[:, :-distance]], dim=1)
        decay = torch.cat([decay[:, :distance], decay[:, distance:] * decay[:, :-distance]], dim=1)
        distance *= 2
    y = (h * C[:, :, :, None]).sum(-1) + arguments[5] * u
    return torch.zeros_like(y).scatter(1, index.expand_as(y), y)


def _mamba_ssm(arguments: Arguments) -> Tensor:
    interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    u, delta, A, B, C, D, bias, order = arguments
    index = order.t()[None, :, :, None]
    u, delta, B, C = (x.gather(1, index.expand(x.shape[0], -1, -1, x.shape[-1])) for x in (u.expand_as(delta), delta, B, C))
    rows = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (u, delta))
    maps = (x.permute(0, 2, 3, 1) for x in (B, C))
    y = interface.selective_scan_fn(*rows, A.flatten(0, 1), *maps, D.flatten(), delta_bias=bias.flatten(), delta_softplus=True)
    y = y.unflatten(1, u.shape[2:]).permute(0, 3, 1, 2)
    return torch.zeros_like(y).scatter(1, index.expand_as(y), y)


def _mambapy(arguments: Arguments) -> Tensor:
    pscan = importlib.import_module("mambapy.pscan").pscan
    u, _, decay, inputs, C, index = _along_path(arguments)
    h = pscan(decay.flatten(2, 3), inputs.flatten(2, 3)).view(decay.shape)
    y = (h * C[:, :, :, None]).sum(-1) + arguments[5] * u
    return torch.zeros_like(y).scatter(1, index.expand_as(y), y)


def contenders(device: str) -> dict[str, Callable[[Arguments], Tensor]]:
    """What can be measured on ``device``, by name; the first is the operator."""
    found: dict[str, Callable[[Arguments], Tensor]] = {
        "operator": operator,
        "plain backend": plain_backend,
        "associative scan": associative_scan,
        "token loop": token_loop,
    }
    if importlib.util.find_spec("mambapy"):
        found["mambapy"] = _mambapy
    if device == "cuda" and importlib.util.find_spec("mamba_ssm"):
        found["mamba_ssm"] = _mamba_ssm
    return found
