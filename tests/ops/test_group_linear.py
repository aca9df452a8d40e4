"""Group linear layers in the Fourier basis against the dense matrix in float64, values and gradients."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from eqmambair.analysis.complexity import complexity
from eqmambair.groups import group
from eqmambair.layers.linear import GroupLinear
from eqmambair.ops import backend, group_linear

pytestmark = pytest.mark.skipif(backend("cpu") != "cpu", reason="no compiled kernels")

GROUPS = ["c1", "c2", "c4", "d4"]
# out fields, in fields, tokens: less and more than a panel and a task, tiles that are not full
SIZES = [(5, 7, 3), (18, 40, 700), (13, 1, 2000), (1, 30, 64), (25, 12, 1025)]


def dense(weight, g):
    gathered = weight[:, :, g.relative]  # (m, n, t, s)
    m, n, t, s = gathered.shape
    return gathered.permute(2, 0, 3, 1).reshape(t * m, s * n)


def inputs(g, size, bias=True):
    out_fields, in_fields, tokens = size
    torch.manual_seed(0)
    x = torch.randn(tokens, g.order * in_fields)
    return [x, torch.randn(out_fields, in_fields, g.order), torch.randn(out_fields) if bias else None]


@pytest.mark.parametrize("name", GROUPS)
def test_characters_are_orthogonal_and_multiply_as_the_group_does(name):
    g = group(name)
    dims = torch.tensor([each for rows in g.representations for each in [1.0 if rows == 1 else 2.0] * rows])
    norms = g.order / dims
    torch.testing.assert_close(g.characters @ g.characters.T, norms.diag())
    assert sum(g.representations) == g.order


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_values_and_gradients(name, size, bias):
    g = group(name)
    tensors = inputs(g, size, bias)
    grad = torch.randn(size[2], g.order * size[0])
    wide = [None if each is None else each.double().requires_grad_() for each in tensors]
    expected = F.linear(wide[0], dense(wide[1], g), None if wide[2] is None else wide[2].repeat(g.order))
    leaves = [None if each is None else each.clone().requires_grad_() for each in tensors]
    y = group_linear(*leaves, g.characters, g.representations)
    assert (y - expected).abs().max() < 2e-6 * expected.abs().max()
    present = [i for i, each in enumerate(tensors) if each is not None]
    ours = torch.autograd.grad(y, [leaves[i] for i in present], grad)
    theirs = torch.autograd.grad(expected, [wide[i] for i in present], grad.double())
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() < 2e-6 * other.abs().max()


def test_the_operator_keeps_torchs_rules():
    g = group("c4")
    x, weight, bias = (each.requires_grad_() for each in inputs(g, (3, 5, 6)))
    torch.library.opcheck(torch.ops.eqmambair.group_linear, (x, weight, bias, g.characters, list(g.representations)))


def test_bits_do_not_depend_on_the_number_of_threads():
    g = group("c4")
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = [each.requires_grad_() for each in inputs(g, (9, 11, 5000))]
            y = group_linear(*leaves, g.characters, g.representations)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@pytest.mark.parametrize("level", ["avx2", "baseline"])
def test_other_instruction_sets(level):
    code = """
import torch
from torch.nn import functional as F
from eqmambair.groups import group
from eqmambair.layers.linear import GroupLinear
for name in ("c2", "c4", "d4"):
    layer = GroupLinear(group(name), 5, 7)
    x = torch.randn(2, 50, 5 * layer.group.order, requires_grad=True)
    y, expected = layer(x), F.linear(x, layer.plain_weight(), layer.plain_bias())
    torch.testing.assert_close(y, expected)
    for one, other in zip(*(torch.autograd.grad(each.square().sum(), (x, *layer.parameters())) for each in (y, expected))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"EQMAMBAIR_SIMD": level}, check=True)


def test_the_layer_uses_it_and_counts_what_is_saved():
    layer, x = GroupLinear(group("c4"), 6, 10), torch.randn(3, 24)
    cost = complexity(layer, x)
    assert (cost.dense_macs, cost.fourier_macs) == (3 * 24 * 40, 3 * 6 * 10 * 6)
