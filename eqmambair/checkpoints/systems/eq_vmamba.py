"""EQ-VMamba: the published keys, and the options behind ours."""

import torch
from torch import Tensor

from eqmambair.checkpoints.systems.equivariant import basis_from_filters, eq_conv, eq_linear, filters_from_basis
from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, group_name, pair
from eqmambair.checkpoints.systems.vmamba import infer_pyramid, output_norm_rules, owns_pyramid
from eqmambair.errors import UserError

_GENERATORS = (".eq_linear_BCdt.weights", ".eq_linear_dt_projs.weights")


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Filters for coefficients; generators that mix no orientations (the ablation: every other offset is zero) lose that axis."""
    state = filters_from_basis(state)
    generators = [key for key in state if key.endswith(_GENERATORS)]
    if generators and not any(bool(state[key][..., 1:].any()) for key in generators):
        state |= {key: state[key][..., 0] for key in generators}  # (m, 1, n)
    return state


def _generator(official: str, ours: str) -> Rule:
    """One row of a generator is (m, 1, n, t), or (m, 1, n) where no orientations mix; ours are (m, n, t) and (m, n)."""

    def save(w: Tensor) -> Tensor:
        if w.dim() == 2:
            w = torch.cat([w[..., None], w.new_zeros(*w.shape, 3)], -1)
        return w[:, None]

    return pair(f"{official}.weights", f"{ours}.weight", lambda w: w[:, 0], save)


def backbone_rules(prefix: str = "") -> list[Rule]:
    """Rules of everything but the output norms and the classifier; `prefix` (``backbone.``) is the same on both sides."""
    published, ours = f"{prefix}layers.{{i}}.blocks.{{j}}", f"{prefix}stages.{{i}}.{{j}}"
    op, scan = f"{published}.op", f"{ours}.scan"
    return [
        *eq_conv(f"{prefix}patch_embed.0", f"{prefix}stem.0", "ends"),
        pair(f"{prefix}patch_embed.2.{{p}}", f"{prefix}stem.1.{{p}}"),
        *eq_conv(f"{prefix}patch_embed.5", f"{prefix}stem.3", "group"),
        pair(f"{prefix}patch_embed.7.{{p}}", f"{prefix}stem.4.{{p}}"),
        pair(f"{published}.norm.{{p}}", f"{ours}.norm1.{{p}}"),
        pair(f"{published}.norm2.{{p}}", f"{ours}.norm2.{{p}}"),
        *eq_linear(f"{published}.mlp.fc1", f"{ours}.mlp.0.linear"),
        *eq_linear(f"{published}.mlp.fc2", f"{ours}.mlp.2.linear"),
        *eq_linear(f"{op}.eq_in_proj", f"{scan}.in_proj"),
        *eq_conv(f"{op}.eq_conv2d", f"{scan}.conv", "depthwise"),
        _generator(f"{op}.eq_linear_BCdt", f"{scan}.x_proj"),
        _generator(f"{op}.eq_linear_dt_projs", f"{scan}.dt_proj"),
        pair(f"{op}.dt_projs_bias", f"{scan}.delta_bias"),
        pair(f"{op}.A_logs", f"{scan}.A_log"),
        pair(f"{op}.Ds", f"{scan}.D"),
        pair(f"{op}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        *eq_linear(f"{op}.eq_out_proj", f"{scan}.out_proj"),
        *eq_conv(f"{prefix}layers.{{i}}.downsample.1", f"{prefix}downs.{{i}}.0", "group"),
        pair(f"{prefix}layers.{{i}}.downsample.3.{{p}}", f"{prefix}downs.{{i}}.1.{{p}}"),
    ]


LAYOUT = Layout(
    "EQVMamba",
    (
        *backbone_rules(),
        *output_norm_rules(),
        pair("classifier.norm.{p}", "norm.{p}"),
        pair("classifier.head.weights", "head.weight", lambda v: v[..., 0], lambda v: v[..., None]),
        pair("classifier.head.c", "head.bias"),
    ),
    prepare=from_published,
    finish=basis_from_filters,
)


def is_published(state: State, prefix: str = "") -> bool:
    """Whether the keys are those of a published EQ-VMamba."""
    return f"{prefix}layers.0.blocks.0.op.eq_in_proj.weights" in state


def order_of(state: State) -> int:
    """The group's order, from the weights of a network or backbone of ours."""
    return int(state["stages.0.0.scan.in_proj.weight"].shape[-1])


def check_published_form(state: State) -> None:
    """Raise UserError unless a network of ours has the published group and patches."""
    if order_of(state) != 4:
        raise UserError(f"the published EQVMamba has the four quarter turns, this network's group has {order_of(state)} elements")
    if state["stem.0.weight"].shape[-1] != 3:
        raise UserError("the published EQVMamba has patches of 4 pixels, this network has others")


def _layout_of(state: State) -> Layout:
    check_published_form(state)
    return LAYOUT


SYSTEM = System(
    "EQVMamba",
    owns=lambda state: owns_pyramid(state, equivariant=True),
    published=lambda state: LAYOUT if is_published(state) else None,
    layout=_layout_of,
    infer=lambda state: {
        "type": "EQVMamba",
        "group": group_name(order_of(state)),
        **infer_pyramid(state, order_of(state)),
        "param_generator": "group" if state["stages.0.0.scan.x_proj.weight"].dim() == 3 else "independent",
    },
)
