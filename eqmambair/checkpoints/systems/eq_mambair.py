"""EQ-MambaIR: the published keys, and the options behind ours."""

from eqmambair.checkpoints.systems.equivariant import basis_from_filters, eq_conv, eq_linear, filters_from_basis
from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, any_with, group_name, pair
from eqmambair.checkpoints.systems.mambair import form_of, infer_restorer, norms_and_scales
from eqmambair.errors import UserError


def _block(official: str, ours: str, light: bool) -> list[Rule]:
    scan, published = f"{ours}.scan", f"{official}.self_attention"
    rules = [
        *norms_and_scales(official, ours),
        *eq_linear(f"{published}.eq_in_proj", f"{scan}.in_proj", f"{scan}.gate_proj"),
        *eq_conv(f"{published}.eq_conv2d", f"{scan}.conv", "depthwise"),
        *eq_linear(f"{published}.eq_linear_BCdt", f"{scan}.x_proj"),
        *eq_linear(f"{published}.eq_linear_dt_projs", f"{scan}.dt_proj"),
        pair(f"{published}.dt_projs_bias", f"{scan}.delta_bias"),
        pair(f"{published}.A_logs", f"{scan}.A_log"),
        pair(f"{published}.Ds", f"{scan}.D"),
        pair(f"{published}.eq_out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        *eq_linear(f"{published}.eq_out_proj_z", f"{scan}.mix_proj"),
        *eq_linear(f"{published}.eq_out_proj", f"{scan}.out_proj"),
    ]
    cab, branch = f"{official}.conv_blk.cab", f"{ours}.branch"
    if light:
        rules += [*eq_linear(f"{cab}.1", f"{branch}.0.linear"), *eq_conv(f"{cab}.3", f"{branch}.1", "depthwise")]
        rules += [*eq_linear(f"{cab}.6", f"{branch}.3.linear"), *eq_conv(f"{cab}.8", f"{branch}.4", "depthwise")]
        attention, ours_attention = f"{cab}.9.attention", f"{branch}.5"
    else:
        rules += [*eq_conv(f"{cab}.0", f"{branch}.0", "group"), *eq_conv(f"{cab}.2", f"{branch}.2", "group")]
        attention, ours_attention = f"{cab}.3.attention", f"{branch}.3"
    return rules + eq_linear(f"{attention}.2", f"{ours_attention}.squeeze") + eq_linear(f"{attention}.4", f"{ours_attention}.expand")


def _rules(form: str) -> tuple[Rule, ...]:
    rules = [
        *eq_conv("eqconv_first", "lift", "ends"),
        pair("patch_embed.norm.{p}", "norm_in.{p}"),
        pair("norm.{p}", "norm_out.{p}"),
        *_block("layers.{g}.residual_group.blocks.{j}", "groups.{g}.blocks.{j}", light=form == "light"),
    ]
    for official, ours in (("layers.{g}.eqconv", "groups.{g}.conv"), ("eqconv_after_body", "conv_after")):
        rules += eq_conv(official, ours, "group")
        rules += [*eq_conv(f"{official}.0", f"{ours}.0", "group"), *eq_conv(f"{official}.6", f"{ours}.4", "group")]
        rules += eq_linear(f"{official}.3", f"{ours}.2.linear")
    if form == "classic":
        rules += [*eq_conv("eqconv_before_upsample.0", "head.before", "group"), *eq_conv("eqconv_last", "head.project", "ends")]
        for i in range(3):
            rules += eq_conv(f"equpsample.{2 * i}", f"head.upsample.{i}.conv", "group")
    else:
        rules += [*eq_conv("equpsample.0", "head.conv", "group"), *eq_conv("eqconv_last", "head", "ends")]
    return tuple(rules)


def _layout(form: str) -> Layout:
    return Layout("EQMambaIR", _rules(form), filters_from_basis, basis_from_filters)


def _published(state: State) -> Layout | None:
    if not any_with(state, "eqconv_first."):
        return None
    if any_with(state, "layers.0.residual_group.blocks.0.conv_blk.cab.9."):  # the light branch's channel attention
        return _layout("light")
    return _layout("classic" if any_with(state, "eqconv_before_upsample.", "equpsample.") else "same size")


def _order(state: State) -> int:
    return int(state[_MIX].shape[-1])


def _layout_of(state: State) -> Layout:
    if _order(state) != 4:
        raise UserError(f"the published EQMambaIR has the four quarter turns, this network's group has {_order(state)} elements")
    return _layout(form_of(state))


_MIX = "groups.0.blocks.0.scan.mix_proj.weight"

SYSTEM = System(
    "EQMambaIR",
    owns=lambda state: _MIX in state,
    published=_published,
    layout=_layout_of,
    infer=lambda state: {"type": "EQMambaIR", "group": group_name(_order(state)), **infer_restorer(state, _order(state))},
)
