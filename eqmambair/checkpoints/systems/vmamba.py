"""VMamba: the published keys, and the options behind ours. Also the rules that all networks on such a backbone share."""

import re
from typing import Any

from torch import Tensor

from eqmambair.checkpoints.systems.layout import (
    Layout,
    Rule,
    State,
    System,
    conv_to_linear,
    count,
    expansion,
    join_paths,
    pair,
    split_paths,
)  # fmt: skip
from eqmambair.errors import UserError

#: How older files call the same entries, at the start of a key or after a dot.
_OLDER = (
    (re.compile(r"\bpatch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"\bpatch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"(blocks\.\d+)\.ln_1\."), r"\1.norm."),
    (re.compile(r"(blocks\.\d+)\.self_attention\."), r"\1.op."),
    (re.compile(r"^norm\."), "classifier.norm."),
    (re.compile(r"^head\."), "classifier.head."),
)


def newer_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of the newer files.

    Raises:
        UserError: it is one of the first version, which is another network.
    """
    first = next((key for key in state if key.endswith("downsample.reduction.weight")), None)
    if first is not None:
        raise UserError(f"{first}: these are weights of VMamba's first version, another network; its second one is built here")

    def renamed(key: str) -> str:
        for old, new in _OLDER:
            key = old.sub(new, key)
        return key

    return {renamed(key): value for key, value in state.items()}


def backbone_rules(prefix: str = "") -> list[Rule]:
    """Rules of everything but the output norms and the classifier; `prefix` (``backbone.``) is the same on both sides."""
    published, ours = f"{prefix}layers.{{i}}.blocks.{{j}}", f"{prefix}stages.{{i}}.{{j}}"
    op, scan = f"{published}.op", f"{ours}.scan"
    return [
        *(pair(f"{prefix}patch_embed.{a}.{{p}}", f"{prefix}stem.{b}.{{p}}") for a, b in ((0, 0), (2, 1), (5, 3), (7, 4))),
        pair(f"{published}.norm.{{p}}", f"{ours}.norm1.{{p}}"),
        pair(f"{published}.norm2.{{p}}", f"{ours}.norm2.{{p}}"),
        pair(f"{published}.mlp.fc1.{{p}}", f"{ours}.mlp.0.linear.{{p}}", conv_to_linear),
        pair(f"{published}.mlp.fc2.{{p}}", f"{ours}.mlp.2.linear.{{p}}", conv_to_linear),
        pair(f"{op}.in_proj.weight", f"{scan}.in_proj.weight", conv_to_linear),
        pair(f"{op}.conv2d.{{p}}", f"{scan}.conv.{{p}}"),
        pair(f"{op}.x_proj_weight", f"{scan}.x_proj.weight", join_paths, split_paths),
        pair(f"{op}.dt_projs_weight", f"{scan}.dt_proj"),
        pair(f"{op}.dt_projs_bias", f"{scan}.delta_bias"),
        pair(f"{op}.A_logs", f"{scan}.A_log", split_paths, join_paths),
        pair(f"{op}.Ds", f"{scan}.D", split_paths, join_paths),
        pair(f"{op}.out_norm.{{p}}", f"{scan}.out_norm.{{p}}"),
        pair(f"{op}.out_proj.weight", f"{scan}.out_proj.weight", conv_to_linear),
        pair(f"{prefix}layers.{{i}}.downsample.1.{{p}}", f"{prefix}downs.{{i}}.0.{{p}}"),
        pair(f"{prefix}layers.{{i}}.downsample.3.{{p}}", f"{prefix}downs.{{i}}.1.{{p}}"),
    ]


def output_norm_rules(prefix: str = "") -> list[Rule]:
    """Rules of the norms behind the stages; published files count them to the backbone, ours to the network that reads them."""
    return [pair(f"{prefix}outnorm{i}.{{p}}", f"out_norms.{i}.{{p}}") for i in range(4)]


def infer_pyramid(state: State, order: int) -> dict[str, Any]:
    """Options behind the weights of VMamba's skeleton over a group of this order."""
    stages = range(count(state, "stages."))
    dims = [order * state[f"stages.{i}.0.norm1.weight"].numel() for i in stages]
    A_logs = [state[f"stages.{i}.0.scan.A_log"] for i in stages]
    hidden = [order * state[f"stages.{i}.0.mlp.0.linear.weight"].shape[0] for i in stages]
    stem = state["stem.0.weight"]
    return {
        "in_chans": stem.shape[1],
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "depths": [count(state, f"stages.{i}.") for i in stages],
        "dims": dims,
        "ssm_d_state": A_logs[0].shape[-1],
        "ssm_ratio": expansion(*((A_log.shape[-2], d) for A_log, d in zip(A_logs, dims, strict=True))),
        "ssm_conv_bias": "stages.0.0.scan.conv.bias" in state,
        "mlp_ratio": expansion(*zip(hidden, dims, strict=True)),
        "patch_size": 2 * (stem.shape[-1] - 1),
        "out_indices": [i for i in stages if f"out_norms.{i}.weight" in state],
    }


LAYOUT = Layout(
    "VMamba",
    (*backbone_rules(), *output_norm_rules(), pair("classifier.norm.{p}", "norm.{p}"), pair("classifier.head.{p}", "head.{p}")),
    prepare=newer_names,
)


def is_published(state: State, prefix: str = "") -> bool:
    """Whether the keys are those of a published VMamba, in newer or older names."""
    block = f"{prefix}layers.0.blocks.0"
    return any(f"{block}.{op}.x_proj_weight" in state and f"{block}.{op}.conv2d.weight" in state for op in ("op", "self_attention"))


def owns_pyramid(state: State, equivariant: bool) -> bool:
    """Whether a state dict of ours is of VMamba's skeleton, plain or over a group."""
    in_proj = state.get("stages.0.0.scan.in_proj.weight")
    if in_proj is None or "stages.0.0.scan.conv.weight" not in state or "stem.0.weight" not in state:
        return False
    return in_proj.dim() == (3 if equivariant else 2)


def _layout_of(state: State) -> Layout:
    if state["stem.0.weight"].shape[-1] != 3:
        raise UserError("the published VMamba has patches of 4 pixels, this network has others")
    return LAYOUT


SYSTEM = System(
    "VMamba",
    owns=lambda state: owns_pyramid(state, equivariant=False),
    published=lambda state: LAYOUT if is_published(state) else None,
    layout=_layout_of,
    infer=lambda state: {"type": "VMamba", **infer_pyramid(state, order=1)},
)
