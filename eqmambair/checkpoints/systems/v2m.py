"""V2M: the published keys of the plain network, and the options behind ours; of its pyramids nothing was published."""

import math
from typing import Any

from torch import Tensor

from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, count, expansion, pair
from eqmambair.errors import UserError

_STREAM, _MIXER = "layers.{b}", "blocks.{b}.mixer"


def _taps_of_rows(w: Tensor) -> Tensor:
    return w[:, :, None] if w.dim() == 3 else w  # (d, 1, taps) -> (d, 1, 1, taps); a bias stays as it is


def _taps_of_columns(w: Tensor) -> Tensor:
    return w[..., None] if w.dim() == 3 else w


def _taps(w: Tensor) -> Tensor:
    return w.flatten(2) if w.dim() == 4 else w


def _pass(number: str, A_log: str, ours: str, taps: Any) -> list[Rule]:
    published = f"{_STREAM}.mixer"
    return [
        pair(f"{published}.conv1d{number}.{{p}}", f"{ours}.conv.{{p}}", taps, _taps),
        pair(f"{published}.x_proj{number}.weight", f"{ours}.x_proj.weight"),
        pair(f"{published}.dt_proj{number}.{{p}}", f"{ours}.dt_proj.{{p}}"),
        pair(f"{published}.{A_log}", f"{ours}.A_log"),
        pair(f"{published}.D{number}", f"{ours}.D"),
    ]


LAYOUT = Layout(
    "V2M",
    (
        pair("patch_embed.proj.{p}", "patch_embed.{p}"),
        pair("pos_embed", "pos_embed"),
        pair("cls_token", "cls_token"),
        pair("norm_f.weight", "norm.weight"),
        pair("head.{p}", "head.{p}"),
        pair(f"{_STREAM}.norm.weight", "blocks.{b}.norm.weight"),
        Rule(f"{_STREAM}.mixer.in_proj.weight", (f"{_MIXER}.in_proj.weight", f"{_MIXER}.gate_proj.weight")),
        pair(f"{_STREAM}.mixer.out_proj.weight", f"{_MIXER}.out_proj.weight"),
        *_pass("", "A_log", f"{_MIXER}.scan.rows", _taps_of_rows),
        *_pass("_2", "A_2_log", f"{_MIXER}.scan.columns", _taps_of_columns),
    ),
)


def _infer(state: State) -> dict[str, Any]:
    """Options of a square network; the layout, and where a cross of class tokens stands, do not show and have their defaults."""
    embed_dim, in_chans, patch, _ = state["patch_embed.weight"].shape
    crossed = "cls_token" in state
    side = math.isqrt(state["pos_embed"].shape[1]) - crossed
    if (side + crossed) ** 2 != state["pos_embed"].shape[1]:
        raise UserError(
            "the positions of this V2M belong to an oblong picture, whose sides do not show; name the network in an option file"
        )
    A_log = state["blocks.0.mixer.scan.rows.A_log"]
    return {
        "type": "V2M",
        "img_size": side * patch,
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "embed_dim": embed_dim,
        "depth": count(state, "blocks."),
        "d_state": A_log.shape[1],
        "d_conv": state["blocks.0.mixer.scan.rows.conv.weight"].shape[-1],
        "expand": expansion((A_log.shape[0], embed_dim)),
        "cls": "middle" if crossed else "mean",
    }


SYSTEM = System(
    name="V2M",
    owns=lambda state: "blocks.0.mixer.scan.rows.A_log" in state,
    published=lambda state: LAYOUT if "layers.0.mixer.A_2_log" in state else None,
    layout=lambda state: LAYOUT,
    infer=_infer,
)


def _no_layout(state: State) -> Layout:
    raise UserError("no weights of V2M's pyramids were published, so there is no layout to write these in")


def _infer_pyramid(state: State) -> dict[str, Any]:
    depths = [count(state, f"stages.{i}.") for i in range(count(state, "stages."))]
    dims = [state[f"stages.{i}.0.norm1.weight"].shape[0] for i in range(len(depths))]
    first = "stages.0.0"
    return {
        "type": "V2MPyramid",
        "in_chans": state["stem.0.weight"].shape[1],
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "depths": depths,
        "dims": dims,
        "ssm_d_state": state[f"{first}.scan.scan.rows.A_log"].shape[1],
        "ssm_ratio": expansion(*((state[f"stages.{i}.0.scan.in_proj.weight"].shape[0], width) for i, width in enumerate(dims))),
        "ssm_conv_bias": f"{first}.scan.conv.bias" in state,
        "mlp_ratio": expansion(*((state[f"stages.{i}.0.mlp.0.linear.weight"].shape[0], width) for i, width in enumerate(dims))),
    }


PYRAMID = System(
    name="V2MPyramid",
    owns=lambda state: "stages.0.0.scan.scan.rows.A_log" in state,
    published=lambda state: None,
    layout=_no_layout,
    infer=_infer_pyramid,
)
