"""The U-shaped MambaIR: the published keys, and the options behind ours."""

from typing import Any

from eqmambair.checkpoints.systems.layout import Layout, Rule, State, System, any_with, count, expansion, pair
from eqmambair.checkpoints.systems.mambair import plain_block


def _rules() -> tuple[Rule, ...]:
    rules = [
        pair("patch_embed.proj.{p}", "lift.{p}"),
        pair("output.{p}", "project.{p}"),
        pair("skip_conv.{p}", "skip.{p}"),
        pair("down1_2.body.0.{p}", "down.0.0.{p}"),
        pair("down2_3.body.0.{p}", "down.1.0.{p}"),
        pair("down3_4.body.0.{p}", "down.2.0.{p}"),
        pair("up2_1.body.0.{p}", "up.0.0.{p}"),
        pair("up3_2.body.0.{p}", "up.1.0.{p}"),
        pair("up4_3.body.0.{p}", "up.2.0.{p}"),
        pair("reduce_chan_level2.{p}", "reduce.0.{p}"),
        pair("reduce_chan_level3.{p}", "reduce.1.{p}"),
    ]
    for level in range(3):
        rules += plain_block(f"encoder_level{level + 1}.{{j}}", f"encoder.{level}.{{j}}", light=False)
        rules += plain_block(f"decoder_level{level + 1}.{{j}}", f"decoder.{level}.{{j}}", light=False)
    rules += plain_block("latent.{j}", "encoder.3.{j}", light=False)
    rules += plain_block("refinement.{j}", "refinement.{j}", light=False)
    return tuple(rules)


def _infer(state: State) -> dict[str, Any]:
    A_logs = [state[f"encoder.{level}.0.scan.A_log"] for level in range(4)]
    dim = state["lift.weight"].shape[0]
    return {
        "type": "MambaIRUNet",
        "inp_channels": state["lift.weight"].shape[1],
        "out_channels": state["project.weight"].shape[0],
        "dim": dim,
        "num_blocks": [count(state, f"encoder.{level}.") for level in range(4)],
        "num_refinement_blocks": count(state, "refinement."),
        "mlp_ratio": expansion(*((A_log.shape[-2], dim << level) for level, A_log in enumerate(A_logs))),
        "d_state": A_logs[0].shape[-1],
        "bias": "lift.bias" in state,
        "dual_pixel_task": "skip.weight" in state,
    }


_LAYOUT = Layout("MambaIRUNet", _rules())

SYSTEM = System(
    "MambaIRUNet",
    owns=lambda state: "encoder.0.0.scan.A_log" in state,
    published=lambda state: _LAYOUT if any_with(state, "encoder_level1.0.self_attention.") else None,
    layout=lambda state: _LAYOUT,
    infer=_infer,
)
