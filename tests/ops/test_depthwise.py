"""The depthwise convolution against torch's own in float64, values and gradients, at every kind of border and width."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from eqmambair.ops import backend, depthwise_conv2d

# batch, channels, filters a channel, height, width, dilation: lone pixels, more than one rectangle, blocks that are not full
SIZES = [(2, 10, 4, 19, 70, 1), (1, 7, 1, 5, 9, 2), (2, 3, 3, 33, 130, 1), (1, 5, 2, 1, 1, 3), (1, 40, 4, 18, 20, 2), (1, 100, 1, 3, 65, 5)]

needs_kernels = pytest.mark.skipif(backend("cpu") != "cpu", reason="no compiled kernels")


def reference(x, weight, bias, dilation, silu):
    z = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=x.shape[1])
    return F.silu(z) if silu else z


def inputs(size, bias):
    b, c, q, h, w, _ = size
    torch.manual_seed(0)
    x = torch.randn(b, c, h, w).to(memory_format=torch.channels_last)
    return [x, torch.randn(q * c, 1, 3, 3), torch.randn(q * c) if bias else None]


def with_gradients(function, tensors, grad, *settings):
    leaves = [None if each is None else each.clone().requires_grad_() for each in tensors]
    y = function(*leaves, *settings)
    return [y.detach(), *torch.autograd.grad(y, [each for each in leaves if each is not None], grad.to(y.dtype))]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients(size, bias, silu):
    tensors, dilation = inputs(size, bias), size[-1]
    grad = torch.randn(size[0], size[1] * size[2], *size[3:5])
    expected = with_gradients(reference, [None if each is None else each.double() for each in tensors], grad, dilation, silu)
    for ours, theirs in zip(with_gradients(depthwise_conv2d, tensors, grad, dilation, silu), expected, strict=True):
        assert (ours - theirs).abs().max() <= 5e-6 * theirs.abs().max()  # float32 rounding of the longest sums


@needs_kernels
def test_the_operator_keeps_torchs_rules():
    x, weight, bias = (each.requires_grad_() for each in inputs(SIZES[0], bias=True))
    torch.library.opcheck(torch.ops.eqmambair.depthwise_conv, (x, weight, bias, 1, True))


@needs_kernels
def test_bits_do_not_depend_on_the_number_of_threads():
    tensors, grad = inputs(SIZES[0], bias=True), torch.randn(2, 40, 19, 70)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(depthwise_conv2d, tensors, grad, 1, True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@needs_kernels
@pytest.mark.parametrize("level", ["avx2", "baseline"])
def test_other_instruction_sets(level):
    code = """
import torch
from torch.nn import functional as F
from eqmambair.ops import depthwise_conv2d
x, weight, bias = torch.randn(1, 9, 6, 7, requires_grad=True), torch.randn(36, 1, 3, 3, requires_grad=True), torch.randn(36)
y, expected = depthwise_conv2d(x, weight, bias, silu=True), F.silu(F.conv2d(x, weight, bias, padding=1, groups=9))
torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
grads = [torch.autograd.grad(each.square().sum(), (x, weight)) for each in (y, expected)]
torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"EQMAMBAIR_SIMD": level}, check=True)


def test_plain_torch_for_what_the_kernels_do_not_take():
    x, weight, _ = inputs((1, 4, 1, 8, 8, 1), bias=False)
    for kind in (torch.float64, torch.bfloat16):
        assert depthwise_conv2d(x.to(kind), weight.to(kind)).dtype == kind
    wide = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(depthwise_conv2d(x, wide), F.conv2d(x, wide, padding=2, groups=4))
