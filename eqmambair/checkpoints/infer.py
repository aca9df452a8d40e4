"""Hyper-parameters of a network from the shapes of its weights (our layout)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from eqmambair.errors import UserError

State = Mapping[str, Tensor]

_GROUPS = {1: "c1", 2: "c2", 4: "c4", 8: "d4"}


def infer_options(state: State) -> dict[str, Any]:
    """The ``network_g`` options behind a state dict in our layout; see `infer_network`."""
    for marker, infer in _FAMILIES.items():
        if marker in state:
            return infer(state)
    raise UserError("these weights belong to no network that the toolbox knows; name the network in an option file")


def _count(state: State, prefix: str) -> int:
    """How many indices follow `prefix` in the keys: 0, 1, ..., n-1."""
    numbers = [int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix) and key[len(prefix)].isdigit()]
    return max(numbers, default=-1) + 1


def _expansion(*widths: tuple[int, int]) -> float:
    """The shortest decimal r with int(r * channels) == width for every pair (width, channels)."""
    lowest = max(width / channels for width, channels in widths)
    for digits in range(10):
        ratio = math.ceil(lowest * 10**digits) / 10**digits
        if all(int(ratio * channels) == width for width, channels in widths):
            return ratio
    raise UserError(f"no ratio turns the widths {[c for _, c in widths]} into scans of {[w for w, _ in widths]} channels")


def _mambair(state: State) -> dict[str, Any]:
    block = "groups.0.blocks.0"
    equivariant = f"{block}.scan.mix_proj.weight" in state
    order = state[f"{block}.scan.mix_proj.weight"].shape[-1] if equivariant else 1
    if order not in _GROUPS:
        raise UserError(f"the weights belong to a group of {order} elements; known are {sorted(_GROUPS)}")
    embed_dim = order * state["lift.weight"].shape[0]
    in_chans = state["lift.weight"].shape[1]
    A_log = state[f"{block}.scan.A_log"]
    options: dict[str, Any] = {"type": "EQMambaIR", "group": _GROUPS[order]} if equivariant else {"type": "MambaIR"}
    options |= {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [_count(state, f"groups.{g}.blocks.") for g in range(_count(state, "groups."))],
        "d_state": A_log.shape[-1],
        "mlp_ratio": _expansion((A_log.shape[-2], embed_dim)),
        "patch_norm": "norm_in.weight" in state,
        "resi_connection": "1conv" if "conv_after.weight" in state else "3conv",
    }
    if "head.before.weight" in state:
        ratios = [
            state[f"head.upsample.{i}.conv.weight"].shape[0] // state["head.before.weight"].shape[0]
            for i in range(_count(state, "head.upsample."))
        ]
        return options | {"upsampler": "pixelshuffle", "upscale": math.isqrt(math.prod(ratios))}
    if "head.conv.weight" in state:
        upscale = math.isqrt(state["head.conv.weight"].shape[0] // in_chans)
        return options | {"upsampler": "pixelshuffledirect", "upscale": upscale}
    return options | {"upsampler": "", "upscale": 1}


def _mambair_unet(state: State) -> dict[str, Any]:
    A_logs = [state[f"encoder.{level}.0.scan.A_log"] for level in range(4)]
    dim = state["lift.weight"].shape[0]
    return {
        "type": "MambaIRUNet",
        "inp_channels": state["lift.weight"].shape[1],
        "out_channels": state["project.weight"].shape[0],
        "dim": dim,
        "num_blocks": [_count(state, f"encoder.{level}.") for level in range(4)],
        "num_refinement_blocks": _count(state, "refinement."),
        "mlp_ratio": _expansion(*((A_log.shape[-2], dim << level) for level, A_log in enumerate(A_logs))),
        "d_state": A_logs[0].shape[-1],
        "bias": "lift.bias" in state,
        "dual_pixel_task": "skip.weight" in state,
    }


#: A key that only this family has, and how to read it.
_FAMILIES: dict[str, Callable[[State], dict[str, Any]]] = {
    "groups.0.blocks.0.scan.A_log": _mambair,
    "encoder.0.0.scan.A_log": _mambair_unet,
}
