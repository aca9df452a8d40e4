"""Group linear layers in the Fourier basis against the dense matrix in float64, values and gradients."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from eqmambair.analysis.complexity import complexity
from eqmambair.groups import group
from eqmambair.layers.fused import linear
from eqmambair.layers.linear import GroupLinear
from eqmambair.ops import backend, fused_linear, group_linear

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


AROUND = {
    "norm": ["norm"],
    "silu": ["silu"],
    "gate": ["gate"],
    "skip": ["skip"],
    "all": ["norm", "silu", "gate", "skip"],
}


def around(g, size, parts, per_field=True):
    """Arguments of `fused_linear` besides those of the layer, and their plain formula in float64."""
    out_fields, in_fields, tokens = size
    times = 1 if per_field else g.order
    gain, shift, scale = torch.randn(in_fields * times), torch.randn(in_fields * times), torch.randn(out_fields * times)
    gate, skip = torch.randn(tokens, g.order * out_fields), torch.randn(tokens, g.order * out_fields)
    given = {
        "norm": {"norm": (gain, shift, 1e-5)},
        "silu": {"silu": True},
        "gate": {"gate": gate},
        "skip": {"skip": skip, "skip_scale": scale},
    }

    def formula(x, weight, bias):
        times = g.order // (len(gain) // in_fields)
        if "norm" in parts:
            off = x.double() - x.double().mean(-1, keepdim=True)
            x = off / (off.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain.double().repeat(times) + shift.double().repeat(times)
        y = F.linear(x.double(), dense(weight, g).double(), None if bias is None else bias.double().repeat(g.order))
        y = y / (1 + (-y).exp()) if "silu" in parts else y
        y = y * gate.double() if "gate" in parts else y
        return y + skip.double() * scale.double().repeat(times) if "skip" in parts else y

    return {key: value for part in parts for key, value in given[part].items()}, formula


# Not a norm over two channels alone: where they are nearly equal, rounding decides.
@pytest.mark.parametrize("parts", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize("size", [size for size in SIZES if size[1] > 1], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_what_stands_around_the_layer(name, size, parts):
    g = group(name)
    x, weight, bias = inputs(g, size, bias=size[0] != 5)
    for per_field in (True, False):
        given, formula = around(g, size, parts, per_field)
        y, expected = fused_linear(x, weight, bias, g.characters, g.representations, **given), formula(x, weight, bias)
        assert (y - expected).abs().max() < 3e-6 * expected.abs().max()


def test_the_fused_operator_keeps_torchs_rules_and_refuses_a_gradient():
    g = group("c4")
    x, weight, bias = inputs(g, (3, 5, 6))
    given, _ = around(g, (3, 5, 6), AROUND["all"])
    arguments = (
        x,
        weight,
        bias,
        g.characters,
        list(g.representations),
        *given["norm"],
        True,
        given["gate"],
        given["skip"],
        given["skip_scale"],
    )
    torch.library.opcheck(torch.ops.eqmambair.fused_linear, arguments, test_utils=("test_schema", "test_faketensor"))
    y = fused_linear(x.requires_grad_(), weight, bias, g.characters, g.representations, **given)
    with pytest.raises(NotImplementedError, match="group_linear has"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gate": torch.ones(6, 11)}, "a map of"),
        ({"norm": (torch.ones(3), torch.ones(3), 1e-5)}, "3.* values for 20 channels"),
        ({"skip": torch.ones(6, 12)}, "belong together"),
    ],
    ids=["gate", "norm", "skip"],
)
def test_the_fused_operator_refuses_what_does_not_fit(given, message):
    g = group("c4")
    with pytest.raises(ValueError, match=message):
        fused_linear(*inputs(g, (3, 5, 6)), g.characters, g.representations, **given)


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
            given, _ = around(g, (9, 11, 5000), AROUND["all"])
            with torch.no_grad():
                fused = fused_linear(*leaves, g.characters, g.representations, **given)
            results.append([y, fused, *torch.autograd.grad(y.square().sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


@pytest.mark.parametrize("level", ["avx2", "baseline"])
def test_other_instruction_sets(level):
    code = """
import torch
from torch.nn import functional as F
from eqmambair.groups import group
from eqmambair.layers.fused import linear
from eqmambair.layers.linear import GroupLinear
for name in ("c2", "c4", "d4"):
    layer = GroupLinear(group(name), 5, 7)
    x = torch.randn(2, 50, 5 * layer.group.order, requires_grad=True)
    y, expected = layer(x), F.linear(x, layer.plain_weight(), layer.plain_bias())
    torch.testing.assert_close(y, expected)
    for one, other in zip(*(torch.autograd.grad(each.square().sum(), (x, *layer.parameters())) for each in (y, expected))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    norm, gate = torch.nn.LayerNorm(x.shape[-1]), torch.randn_like(y)
    with torch.no_grad():
        y = linear(layer, x, norm=norm, silu=True, gate=gate, skip=gate, skip_scale=gate[0, 0])
        expected = F.silu(layer(norm(x))) * gate + gate * gate[0, 0]
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"EQMAMBAIR_SIMD": level}, check=True)


class FusedLayer(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return linear(self.layer, x, silu=True)


def test_the_layer_uses_it_and_counts_what_is_saved():
    layer, x = GroupLinear(group("c4"), 6, 10), torch.randn(3, 24)
    cost = complexity(layer, x)
    assert (cost.dense_macs, cost.fourier_macs) == (3 * 24 * 40, 3 * 6 * 10 * 6)
    fused = complexity(FusedLayer(layer), x)
    assert (fused.dense_macs, fused.fourier_macs, fused.activations) == (cost.dense_macs, cost.fourier_macs, cost.activations)
