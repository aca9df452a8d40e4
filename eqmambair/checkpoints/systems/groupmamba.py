"""GroupMamba: the published keys, and the options behind ours. The four operators of a layer are stored one by one; ours are stacked."""

import re
from typing import Any

import torch
from torch import Tensor

from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, count, expansion, pair

_OPERATOR = re.compile(r"(?P<layer>.+)\.mamba_g(?P<group>[1-4])\.(?P<name>.+)\Z")
#: Entries that the published code stores with an axis of length one in front.
_PADDED = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias")


def _stack_operators(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``mamba_g1.x`` to ``mamba_g4.x`` as one entry ``mamba.x`` (4, ...); where one is missing they stay, and strict loading tells."""
    stacked = {}
    for key, value in state.items():
        match = _OPERATOR.match(key)
        keys = [f"{match['layer']}.mamba_g{g}.{match['name']}" for g in range(1, 5)] if match else []
        if match is None or not all(each in state and state[each].shape == value.shape for each in keys):
            stacked[key] = value
        elif match["group"] == "1":
            joined = torch.stack([state[each] for each in keys])
            stacked[f"{match['layer']}.mamba.{match['name']}"] = joined[:, 0] if match["name"] in _PADDED else joined
    return stacked


def _unstack_operators(state: dict[str, Tensor]) -> dict[str, Tensor]:
    published = {}
    for key, value in state.items():
        layer, found, name = key.partition(".mamba.")
        if not found:
            published[key] = value
            continue
        for g in range(4):
            published[f"{layer}.mamba_g{g + 1}.{name}"] = (value[g][None] if name in _PADDED else value[g]).clone()
    return published


def _layer(official: str, ours: str) -> list[Rule]:
    scan, published = f"{ours}.scan", f"{official}.mamba"
    return [
        pair(f"{official}.norm.{{p}}", f"{ours}.norm.{{p}}"),
        pair(f"{official}.fc1.{{p}}", f"{ours}.squeeze.{{p}}"),
        pair(f"{official}.fc2.{{p}}", f"{ours}.expand.{{p}}"),
        pair(f"{official}.skip_scale", f"{ours}.skip_scale"),
        pair(f"{official}.proj.{{p}}", f"{ours}.proj.{{p}}"),
        Rule(
            f"{published}.in_proj.weight",
            (f"{scan}.in_proj.weight", f"{scan}.gate_proj.weight"),
            lambda w: torch.cat(w.chunk(2, dim=1)),  # (4, 2c, c) -> (4 scanned, then 4 gating)
            lambda w: torch.cat(w.chunk(2), dim=1),
        ),
        pair(f"{published}.conv2d.{{p}}", f"{scan}.conv.{{p}}", lambda w: w.flatten(0, 1), lambda w: w.unflatten(0, (4, -1))),
        pair(f"{published}.x_proj_weight", f"{scan}.x_proj.weight"),
        pair(f"{published}.dt_projs_weight", f"{scan}.dt_proj.weight"),
        pair(f"{published}.dt_projs_bias", f"{scan}.delta_bias"),
        pair(f"{published}.A_logs", f"{scan}.A_log"),
        pair(f"{published}.Ds", f"{scan}.D"),
        pair(f"{published}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        pair(f"{published}.out_proj.weight", f"{scan}.out_proj.weight"),
    ]


def _rules() -> tuple[Rule, ...]:
    rules = [
        *(pair(f"patch_embed1.conv.{i}.{{p}}", f"embeds.0.{i}.{{p}}") for i in (0, 1, 3, 4, 6, 7)),
        pair("patch_embed1.proj.{p}", "embeds.0.9.{p}"),
        pair("patch_embed1.norm.{p}", "embeds.0.10.{p}"),
        *_layer("post_network.0.attn", "class_block.mixer"),
        pair("post_network.0.norm1.{p}", "class_block.norm1.{p}"),
        pair("post_network.0.norm2.{p}", "class_block.norm2.{p}"),
        pair("post_network.0.mlp.fc1.{p}", "class_block.mlp.0.{p}"),
        pair("post_network.0.mlp.fc2.{p}", "class_block.mlp.2.{p}"),
        pair("norm4.{p}", "class_norm.{p}"),
        pair("head.{p}", "head.{p}"),
        pair("dist_head.{p}", "dist_head.{p}"),
    ]
    for i in range(4):
        official, ours = f"block{i + 1}.{{b}}", f"stages.{i}.{{b}}"
        if i:
            rules.append(pair(f"patch_embed{i + 1}.proj.{{p}}", f"embeds.{i}.0.{{p}}"))
            rules.append(pair(f"patch_embed{i + 1}.norm.{{p}}", f"embeds.{i}.1.{{p}}"))
            rules.append(pair(f"norm{i}.{{p}}", f"norms.{i - 1}.{{p}}"))
        rules += _layer(f"{official}.attn", f"{ours}.mixer")
        rules.append(pair(f"{official}.norm2.{{p}}", f"{ours}.norm.{{p}}"))
        rules.append(pair(f"{official}.mlp.fc1.{{p}}", f"{ours}.mlp.0.linear.{{p}}"))
        rules.append(pair(f"{official}.mlp.dwconv.dwconv.{{p}}", f"{ours}.mlp.1.{{p}}"))
        rules.append(pair(f"{official}.mlp.fc2.{{p}}", f"{ours}.mlp.3.linear.{{p}}"))
    return tuple(rules)


LAYOUT = Layout("GroupMamba", _rules(), _stack_operators, _unstack_operators)


def _infer(state: State) -> dict[str, Any]:
    widths = [state[f"embeds.{i}.{9 if i == 0 else 0}.weight"].shape[0] for i in range(4)]
    return {
        "type": "GroupMamba",
        "in_chans": state["embeds.0.0.weight"].shape[1],
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "stem_hidden_dim": state["embeds.0.0.weight"].shape[0],
        "embed_dims": widths,
        "depths": [count(state, f"stages.{i}.") for i in range(4)],
        "mlp_ratios": [expansion((state[f"stages.{i}.0.mlp.0.linear.weight"].shape[0], width)) for i, width in enumerate(widths)],
        "d_state": state["stages.0.0.mixer.scan.A_log"].shape[-1],
        "cam": "stages.0.0.mixer.squeeze.weight" in state,
        "distillation": "dist_head.weight" in state,
    }


SYSTEM = System(
    name="GroupMamba",
    owns=lambda state: "stages.0.0.mixer.skip_scale" in state,
    published=lambda state: LAYOUT if "block1.0.attn.mamba_g1.x_proj_weight" in state else None,
    layout=lambda state: LAYOUT,
    infer=_infer,
)
