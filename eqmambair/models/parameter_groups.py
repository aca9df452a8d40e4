"""Which parameters decay and how fast each layer learns: groups for the optimiser, by timm."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field
from torch import nn

from eqmambair.errors import UserError
from eqmambair.models.base import TrainKeys

#: What weight decay leaves alone. ``one_dimensional``: parameters of one dimension, biases, skips of scans (the published rule of VMamba);
#: ``dynamics``: these, and whatever else is no filter or matrix: decays, skips and step biases of scans; ``norms``: norms (by their
#: layer's type) and nothing else (the published rule of UPerNet, which tells norms by their keys); ``nothing``: all decays.
Exempt = Literal["one_dimensional", "dynamics", "norms", "nothing"]

_DYNAMICS = ("A_log", "A_logs", "D", "Ds", "delta_bias", "dt_projs_bias", "bias", "b")


class Grouping(TrainKeys):
    """Groups of parameters."""

    no_decay: Exempt = Field("one_dimensional", description="what weight decay leaves alone; see docs/vision.md")
    layer_decay: float | None = Field(None, gt=0, le=1, description="factor of the rate from each layer to the one below; none if absent")


def grouped(network: nn.Module, grouping: Grouping) -> list[dict[str, Any]]:
    """Groups with ``weight_decay: 0`` where there is to be none, and ``lr_scale`` under layer decay.

    Raises:
        UserError: layer decay is wanted of a network that does not tell its layers.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    exempt = set(_exempt(network, grouping.no_decay))
    lines = grouping.no_decay in ("one_dimensional", "dynamics")
    if lines:
        for prefix, module in network.named_modules():
            own: set[str] = getattr(module, "no_weight_decay", set)()  # timm's convention: positions, class tokens
            exempt |= {f"{prefix}.{name}" if prefix else name for name in own}
    if grouping.layer_decay is None:
        groups = param_groups_weight_decay(network, 1.0, lines, exempt)
    elif hasattr(network, "group_matcher"):
        groups = param_groups_layer_decay(
            network, 1.0, no_weight_decay_list=exempt, weight_decay_exclude_1d=lines, layer_decay=grouping.layer_decay
        )
    else:
        raise UserError(f"train.grouping.layer_decay: {type(network).__name__} does not tell its layers (it has no group_matcher)")
    return [group if group["weight_decay"] == 0 else {k: v for k, v in group.items() if k != "weight_decay"} for group in groups]


def _exempt(network: nn.Module, rule: Exempt) -> Iterator[str]:
    for prefix, module in network.named_modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            listed = {
                "one_dimensional": name == "D",  # skips: one row in published files, one row a path in ours
                "dynamics": norm or name in _DYNAMICS or parameter.ndim <= 1,
                "norms": norm,
                "nothing": False,
            }[rule]
            if listed:
                yield f"{prefix}.{name}" if prefix else name
