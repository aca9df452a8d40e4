"""Spectral VMamba: the published keys, and the options behind ours. A ResNet-18 file of torchvision is read as its trunk."""

from typing import Any

from torch import Tensor

from eqmambair.checkpoints.systems.layout import Layout, State, System, conv_to_linear, count, expansion, pair

_TRUNK = "model_patchification."
_UNUSED = ("layer4.", "fc.")  # parts of ResNet-18 that the published code stores and never runs


def _rows_of_paths(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what is never used; paths and channels apart, or together, as ours are."""
    ours = {key: value for key, value in state.items() if not key.removeprefix(_TRUNK).startswith(_UNUSED)}
    for key, value in list(ours.items()):
        op, _, name = key.rpartition(".")
        paths = ours.get(f"{op}.dt_projs_weight")
        if name == "x_proj_weight":
            ours[key] = value.flatten(0, 1)
        elif name in ("A_logs", "Ds") and paths is not None:
            ours[key] = value.unflatten(0, (paths.shape[0], -1))
    return ours


def _published_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    published = dict(state)
    for key, value in state.items():
        op, _, name = key.rpartition(".")
        if name == "x_proj_weight":
            published[key] = value.unflatten(0, (state[f"{op}.dt_projs_weight"].shape[0], -1))
        elif name in ("A_logs", "Ds"):
            published[key] = value.flatten(0, 1)
    return published


_TRUNK_KEYS = ("{a}.{p}", "{a}.{i}.{b}.{p}", "{a}.{i}.{b}.{j}.{p}")  # conv1.weight, layer1.0.conv1.weight, layer2.0.downsample.0.weight
_BLOCK, _OURS = "layers.{i}.blocks.{j}", "stages.{i}.{j}"

LAYOUT = Layout(
    "SpectralVMamba",
    (
        *(pair(f"{_TRUNK}{keys}", f"rfn.{keys}") for keys in _TRUNK_KEYS),
        pair(f"{_BLOCK}.norm.{{p}}", f"{_OURS}.norm1.{{p}}"),
        pair(f"{_BLOCK}.norm2.{{p}}", f"{_OURS}.norm2.{{p}}"),
        pair(f"{_BLOCK}.mlp.fc1.{{p}}", f"{_OURS}.mlp.0.linear.{{p}}", conv_to_linear),
        pair(f"{_BLOCK}.mlp.fc2.{{p}}", f"{_OURS}.mlp.2.linear.{{p}}", conv_to_linear),
        pair(f"{_BLOCK}.op.in_proj.weight", f"{_OURS}.scan.in_proj.weight", conv_to_linear),
        pair(f"{_BLOCK}.op.x_proj_weight", f"{_OURS}.scan.x_proj.weight"),
        pair(f"{_BLOCK}.op.dt_projs_weight", f"{_OURS}.scan.dt_proj"),
        pair(f"{_BLOCK}.op.dt_projs_bias", f"{_OURS}.scan.delta_bias"),
        pair(f"{_BLOCK}.op.A_logs", f"{_OURS}.scan.A_log"),
        pair(f"{_BLOCK}.op.Ds", f"{_OURS}.scan.D"),
        pair(f"{_BLOCK}.op.out_norm.{{p}}", f"{_OURS}.scan.out_norm.{{p}}"),
        pair(f"{_BLOCK}.op.out_proj.weight", f"{_OURS}.scan.out_proj.weight", conv_to_linear),
        pair("layers.{i}.downsample.1.{p}", "downs.{i}.conv.{p}"),
        pair("layers.{i}.downsample.4.{p}", "downs.{i}.norm.{p}"),
        pair("classifier.norm.{p}", "norm.{p}"),
        pair("classifier.head.{p}", "head.{p}"),
    ),
    _rows_of_paths,
    _published_rows,
)

#: torchvision's ResNet-18, of which the trunk takes what it has; loaded with strict=False.
RESNET = Layout("ResNet-18", tuple(pair(keys, f"rfn.{keys}") for keys in _TRUNK_KEYS), _rows_of_paths)


def _published(state: State) -> Layout | None:
    if "layers.0.blocks.0.op.x_proj_weight" in state and f"{_TRUNK}conv1.weight" in state:
        return LAYOUT
    if "layer1.0.conv1.weight" in state and "layer1.0.conv3.weight" not in state and "layer1.2.conv1.weight" not in state:
        return RESNET
    return None


def _infer(state: State) -> dict[str, Any]:
    """Options; the mode, the neighbours and the floor of the graph do not show and have their defaults."""
    stages = range(count(state, "stages."))
    dims = [state[f"stages.{i}.0.norm1.weight"].shape[0] for i in stages]
    A_logs = [state[f"stages.{i}.0.scan.A_log"] for i in stages]
    hidden = [state[f"stages.{i}.0.mlp.0.linear.weight"].shape[0] for i in stages]
    return {
        "type": "SpectralVMamba",
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "depths": [count(state, f"stages.{i}.") for i in stages],
        "dims": dims,
        "rfn_width": state["rfn.conv1.weight"].shape[0],
        "top_k": A_logs[0].shape[0] // 2,
        "ssm_ratio": expansion(*((A_log.shape[1], width) for A_log, width in zip(A_logs, dims, strict=True))),
        "d_state": A_logs[0].shape[2],
        "mlp_ratio": expansion(*zip(hidden, dims, strict=True)),
    }


SYSTEM = System(
    name="SpectralVMamba",
    owns=lambda state: "rfn.conv1.weight" in state and "stages.0.0.scan.A_log" in state,
    published=_published,
    layout=lambda state: LAYOUT,
    infer=_infer,
)
