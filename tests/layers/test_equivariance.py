"""Every layer commutes with its group, folds to plain layers, and breaks the law when it is tampered with."""

import pytest
import torch
from torch import nn

from eqmambair.groups import group
from eqmambair.layers.attention import ChannelAttention
from eqmambair.layers.convolution import DepthwiseGroupConv2d, GroupConv2d, LiftingConv2d, ProjectionConv2d
from eqmambair.layers.drop import FieldDropout
from eqmambair.layers.fold import fold
from eqmambair.layers.kit import Pointwise
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.norm import FieldLayerNorm2d, FieldScale
from eqmambair.layers.scan2d import GroupScan2d
from eqmambair.layers.shuffle import GroupPixelShuffle, GroupPool
from eqmambair.layers.upsample import ShuffleUpsample

GROUPS = ["c1", "c2", "c4", "d4"]
SIZES = [(5, 5), (4, 7), (6, 3), (1, 4), (1, 1)]


class Scan(nn.Module):
    """The scan unit with the paths of its group."""

    def __init__(self, g):
        super().__init__()
        self.group, self.unit = g, GroupScan2d(g, 6, states=3, expansion=1.0)

    def forward(self, x):
        return self.unit(x, self.group.scan_order(*x.shape[-2:]))


#: name -> (build, kind of input, kind of output)
LAYERS = {
    "lifting": (lambda g: LiftingConv2d(g, 3, 6), "image", "map"),
    "group": (lambda g: GroupConv2d(g, 6, 4), "map", "map"),
    "group 5x5": (lambda g: GroupConv2d(g, 6, 4, kernel_size=5), "map", "map"),
    "group without bias": (lambda g: GroupConv2d(g, 6, 4, bias=False), "map", "map"),
    "depthwise": (lambda g: DepthwiseGroupConv2d(g, 6, 6), "map", "map"),
    "depthwise dilated": (lambda g: DepthwiseGroupConv2d(g, 6, 6, dilation=2), "map", "map"),
    "depthwise widening": (lambda g: DepthwiseGroupConv2d(g, 6, 18, bias=False), "map", "map"),
    "projection": (lambda g: ProjectionConv2d(g, 6, 3), "map", "image"),
    "projection without bias": (lambda g: ProjectionConv2d(g, 6, 3, bias=False), "map", "image"),
    "linear": (lambda g: Pointwise(GroupLinear(g, 6, 5)), "map", "map"),
    "linear without bias": (lambda g: Pointwise(GroupLinear(g, 6, 5, bias=False)), "map", "map"),
    "norm": (lambda g: FieldLayerNorm2d(g, 6), "map", "map"),
    "scale": (lambda g: FieldScale(g, 6), "map", "map"),
    "attention": (lambda g: ChannelAttention(GroupLinear(g, 6, 2), GroupLinear(g, 2, 6)), "map", "map"),
    "pool": (GroupPool, "map", "image"),
    "upsample x2": (lambda g: ShuffleUpsample(GroupConv2d(g, 6, 12), GroupPixelShuffle(g, 2)), "map", "map"),
    "upsample x3 to image": (lambda g: ShuffleUpsample(GroupConv2d(g, 6, 27), GroupPixelShuffle(g, 3), GroupPool(g)), "map", "image"),
    "scan": (Scan, "map", "map"),
}


def build(name, group_name):
    g = group(group_name)
    maker, source, target = LAYERS[name]
    layer = maker(g).double()
    with torch.no_grad():
        for parameter in layer.parameters():  # off the initial values, so that ones and zeros hide nothing
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return g, layer, source, target


def act(g, x, element, kind):
    return g.act(x, element) if kind == "image" else g.act_field(x, element)


@pytest.mark.parametrize("group_name", GROUPS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_commutes_with_its_group(name, group_name):
    g, layer, source, target = build(name, group_name)
    for size in SIZES:
        x = torch.randn(2, 3 if source == "image" else 6 * g.order, *size, dtype=torch.float64)
        y = layer(x)
        for element in g.elements:
            # float64 rounding: exact in real arithmetic
            torch.testing.assert_close(layer(act(g, x, element, source)), act(g, y, element, target), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["lifting", "group", "depthwise", "projection", "linear", "upsample x2", "scan"])
def test_quarter_turn_layers_do_not_commute_with_mirror_images(name):
    _, layer, source, target = build(name, "c4")
    d4 = group("d4")
    mirror = 4
    x = torch.randn(1, 3 if source == "image" else 24, 5, 5, dtype=torch.float64)

    def mirrored(value, kind):
        if kind == "image":
            return d4.act(value, mirror)
        return d4.act(value, mirror).unflatten(1, (4, -1))[:, [0, 3, 2, 1]].flatten(1, 2)  # how a mirror would exchange the turns

    y = layer(x)
    assert (layer(mirrored(x, source)) - mirrored(y, target)).abs().max() > 1e-3 * y.abs().max()


@pytest.mark.parametrize("name", ["group", "depthwise", "upsample x2", "scan"])
def test_turning_pixels_without_rolling_orientations_breaks_the_law(name):
    g, layer, _, _ = build(name, "c4")
    x = torch.randn(1, 24, 5, 5, dtype=torch.float64)
    y = layer(x)
    assert (layer(g.act(x, 1)) - g.act(y, 1)).abs().max() > 1e-3 * y.abs().max()


@pytest.mark.parametrize("group_name", GROUPS)
@pytest.mark.parametrize("name", LAYERS)
def test_folded_layer_gives_the_same_output(name, group_name):
    g, layer, source, _ = build(name, group_name)
    x = torch.randn(2, 3 if source == "image" else 6 * g.order, 5, 4, dtype=torch.float64)
    folded = fold(nn.Sequential(layer))
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-9, atol=1e-11)


def test_folded_upsampler_is_plain_and_makes_only_the_pooled_channels():
    g = group("c4")
    folded = fold(nn.Sequential(ShuffleUpsample(GroupConv2d(g, 6, 12), GroupPixelShuffle(g, 2), GroupPool(g))))[0]
    assert type(folded.conv) is nn.Conv2d
    assert type(folded.shuffle) is nn.PixelShuffle
    assert folded.conv.out_channels == 12


def test_pixel_shuffle_of_scale_s_is_a_permutation():
    for scale in (2, 3, 4):
        for name in GROUPS:
            g = group(name)
            x = torch.arange(2 * g.order * scale**2 * 6.0).view(1, -1, 2, 3)
            assert torch.equal(GroupPixelShuffle(g, scale)(x).flatten().sort().values, x.flatten())


def test_trivial_group_conv_is_the_ordinary_conv():
    conv = GroupConv2d(group("c1"), 3, 5)
    x = torch.randn(1, 3, 4, 6)
    expected = nn.functional.conv2d(x, conv.weight[:, :, 0], conv.bias, padding=1)
    assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("group_name", ["c4", "d4"])
@pytest.mark.parametrize("size", [(6, 6), (5, 5), (4, 7)])
def test_every_draw_of_the_element_drop_is_symmetric(group_name, size):
    g = group(group_name)
    drop = FieldDropout(g, 0.5)
    mask = drop(torch.ones(3, 2 * g.order, *size))
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    for element in g.elements:
        moved = g.act_field(mask, element)
        if moved.shape == mask.shape:
            assert torch.equal(moved, mask)
    assert not torch.equal(mask[0], mask[1])  # drawn for each sample


def test_element_drop_keeps_the_mean_and_is_off_in_evaluation():
    drop = FieldDropout(group("c4"), 0.3)
    x = torch.ones(64, 32, 8, 8)
    assert drop(x).mean().item() == pytest.approx(1.0, abs=0.02)  # 131,072 draws: standard error 0.002
    assert drop.eval()(x) is x


def test_depthwise_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="out_fields = 7"):
        DepthwiseGroupConv2d(group("c4"), 3, 7)


def test_even_filters_are_refused():
    with pytest.raises(ValueError, match="kernel_size = 4"):
        GroupConv2d(group("c4"), 3, 3, kernel_size=4)


def test_gradients_of_an_invariant_loss_move_with_the_input():
    g, layer, _, _ = build("scan", "c4")
    x = torch.randn(1, 24, 4, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().mean(), x)
    turned = g.act_field(x.detach(), 1).requires_grad_()
    (turned_gradient,) = torch.autograd.grad(layer(turned).square().mean(), turned)
    torch.testing.assert_close(turned_gradient, g.act_field(gradient, 1), rtol=1e-9, atol=1e-12)
