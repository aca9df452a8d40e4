"""The parts of VMamba, EQ-VMamba and their segmentation heads against golden cases; published maps keep the orientation fastest."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from eqmambair import build_network
from eqmambair.archs.upernet_arch import EQUPerNet, UPerNet
from eqmambair.archs.vmamba_arch import VisionBlock
from eqmambair.checkpoints.systems import eq_vmamba, upernet, vmamba
from eqmambair.checkpoints.systems.equivariant import eq_conv, eq_linear, filters_from_basis
from eqmambair.checkpoints.systems.layout import Layout, pair
from eqmambair.groups import cross_scan_order, group
from eqmambair.layers.convolution import DepthwiseGroupConv2d
from eqmambair.layers.kit import GroupKit, PlainKit
from eqmambair.layers.linear import GroupLinear, InvariantLinear
from eqmambair.layers.norm import ChannelLayerNorm, FieldLayerNorm2d
from eqmambair.layers.strided import StridedGroupConv2d, StridedLiftingConv2d
from eqmambair.ops import selective_scan
from tests.checkpoints.test_golden_vmamba import slowest
from tests.golden import GoldenCase, relative_error

C4 = group("c4")
TOLERANCE = 1e-5  # of the largest entry; modules are shallow
NORM_TOLERANCE = 1e-4  # a sample's variance is comparable to eps
GRADIENT_TOLERANCE = 1e-4


def case(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / f"{name}.safetensors")


def same(x: Tensor) -> Tensor:
    return x


def layer_layout(*rules) -> Layout:
    """The rules of one layer, whose keys stand under ``m.`` on both sides."""
    return Layout("test", rules, filters_from_basis)


def ours_of(state: dict[str, Tensor], layout: Layout, published: str, ours: str) -> dict[str, Tensor]:
    """A module's state under our keys: as if it stood at `published` in a whole network, where ours stands at `ours`."""
    found = layout.to_ours({f"{published}{key}": value for key, value in state.items()})
    assert all(key.startswith(ours) for key in found)
    return {key.removeprefix(ours): value for key, value in found.items()}


def loaded(module: nn.Module, golden: GoldenCase, layout: Layout, published: str, ours: str) -> nn.Module:
    module.load_state_dict(ours_of(golden.state, layout, published, ours))
    return module.eval()


def check_gradients(module, golden, layout, published, ours, read=same, arguments=()):
    """Gradients of mean(y^2) with respect to the input and every published parameter."""
    expected = golden.part("grad/param")
    state = {key: value.clone().requires_grad_(key in expected) for key, value in golden.state.items()}
    x = golden.tensors["input/x"].clone().requires_grad_()
    y = functional_call(module, ours_of(state, layout, published, ours), (read(x), *arguments))
    y.square().mean().backward()
    assert relative_error(x.grad, golden.tensors["grad/input/x"]) < GRADIENT_TOLERANCE
    assert expected
    for key, gradient in expected.items():
        assert relative_error(state[key].grad, gradient) < GRADIENT_TOLERANCE, key


def test_selective_scan(shared_dir):
    golden = case(shared_dir, "vmamba/mod_selective_scan")
    inputs = {key: value.clone().requires_grad_() for key, value in golden.part("input").items()}
    g, d = golden.kwargs["groups"], golden.kwargs["channels_per_group"]
    tokens = lambda x: x.unflatten(1, (g, d)).permute(0, 3, 1, 2)  # noqa: E731 (b, g*d, l) -> (b, l, g, d)
    y = selective_scan(
        tokens(inputs["u"]), tokens(inputs["delta"]), inputs["A"].unflatten(0, (g, d)), inputs["B"].permute(0, 3, 1, 2),
        inputs["C"].permute(0, 3, 1, 2), inputs["D"].view(g, d), inputs["delta_bias"].view(g, d),
    )  # fmt: skip
    y = y.permute(0, 2, 3, 1).flatten(1, 2)
    assert relative_error(y, golden.tensors["output/y"]) < TOLERANCE
    y.square().mean().backward()
    for key, gradient in golden.part("grad/input").items():
        assert relative_error(inputs[key].grad, gradient) < GRADIENT_TOLERANCE, key


def test_plain_paths_to_the_bit(shared_dir):
    golden = case(shared_dir, "vmamba/mod_cross_scan")
    x, y = golden.tensors["input/x"], golden.tensors["input/y"]
    order = cross_scan_order(*x.shape[-2:]).long()
    read = torch.stack([x.flatten(2)[..., path] for path in order], 1)
    assert torch.equal(read, golden.tensors["output/seq"])
    merged = torch.zeros_like(x).flatten(2)
    for k, path in enumerate(order):
        merged[..., path] += y[:, k].flatten(2)
    torch.testing.assert_close(merged.view_as(x), golden.tensors["output/merged"], rtol=1e-6, atol=1e-6)  # another order of the sum


def test_equivariant_paths_to_the_bit(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_cross_scan")
    x, y = golden.tensors["input/x"], golden.tensors["input/y"]
    order = C4.scan_order(*x.shape[-2:]).long()
    read = torch.stack([x[:, t].flatten(2)[..., path] for t, path in enumerate(order)], 1)
    assert torch.equal(read, golden.tensors["output/seq"])
    back = torch.empty_like(y)
    for t, path in enumerate(order):
        back[:, t, :, path] = y[:, t]
    assert torch.equal(back.view_as(x), golden.tensors["output/unscanned"])


def test_layer_norms(shared_dir):
    golden = case(shared_dir, "vmamba/mod_layernorm")
    norm = ChannelLayerNorm(golden.kwargs["dim"])
    norm.load_state_dict(golden.state)
    assert relative_error(norm(golden.tensors["input/x"]), golden.tensors["output/y"]) < NORM_TOLERANCE
    golden = case(shared_dir, "eq_vmamba/mod_layernorm")
    norm = FieldLayerNorm2d(C4, golden.kwargs["per_group"])
    norm.load_state_dict(golden.state)
    assert relative_error(norm(slowest(golden.tensors["input/x"])), slowest(golden.tensors["output/y"])) < NORM_TOLERANCE


def last_slowest(x: Tensor) -> Tensor:
    return slowest(x.movedim(-1, 1)).movedim(1, -1)


def test_group_linear(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_linear")
    layer = GroupLinear(C4, golden.kwargs["in_per_group"], golden.kwargs["out_per_group"])
    layout = layer_layout(*eq_linear("m", "m"))
    loaded(layer, golden, layout, "m.", "m.")
    assert relative_error(layer(last_slowest(golden.tensors["input/x"])), last_slowest(golden.tensors["output/y"])) < TOLERANCE
    check_gradients(layer, golden, layout, "m.", "m.", last_slowest)


def test_invariant_linear(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_linear_invariant")
    layer = InvariantLinear(C4, golden.kwargs["in_per_group"], golden.kwargs["out"])
    layout = layer_layout(pair("m.weights", "m.weight", lambda v: v[..., 0]), pair("m.c", "m.bias"))
    loaded(layer, golden, layout, "m.", "m.")
    assert relative_error(layer(last_slowest(golden.tensors["input/x"])), golden.tensors["output/y"]) < TOLERANCE
    check_gradients(layer, golden, layout, "m.", "m.", last_slowest)


@pytest.mark.parametrize("name", ["strided_conv", "strided_conv_odd", "strided_conv_lift", "strided_conv_lift_odd"])
def test_strided_convolution(shared_dir, name):
    golden = case(shared_dir, f"eq_vmamba/mod_{name}")
    exact = not name.endswith("odd")  # the odd cases record what the published code does there
    if golden.kwargs["lift"]:
        layer = StridedLiftingConv2d(C4, golden.kwargs["in_channels"], golden.kwargs["out_per_group"], exact_any_size=exact)
        layout, read = layer_layout(*eq_conv("m", "m", "ends")), same
    else:
        layer = StridedGroupConv2d(C4, golden.kwargs["in_per_group"], golden.kwargs["out_per_group"], exact_any_size=exact)
        layout, read = layer_layout(*eq_conv("m", "m", "group")), slowest
    loaded(layer, golden, layout, "m.", "m.")
    assert relative_error(layer(read(golden.tensors["input/x"])), slowest(golden.tensors["output/y"])) < TOLERANCE
    if "output/base_kernel" in golden.tensors:
        assert relative_error(layer.base_filter().flatten(), golden.tensors["output/base_kernel"].flatten()) < TOLERANCE
        kernel = golden.tensors["output/kernel"]
        kernel = slowest(kernel.transpose(0, 1)).transpose(0, 1)
        assert relative_error(layer.plain_weight(), kernel if golden.kwargs["lift"] else slowest(kernel)) < TOLERANCE
    if golden.part("grad/param"):
        check_gradients(layer, golden, layout, "m.", "m.", read)


def test_depthwise_convolution_that_widens(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_depthwise")
    layer = DepthwiseGroupConv2d(C4, golden.kwargs["in_per_group"], golden.kwargs["out_per_group"], bias=False)
    loaded(layer, golden, layer_layout(*eq_conv("m", "m", "depthwise")), "m.", "m.")
    assert relative_error(layer(slowest(golden.tensors["input/x"])), slowest(golden.tensors["output/y"])) < TOLERANCE
    assert relative_error(layer.plain_weight(), golden.tensors["output/kernel"]) < TOLERANCE


SYSTEMS = {"vmamba": (PlainKit(), vmamba.LAYOUT, same), "eq_vmamba": (GroupKit(C4), eq_vmamba.LAYOUT, slowest)}
BLOCK = ("layers.0.blocks.0.", "stages.0.0.")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["ss2d_a", "ss2d_b", "block"])
def test_scan_unit_and_block(shared_dir, system, name):
    golden = case(shared_dir, f"{system}/mod_{name}")
    kit, layout, read = SYSTEMS[system]
    k = golden.kwargs
    block = VisionBlock(kit, k["dim"], k["ssm_d_state"], k["ssm_ratio"], k.get("mlp_ratio", 4.0))
    module, published, ours = (block, *BLOCK) if name == "block" else (block.scan, f"{BLOCK[0]}op.", f"{BLOCK[1]}scan.")
    loaded(module, golden, layout, published, ours)
    x = golden.tensors["input/x"]
    order = kit.scan_paths(*x.shape[-2:], x.device)
    assert relative_error(module(read(x), order), read(golden.tensors["output/y"])) < TOLERANCE
    if golden.part("grad/param"):
        check_gradients(module, golden, layout, published, ours, read, (order,))


def test_group_mlp(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_mlp")
    fields = golden.kwargs["per_group"]
    mlp = VisionBlock(GroupKit(C4), 4 * fields, 1, 1.0, golden.kwargs["hidden_per_group"] / fields).mlp
    loaded(mlp, golden, eq_vmamba.LAYOUT, f"{BLOCK[0]}mlp.", f"{BLOCK[1]}mlp.")
    assert relative_error(mlp(slowest(golden.tensors["input/x"])), slowest(golden.tensors["output/y"])) < TOLERANCE


@pytest.mark.parametrize("system", SYSTEMS)
def test_patch_embedding_and_downsampling(shared_dir, system):
    layout, read = SYSTEMS[system][1:]
    kind = {"vmamba": "VMamba", "eq_vmamba": "EQVMamba"}[system]
    golden = case(shared_dir, f"{system}/mod_patch_embed")
    stem = build_network({"type": kind, "dims": [golden.kwargs["dim"]], "depths": [1]}).stem
    loaded(stem, golden, layout, "patch_embed.", "stem.")
    assert relative_error(stem(golden.tensors["input/x"]), read(golden.tensors["output/y"])) < TOLERANCE
    golden = case(shared_dir, f"{system}/mod_downsample")
    down = build_network({"type": kind, "dims": [golden.kwargs["dim"], golden.kwargs["out_dim"]], "depths": [1, 1]}).downs[0]
    loaded(down, golden, layout, "layers.0.downsample.", "downs.0.")
    assert relative_error(down(read(golden.tensors["input/x"])), read(golden.tensors["output/y"])) < TOLERANCE


def test_invariant_classifier(shared_dir):
    golden = case(shared_dir, "eq_vmamba/mod_classifier")
    network = build_network(
        {"type": "EQVMamba", "dims": [golden.kwargs["dim"]], "depths": [1], "num_classes": golden.kwargs["num_classes"]}
    )
    network.load_state_dict(ours_of(golden.state, eq_vmamba.LAYOUT, "classifier.", ""), strict=False)
    assert relative_error(network.classify(slowest(golden.tensors["input/x"])), golden.tensors["output/y"]) < TOLERANCE


def segmenter(kwargs: dict, equivariant: bool) -> UPerNet | EQUPerNet:
    """A network whose heads have the sizes of a case; only the heads are used."""
    channels = kwargs.get("channels", 16)
    backbone = {"type": "EQVMamba" if equivariant else "VMamba", "dims": kwargs.get("in_channels", [8, 16, 24, 32]), "depths": [1, 1, 1, 1]}
    return (EQUPerNet if equivariant else UPerNet)(
        backbone=backbone, num_classes=kwargs.get("num_classes", 6), channels=channels, aux_channels=kwargs.get("aux_channels", 8)
    ).eval()


FORMS = {"plain": (upernet.PLAIN, same), "eq": (upernet.EQUIVARIANT, slowest)}


@pytest.mark.parametrize("form", FORMS)
def test_decoder(shared_dir, form):
    golden = case(shared_dir, f"segmentation/mod_uper_{form}")
    layout, read = FORMS[form]
    decoder = segmenter(golden.kwargs, form == "eq").decoder
    loaded(decoder, golden, layout, "decode_head.", "decoder.")
    maps = [read(golden.tensors[f"input/f{i}"]) for i in range(4)]
    assert relative_error(decoder(maps), golden.tensors["output/y"]) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_auxiliary_head(shared_dir, form):
    golden = case(shared_dir, f"segmentation/mod_fcn_{form}")
    layout, read = FORMS[form]
    head = segmenter({"aux_channels": golden.kwargs["channels"], "num_classes": golden.kwargs["num_classes"]}, form == "eq").aux_head
    loaded(head, golden, layout, "auxiliary_head.", "aux_head.")
    assert relative_error(head(read(golden.tensors["input/f2"])), golden.tensors["output/y"]) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_pyramid_pooling(shared_dir, form):
    golden = case(shared_dir, f"segmentation/mod_ppm_{form}")
    layout, read = FORMS[form]
    kwargs = golden.kwargs
    pooling = segmenter({"channels": kwargs["channels"], "in_channels": [8, 16, 24, kwargs["in_channels"]]}, form == "eq").decoder.pooling
    loaded(pooling, golden, layout, "decode_head.", "decoder.pooling.")
    x = read(golden.tensors["input/x"])
    for i, branch in enumerate(pooling.pooled(x)):
        assert relative_error(branch, read(golden.tensors[f"output/pool{i}"])) < TOLERANCE
    assert relative_error(pooling(x), read(golden.tensors["output/y"])) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "published", "ours"),
    [
        ("eq_lateral", "decode_head.lateral_convs.1.", "laterals.1"),
        ("eq_fpn_conv", "decode_head.fpn_convs.0.", "smooth.0"),
        ("eq_projection_conv", "decode_head.fpn_bottleneck.", "head.fuse"),
    ],
)
def test_convolution_with_its_norm(shared_dir, name, published, ours):
    golden = case(shared_dir, f"segmentation/mod_{name}")
    part = segmenter({"channels": 16}, equivariant=True).decoder.get_submodule(ours)
    loaded(part, golden, upernet.EQUIVARIANT, published, f"decoder.{ours}.")
    y = part(slowest(golden.tensors["input/x"]))
    assert relative_error(y, golden.tensors["output/y"] if "projection" in name else slowest(golden.tensors["output/y"])) < TOLERANCE
