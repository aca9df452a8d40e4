"""The layers compute what the paper writes, for quarter turns."""

import math

import numpy as np
import pytest
import torch

from eqmambair.groups import group
from eqmambair.layers.convolution import DepthwiseGroupConv2d, GroupConv2d, LiftingConv2d, ProjectionConv2d
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.shuffle import GroupPixelShuffle
from tests.oracles import equivariant as oracle

C4 = group("c4")


def to_oracle(x: torch.Tensor) -> np.ndarray:
    """One feature map (1, t*c, h, w), orientation slowest -> (c, t, h, w)."""
    return x[0].unflatten(0, (4, -1)).transpose(0, 1).detach().numpy()


def assert_equal(y: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(to_oracle(y), expected, rtol=1e-10, atol=1e-12)


def parameters(layer):
    return (layer.weight / math.sqrt(4)).detach().numpy(), layer.bias.detach().numpy()


def test_lifting_convolution():
    layer = LiftingConv2d(C4, 2, 3).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    assert_equal(layer(x), oracle.lifting(x[0].numpy(), *parameters(layer)))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_group_convolution(kernel_size):
    layer = GroupConv2d(C4, 2, 3, kernel_size).double()
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    assert_equal(layer(x), oracle.group(to_oracle(x), *parameters(layer)))


def test_projection_convolution():
    layer = ProjectionConv2d(C4, 2, 3).double()
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    expected = oracle.projection(to_oracle(x), *parameters(layer))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_depthwise_convolution_that_widens():
    layer = DepthwiseGroupConv2d(C4, 2, 6).double()
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    assert_equal(layer(x), oracle.depthwise(to_oracle(x), *parameters(layer)))


def test_group_linear():
    layer = GroupLinear(C4, 3, 2).double()
    x = torch.randn(12, dtype=torch.float64)
    expected = oracle.linear(x.view(4, 3).T.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy())
    np.testing.assert_allclose(layer(x).view(4, 2).T.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3])
def test_pixel_shuffle(scale):
    x = torch.randn(1, 4 * 2 * scale**2, 3, 2, dtype=torch.float64)
    assert np.array_equal(to_oracle(GroupPixelShuffle(C4, scale)(x)), oracle.pixel_shuffle(to_oracle(x), scale))
