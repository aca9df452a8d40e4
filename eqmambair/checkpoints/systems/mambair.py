"""MambaIR: the published keys, and the options behind ours."""

import math
from typing import Any

from eqmambair.checkpoints.systems.layout import (
    Layout,
    Rule,
    State,
    System,
    any_with,
    conv_to_linear,
    count,
    expansion,
    join_paths,
    linear_to_conv,
    pair,
    split_paths,
)  # fmt: skip


def norms_and_scales(official: str, ours: str) -> list[Rule]:
    """Rules of what the blocks of MambaIR and EQ-MambaIR call the same."""
    return [
        pair(f"{official}.ln_1.{{p}}", f"{ours}.norm1.{{p}}"),
        pair(f"{official}.ln_2.{{p}}", f"{ours}.norm2.{{p}}"),
        pair(f"{official}.skip_scale", f"{ours}.scale1.weight"),
        pair(f"{official}.skip_scale2", f"{ours}.scale2.weight"),
    ]


def plain_block(official: str, ours: str, light: bool) -> list[Rule]:
    """Rules of one block; `light` tells its convolution branch."""
    scan, published = f"{ours}.scan", f"{official}.self_attention"
    rules = [
        *norms_and_scales(official, ours),
        Rule(f"{published}.in_proj.weight", (f"{scan}.in_proj.weight", f"{scan}.gate_proj.weight")),
        pair(f"{published}.conv2d.{{p}}", f"{scan}.conv.{{p}}"),
        pair(f"{published}.x_proj_weight", f"{scan}.x_proj.weight", join_paths, split_paths),
        pair(f"{published}.dt_projs_weight", f"{scan}.dt_proj"),
        pair(f"{published}.dt_projs_bias", f"{scan}.delta_bias"),
        pair(f"{published}.A_logs", f"{scan}.A_log", split_paths, join_paths),
        pair(f"{published}.Ds", f"{scan}.D", split_paths, join_paths),
        pair(f"{published}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        pair(f"{published}.out_proj.weight", f"{scan}.out_proj.weight"),
    ]
    cab, branch = f"{official}.conv_blk.cab", f"{ours}.branch"
    if light:
        convs, linears, attention = {1: 1, 4: 4}, {0: 0, 3: 3}, 5
    else:
        convs, linears, attention = {0: 0, 2: 2}, {}, 3
    rules += [pair(f"{cab}.{i}.{{p}}", f"{branch}.{j}.{{p}}") for i, j in convs.items()]
    rules += [pair(f"{cab}.{i}.{{p}}", f"{branch}.{j}.linear.{{p}}", conv_to_linear, linear_to_conv) for i, j in linears.items()]
    for i, word in ((1, "squeeze"), (3, "expand")):
        rules.append(pair(f"{cab}.{attention}.attention.{i}.{{p}}", f"{branch}.{attention}.{word}.{{p}}", conv_to_linear, linear_to_conv))
    return rules


def _rules(form: str) -> tuple[Rule, ...]:
    rules = [
        pair("conv_first.{p}", "lift.{p}"),
        pair("patch_embed.norm.{p}", "norm_in.{p}"),
        pair("norm.{p}", "norm_out.{p}"),
        *plain_block("layers.{g}.residual_group.blocks.{j}", "groups.{g}.blocks.{j}", light=form == "light"),
    ]
    for official, ours in (("layers.{g}.conv", "groups.{g}.conv"), ("conv_after_body", "conv_after")):
        rules += [pair(f"{official}.{{p}}", f"{ours}.{{p}}")]
        rules += [pair(f"{official}.{i}.{{p}}", f"{ours}.{i}.{{p}}") for i in (0, 4)]
        rules += [pair(f"{official}.2.{{p}}", f"{ours}.2.linear.{{p}}", conv_to_linear, linear_to_conv)]
    if form == "classic":
        rules += [pair("conv_before_upsample.0.{p}", "head.before.{p}"), pair("conv_last.{p}", "head.project.{p}")]
        rules += [pair(f"upsample.{2 * i}.{{p}}", f"head.upsample.{i}.conv.{{p}}") for i in range(3)]
    else:
        rules += [pair("upsample.0.{p}", "head.conv.{p}"), pair("conv_last.{p}", "head.{p}")]
    return tuple(rules)


def form_of(state: State) -> str:
    """Which head a restorer in our layout has: ``classic``, ``light`` or ``same size``."""
    return "classic" if "head.before.weight" in state else "light" if "head.conv.weight" in state else "same size"


def infer_restorer(state: State, order: int) -> dict[str, Any]:
    """Options behind the weights of MambaIR's skeleton over a group of this order."""
    embed_dim = order * state["lift.weight"].shape[0]
    in_chans = state["lift.weight"].shape[1]
    A_log = state["groups.0.blocks.0.scan.A_log"]
    options: dict[str, Any] = {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [count(state, f"groups.{g}.blocks.") for g in range(count(state, "groups."))],
        "d_state": A_log.shape[-1],
        "mlp_ratio": expansion((A_log.shape[-2], embed_dim)),
        "patch_norm": "norm_in.weight" in state,
        "resi_connection": "1conv" if "conv_after.weight" in state else "3conv",
    }
    return options | infer_head(state, in_chans)


def infer_head(state: State, in_chans: int) -> dict[str, Any]:
    """Options behind the weights of a head: pixel shuffles in stages, one shuffle, or none."""
    if "head.before.weight" in state:
        ratios = [
            state[f"head.upsample.{i}.conv.weight"].shape[0] // state["head.before.weight"].shape[0]
            for i in range(count(state, "head.upsample."))
        ]
        return {"upsampler": "pixelshuffle", "upscale": math.isqrt(math.prod(ratios))}
    if "head.conv.weight" in state:
        return {"upsampler": "pixelshuffledirect", "upscale": math.isqrt(state["head.conv.weight"].shape[0] // in_chans)}
    return {"upsampler": "", "upscale": 1}


def _published(state: State) -> Layout | None:
    if not any_with(state, "conv_first.") or "layers.0.residual_group.blocks.0.self_attention.A_logs" not in state:
        return None
    if any_with(state, "layers.0.residual_group.blocks.0.conv_blk.cab.5."):  # the light branch's channel attention
        return Layout("MambaIR", _rules("light"))
    return Layout("MambaIR", _rules("classic" if any_with(state, "conv_before_upsample.", "upsample.") else "same size"))


SYSTEM = System(
    "MambaIR",
    owns=lambda state: "groups.0.blocks.0.scan.A_log" in state and "groups.0.blocks.0.scan.mix_proj.weight" not in state,
    published=_published,
    layout=lambda state: Layout("MambaIR", _rules(form_of(state))),
    infer=lambda state: {"type": "MambaIR", **infer_restorer(state, order=1)},
)
