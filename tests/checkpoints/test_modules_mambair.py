"""The parts of MambaIR and EQ-MambaIR against golden cases; published maps keep the orientation fastest, ours slowest."""

import pytest
import torch
from torch import Tensor

from eqmambair.archs.mambair_arch import StateSpaceBlock, attention_branch
from eqmambair.checkpoints.systems import find_layout
from eqmambair.checkpoints.systems.equivariant import eq_conv, eq_linear, filters_from_basis
from eqmambair.checkpoints.systems.layout import Layout
from eqmambair.groups import cross_scan_order, group
from eqmambair.layers.attention import ChannelAttention
from eqmambair.layers.convolution import DepthwiseGroupConv2d, GroupConv2d, LiftingConv2d, ProjectionConv2d
from eqmambair.layers.kit import GroupKit, PlainKit
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.norm import FieldLayerNorm
from eqmambair.layers.scan2d import CrossScan2d, GroupScan2d
from eqmambair.layers.shuffle import GroupPixelShuffle
from tests.golden import GoldenCase, relative_error

C4 = group("c4")
TOLERANCE = 1e-5  # modules are shallow; float32 rounding is below 1e-6


def slowest(x: Tensor, axis: int = 1) -> Tensor:
    """Channels 4*field + orientation -> orientation * fields + field."""
    return x.unflatten(axis, (-1, 4)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def case(shared_dir, system, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / system / f"module_{name}.safetensors")


def load(module, state, rules):
    """Fill a module whose keys stand under `m.` on both sides of the rules."""
    ours = Layout("test", tuple(rules), filters_from_basis).to_ours({f"m.{key}": value for key, value in state.items()})
    module.load_state_dict({key.removeprefix("m."): value for key, value in ours.items()})
    return module.eval()


CONVOLUTIONS = {
    "lifting_conv": (lambda k: LiftingConv2d(C4, k["inNum"], k["outNum"]), "ends"),
    "group_conv": (lambda k: GroupConv2d(C4, k["inNum"], k["outNum"]), "group"),
    "group_conv_5x5": (lambda k: GroupConv2d(C4, k["inNum"], k["outNum"], kernel_size=5), "group"),
    "projection_conv": (lambda k: ProjectionConv2d(C4, k["inNum"], k["outNum"]), "ends"),
    "depthwise_conv": (lambda k: DepthwiseGroupConv2d(C4, k["inNum"], k["outNum"]), "depthwise"),
    "depthwise_conv_dilated": (lambda k: DepthwiseGroupConv2d(C4, k["inNum"], k["outNum"], dilation=2), "depthwise"),
    "depthwise_conv_expand4": (lambda k: DepthwiseGroupConv2d(C4, k["inNum"], k["outNum"]), "depthwise"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_equivariant_convolution(shared_dir, name):
    golden = case(shared_dir, "eq_mambair", name)
    build, kind = CONVOLUTIONS[name]
    layer = load(build(golden.kwargs), golden.state, eq_conv("m", "m", kind))
    x = golden.tensors["input/x"]
    y = layer(x if name == "lifting_conv" else slowest(x))
    expected = golden.tensors["output/y"]
    assert relative_error(y, expected if name == "projection_conv" else slowest(expected)) < TOLERANCE
    assert relative_error(layer.base_filter().flatten(), golden.tensors["output/base_kernel"].flatten()) < TOLERANCE


@pytest.mark.parametrize("name", ["circulant_linear", "circulant_linear_step"])
def test_group_linear(shared_dir, name):
    golden = case(shared_dir, "eq_mambair", name)
    layer = GroupLinear(C4, golden.kwargs["inNum"], golden.kwargs["outNum"], bias=golden.kwargs["bias"])
    load(layer, golden.state, eq_linear("m", "m"))
    assert relative_error(layer(slowest(golden.tensors["input/x"], 2)), slowest(golden.tensors["output/y"], 2)) < TOLERANCE


def test_field_layer_norm(shared_dir):
    golden = case(shared_dir, "eq_mambair", "field_layer_norm")
    norm = FieldLayerNorm(C4, golden.kwargs["normalized_shape"])
    norm.load_state_dict(golden.state)
    x, expected = (slowest(golden.tensors[key]).permute(0, 2, 3, 1) for key in ("input/x", "output/y"))
    assert relative_error(norm(x), expected) < TOLERANCE


def test_channel_attention(shared_dir):
    golden = case(shared_dir, "eq_mambair", "channel_attention")
    attention = ChannelAttention(GroupLinear(C4, 15, 2), GroupLinear(C4, 2, 15))
    rules = eq_linear("m.attention.2", "m.squeeze") + eq_linear("m.attention.4", "m.expand")
    load(attention, golden.state, rules)
    assert relative_error(attention(slowest(golden.tensors["input/x"])), slowest(golden.tensors["output/y"])) < TOLERANCE


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pixel_shuffle_to_the_bit(shared_dir, scale):
    golden = case(shared_dir, "eq_mambair", f"pixel_shuffle_x{scale}")
    assert torch.equal(GroupPixelShuffle(C4, scale)(slowest(golden.tensors["input/x"])), slowest(golden.tensors["output/y"]))


def test_scan_paths_to_the_bit(shared_dir):
    golden = case(shared_dir, "eq_mambair", "scan_paths")
    maps = golden.tensors["input/x"].flatten(3)[0, :, 0]  # (4, h*w)
    sequences = next(value for key, value in golden.part("output").items() if value.shape[-1] == maps.shape[-1] and "seq" in key)
    order = C4.scan_order(golden.kwargs["H"], golden.kwargs["W"]).long()
    assert torch.equal(maps.gather(1, order), sequences.view(4, -1))


def block_state(golden: GoldenCase, prefix: str) -> dict[str, Tensor]:
    """The state of a block or one of its parts, as ours: through the rules of a whole network."""
    equivariant = golden.metadata["system"] == "eq_mambair"
    published = {f"layers.0.residual_group.blocks.0.{prefix}{key}": value for key, value in golden.state.items()}
    marker = "eqconv_first.weights" if equivariant else "conv_first.weight"
    layout = find_layout([*published, marker, "layers.0.residual_group.blocks.0.self_attention.A_logs"])
    ours = layout.to_ours(published)
    return {key.removeprefix("groups.0.blocks.0."): value for key, value in ours.items()}


def kit_of(system):
    return (GroupKit(C4), 4, slowest) if system == "eq_mambair" else (PlainKit(), 1, lambda x: x)


@pytest.mark.parametrize("form", ["light", "classic"])
@pytest.mark.parametrize("system", ["eq_mambair", "mambair"])
def test_attention_branch(shared_dir, system, form):
    golden = case(shared_dir, system, f"attention_branch_{form}")
    kit, order, ours = kit_of(system)
    channels = golden.kwargs["num_feat"]
    branch = attention_branch(kit, channels // order, channels, light=form == "light")
    branch.load_state_dict({key.removeprefix("branch."): value for key, value in block_state(golden, "conv_blk.").items()})
    assert relative_error(branch(ours(golden.tensors["input/x"])), ours(golden.tensors["output/y"])) < TOLERANCE


@pytest.mark.parametrize("name", ["scan_unit", "scan_unit_published_width"])
def test_group_scan_unit(shared_dir, name):
    golden = case(shared_dir, "eq_mambair", name)
    unit = GroupScan2d(C4, golden.kwargs["d_model"] // 4, golden.kwargs["d_state"], golden.kwargs["expand"])
    unit.load_state_dict({key.removeprefix("scan."): value for key, value in block_state(golden, "self_attention.").items()})
    x = slowest(golden.tensors["input/x"])
    assert relative_error(unit(x, C4.scan_order(*x.shape[-2:])), slowest(golden.tensors["output/y"])) < TOLERANCE


def test_cross_scan_unit(shared_dir):
    golden = case(shared_dir, "mambair", "scan_unit")
    unit = CrossScan2d(golden.kwargs["d_model"], golden.kwargs["d_state"], golden.kwargs["expand"])
    unit.load_state_dict({key.removeprefix("scan."): value for key, value in block_state(golden, "self_attention.").items()})
    x = golden.tensors["input/x"]
    assert relative_error(unit(x, cross_scan_order(*x.shape[-2:])), golden.tensors["output/y"]) < TOLERANCE


@pytest.mark.parametrize("form", ["light", "classic"])
@pytest.mark.parametrize("system", ["eq_mambair", "mambair"])
def test_block(shared_dir, system, form):
    golden = case(shared_dir, system, f"block_{form}")
    kit, _, ours = kit_of(system)
    block = StateSpaceBlock(
        kit, golden.kwargs["hidden_dim"], golden.kwargs["d_state"], golden.kwargs["expand"], light=form == "light"
    ).eval()
    block.load_state_dict(block_state(golden, ""))
    x = ours(golden.tensors["input/x"])
    assert relative_error(block(x, kit.scan_paths(*x.shape[-2:], x.device)), ours(golden.tensors["output/y"])) < TOLERANCE
