"""MambaIRv2, classic and light: the published keys, and the options behind ours."""

import math
from typing import Any

import torch
from torch import Tensor

from eqmambair.checkpoints.systems.layout import (
    Layout,
    Rule,
    State,
    System,
    conv_to_linear,
    count,
    expansion,
    group_name,
    linear_to_conv,
    pair,
)  # fmt: skip
from eqmambair.checkpoints.systems.mambair import infer_head
from eqmambair.errors import UserError

_BLOCK = "groups.0.blocks.0"
_INDEX = "relative_position_index_SA"  # a buffer that the window's side tells


def _first_of(x: Tensor) -> Tensor:
    return x[0]  # the published scan has an axis of directions, of which there is one


def _one_direction(x: Tensor) -> Tensor:
    return x[None]


def _half(official: str, ours: str, n: int) -> list[Rule]:
    """Rules of what both halves of a block have: the norms, the feed-forward and the scale, numbered through in the published code."""
    feed = f"{official}.convffn{n}"
    return [
        pair(f"{official}.norm{2 * n - 1}.{{p}}", f"{ours}.norm1.{{p}}"),
        pair(f"{official}.norm{2 * n}.{{p}}", f"{ours}.norm2.{{p}}"),
        pair(f"{official}.scale{n}", f"{ours}.scale.weight"),
        pair(f"{feed}.fc1.{{p}}", f"{ours}.feed.expand.{{p}}"),
        pair(f"{feed}.fc2.{{p}}", f"{ours}.feed.squeeze.{{p}}"),
        pair(f"{feed}.sg.norm.{{p}}", f"{ours}.feed.norm.{{p}}"),
    ]


def _block(official: str, ours: str, light: bool) -> list[Rule]:
    window, state_space = f"{ours}.window", f"{ours}.state_space"
    scan, assm, filters = f"{state_space}.mixer", f"{official}.assm", "sg.conv" if light else "dwconv.depthwise_conv.0"
    return [
        *_half(official, window, 1),
        *_half(official, state_space, 2),
        pair(f"{official}.convffn1.{filters}.{{p}}", f"{window}.feed.conv.{{p}}"),
        pair(f"{official}.convffn2.{filters}.{{p}}", f"{state_space}.feed.conv.{{p}}"),
        pair(f"{official}.wqkv.{{p}}", f"{window}.mixer.qkv.{{p}}"),
        pair(f"{official}.win_mhsa.relative_position_bias_table", f"{window}.mixer.bias_table"),
        pair(f"{official}.win_mhsa.proj.{{p}}", f"{window}.mixer.proj.{{p}}"),
        pair(f"{official}.embeddingA.weight", f"{scan}.router.basis"),
        pair(f"{assm}.embeddingB.weight", f"{scan}.router.prompts"),
        pair(f"{assm}.route.0.{{p}}", f"{scan}.router.hidden.{{p}}"),
        pair(f"{assm}.route.2.{{p}}", f"{scan}.router.scores.{{p}}"),
        pair(f"{assm}.in_proj.0.{{p}}", f"{scan}.in_proj.{{p}}", conv_to_linear, linear_to_conv),
        pair(f"{assm}.CPE.0.{{p}}", f"{scan}.position.{{p}}"),
        pair(f"{assm}.selectiveScan.x_proj_weight", f"{scan}.x_proj.weight", _first_of, _one_direction),
        pair(f"{assm}.selectiveScan.dt_projs_weight", f"{scan}.dt_proj.weight", _first_of, _one_direction),
        pair(f"{assm}.selectiveScan.dt_projs_bias", f"{scan}.delta_bias", _first_of, _one_direction),
        pair(f"{assm}.selectiveScan.A_logs", f"{scan}.A_log"),
        pair(f"{assm}.selectiveScan.Ds", f"{scan}.D"),
        pair(f"{assm}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        pair(f"{assm}.out_proj.{{p}}", f"{scan}.out_proj.{{p}}"),
    ]


def _rules(light: bool, direct: bool) -> tuple[Rule, ...]:
    rules = [
        pair("conv_first.{p}", "lift.{p}"),
        pair("patch_embed.norm.{p}", "norm_in.{p}"),
        pair("norm.{p}", "norm_out.{p}"),
        *_block("layers.{g}.residual_group.layers.{j}", "groups.{g}.blocks.{j}", light),
        pair("conv_before_upsample.0.{p}", "head.before.{p}"),
        pair("conv_up1.{p}", "head.doubling.0.{p}"),
        pair("conv_up2.{p}", "head.doubling.1.{p}"),
        pair("conv_hr.{p}", "head.refine.{p}"),
        pair("conv_last.{p}", "head.project.{p}"),
    ]
    for official, ours in (("layers.{g}.conv", "groups.{g}.conv"), ("conv_after_body", "conv_after")):
        rules += [pair(f"{official}.{{p}}", f"{ours}.{{p}}"), pair(f"{official}.{{i}}.{{p}}", f"{ours}.{{i}}.{{p}}")]
    if direct:
        rules.append(pair("upsample.0.{p}", "head.conv.{p}"))
    else:
        rules += [pair(f"upsample.{2 * i}.{{p}}", f"head.upsample.{i}.conv.{{p}}") for i in range(3)]
    return tuple(rules)


def _without_index(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != _INDEX}


def _with_index(state: dict[str, Tensor]) -> dict[str, Tensor]:
    table = state["layers.0.residual_group.layers.0.win_mhsa.relative_position_bias_table"]
    return {**state, _INDEX: relative_index(_window(table)).to(table.device)}


def relative_index(window: int) -> Tensor:
    """The row of the bias table for a query a and a key b of a window, (w*w, w*w), int64, as the published files hold it."""
    y, x = (place.reshape(-1) for place in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def _window(table: Tensor) -> int:
    return (math.isqrt(table.shape[0]) + 1) // 2


def _layout(light: bool, direct: bool) -> Layout:
    return Layout("MambaIRv2Light" if light else "MambaIRv2", _rules(light, direct), _without_index, _with_index)


def _published(state: State) -> Layout | None:
    block = "layers.0.residual_group.layers.0"
    if f"{block}.assm.selectiveScan.A_logs" not in state:
        return None
    direct = "upsample.0.weight" in state and "conv_before_upsample.0.weight" not in state
    return _layout(f"{block}.convffn1.sg.conv.weight" in state, direct)


def _order(state: State) -> int:
    qkv = state[f"{_BLOCK}.window.mixer.qkv.weight"]
    return 3 * qkv.shape[1] // qkv.shape[0]


def _layout_of(state: State) -> Layout:
    if _order(state) != 1:
        raise UserError(f"the published MambaIRv2 commutes with no group, this network's has {_order(state)} elements")
    return _layout(f"{_BLOCK}.window.feed.norm.weight" in state, "head.conv.weight" in state)


def _infer(state: State) -> dict[str, Any]:
    order = _order(state)
    feed, attention, scan = f"{_BLOCK}.window.feed", f"{_BLOCK}.window.mixer", f"{_BLOCK}.state_space.mixer"
    embed_dim = order * state["lift.weight"].shape[0]
    in_chans = state["lift.weight"].shape[1]
    inner, states = state[f"{scan}.A_log"].shape
    groups = range(count(state, "groups."))
    light = f"{feed}.norm.weight" in state
    options: dict[str, Any] = {
        "type": "MambaIRv2Light" if light else "MambaIRv2",
        "group": group_name(order),
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "d_state": states,
        "depths": [count(state, f"groups.{g}.blocks.") for g in groups],
        "num_heads": [order * state[f"groups.{g}.blocks.0.window.mixer.bias_table"].shape[1] for g in groups],
        "window_size": _window(state[f"{attention}.bias_table"]),
        "inner_rank": state[f"{scan}.router.prompts"].shape[1],
        "num_tokens": state[f"{scan}.router.prompts"].shape[0],
        "mlp_ratio": expansion((order * inner, embed_dim)),
        "qkv_bias": f"{attention}.qkv.bias" in state,
        "patch_norm": "norm_in.weight" in state,
        "resi_connection": "1conv" if "conv_after.weight" in state else "3conv",
    }
    if not light:
        options["convffn_kernel_size"] = state[f"{feed}.conv.weight"].shape[-1]
    if "head.refine.weight" in state:
        return options | {"upsampler": "nearest+conv", "upscale": 4}
    return options | infer_head(state, in_chans)


SYSTEM = System(
    "MambaIRv2",
    owns=lambda state: f"{_BLOCK}.state_space.mixer.A_log" in state,
    published=_published,
    layout=_layout_of,
    infer=_infer,
)
