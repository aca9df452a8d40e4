"""UPerNet and EQ-UPerNet on VMamba and EQ-VMamba: the published keys, and the options behind ours."""

from typing import Any

from torch import Tensor

from eqmambair.checkpoints.systems import eq_vmamba, vmamba
from eqmambair.checkpoints.systems.equivariant import basis_from_filters, eq_conv
from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, conv_to_linear, count, linear_to_conv, pair
from eqmambair.errors import UserError

#: Published name of a convolution with its norm -> ours, and whether it looks at one pixel.
_PLACES = (
    ("decode_head.psp_modules.{i}.1", "decoder.pooling.branches.{i}", True),
    ("decode_head.bottleneck", "decoder.pooling.fuse", False),
    ("decode_head.lateral_convs.{i}", "decoder.laterals.{i}", True),
    ("decode_head.fpn_convs.{i}", "decoder.smooth.{i}", False),
)
#: The same for what ends the heads, whose norm is an ordinary one in both networks.
_ENDS = (("decode_head.fpn_bottleneck", "decoder.head.fuse"), ("auxiliary_head.convs.0", "aux_head.fuse"))


def _classifiers() -> list[Rule]:
    return [
        pair("decode_head.conv_seg.{p}", "decoder.head.classify.{p}"),
        pair("auxiliary_head.conv_seg.{p}", "aux_head.classify.{p}"),
    ]


def _plain_rules() -> tuple[Rule, ...]:
    rules = [*vmamba.backbone_rules("backbone."), *vmamba.output_norm_rules("backbone."), *_classifiers()]
    for published, ours, pointwise in (*_PLACES, *((a, b, False) for a, b in _ENDS)):
        if pointwise:
            rules.append(pair(f"{published}.conv.weight", f"{ours}.0.linear.weight", conv_to_linear, linear_to_conv))
        else:
            rules.append(pair(f"{published}.conv.weight", f"{ours}.0.weight"))
        rules.append(pair(f"{published}.bn.{{p}}", f"{ours}.1.{{p}}"))
    return tuple(rules)


def _equivariant_rules() -> tuple[Rule, ...]:
    rules = [*eq_vmamba.backbone_rules("backbone."), *vmamba.output_norm_rules("backbone."), *_classifiers()]
    for published, ours, pointwise in _PLACES:
        if pointwise:
            rules.append(pair(f"{published}.conv.weights", f"{ours}.0.linear.weight", lambda w: w[..., 0], lambda w: w[..., None]))
        else:
            rules += eq_conv(f"{published}.conv", f"{ours}.0", "group")
        rules.append(pair(f"{published}.bn.norm.{{p}}", f"{ours}.1.norm.{{p}}"))
    for published, ours in _ENDS:
        rules += eq_conv(f"{published}.conv", f"{ours}.0", "ends")
        rules.append(pair(f"{published}.bn.{{p}}", f"{ours}.1.{{p}}"))
    return tuple(rules)


PLAIN = Layout("UPerNet", _plain_rules(), prepare=vmamba.newer_names)
EQUIVARIANT = Layout("EQUPerNet", _equivariant_rules(), prepare=eq_vmamba.from_published, finish=basis_from_filters)


def _backbone(state: State) -> dict[str, Tensor]:
    """The backbone's part of a state dict of ours, as a network of its own."""
    return {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}


def _owns(state: State, equivariant: bool) -> bool:
    group_norms = "decoder.pooling.fuse.1.norm.weight" in state
    return "decoder.head.fuse.0.weight" in state and group_norms == equivariant


def _layout_of(state: State, equivariant: bool) -> Layout:
    backbone = _backbone(state)
    if not vmamba.owns_pyramid(backbone, equivariant):
        raise UserError("a segmentation network has a published layout on the backbones VMamba (plain) and EQVMamba (equivariant) only")
    if equivariant:
        eq_vmamba.check_published_form(backbone)
    return EQUIVARIANT if equivariant else PLAIN


def _infer(state: State, equivariant: bool) -> dict[str, Any]:
    from eqmambair.checkpoints.systems import infer_options  # lists this file

    backbone = infer_options(_backbone(state))
    backbone = {key: value for key, value in backbone.items() if key not in ("num_classes", "out_indices")}
    if count(state, "decoder.pooling.branches.") != 4:
        raise UserError("the pyramid pooling does not have the four published grids; name the network in an option file")
    options = {
        "type": "EQUPerNet" if equivariant else "UPerNet",
        "backbone": backbone,
        "num_classes": state["decoder.head.classify.weight"].shape[0],
        "channels": state["decoder.head.fuse.0.weight"].shape[0],
        "aux_channels": 0,
    }
    if "aux_head.classify.weight" in state:
        order = state["decoder.laterals.0.0.linear.weight"].shape[-1] if equivariant else 1
        width = order * state["aux_head.fuse.0.weight"].shape[1]
        readers = [f"decoder.laterals.{i}.0.linear.weight" for i in range(3)] + ["decoder.pooling.branches.0.0.linear.weight"]
        fitting = [i for i in (2, 3, 1, 0) if order * state[readers[i]].shape[1] == width]  # the published stage where several fit
        options |= {"aux_channels": state["aux_head.classify.weight"].shape[1], "aux_index": fitting[0]}
    return options


_SEGMENTS = "decode_head.conv_seg.weight"

SYSTEMS = (
    System(
        "UPerNet",
        owns=lambda state: _owns(state, equivariant=False),
        published=lambda state: PLAIN if _SEGMENTS in state and vmamba.is_published(state, "backbone.") else None,
        layout=lambda state: _layout_of(state, equivariant=False),
        infer=lambda state: _infer(state, equivariant=False),
    ),
    System(
        "EQUPerNet",
        owns=lambda state: _owns(state, equivariant=True),
        published=lambda state: EQUIVARIANT if _SEGMENTS in state and eq_vmamba.is_published(state, "backbone.") else None,
        layout=lambda state: _layout_of(state, equivariant=True),
        infer=lambda state: _infer(state, equivariant=True),
    ),
)  # fmt: skip
