"""Put weights into a network, and tell which network a file belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.checkpoints.files import read_state, unwrap
from eqmambair.checkpoints.systems import find_layout, infer_options
from eqmambair.errors import UserError


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: the file, or ``state dict``.
        layout: ``ours``, or the system whose published layout was converted.
        loaded: keys of the network that were filled.
        missing: keys of the network that the source lacks.
        unexpected: keys of the source that the network lacks.
        mismatched: one line a key whose shape differs: ``key: file (1, 2), network (3, 4)``.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every key of both sides found its partner."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors loaded ({self.layout})"]
        for name in ("missing", "unexpected", "mismatched"):
            entries = getattr(self, name)
            if entries:
                parts.append(f"{len(entries)} {name} ({', '.join(entries[:4])}{', ...' if len(entries) > 4 else ''})")
        return "; ".join(parts)


def load_weights(
    model: nn.Module,
    weights: str | Path | Mapping[str, Any],
    strict: bool = True,
    param_key: str | None = None,
    source: str = "state dict",
) -> LoadReport:
    """Load ours or published weights into a network.

    Args:
        model: the network; it changes only if the load succeeds.
        weights: a .pth, .pt or .safetensors file, a state dict, or a dictionary that holds one (`files.PARAM_KEYS` names its entries).
        strict: whether every key must find its partner of the same shape. If not, what fits is loaded (fine-tuning from another scale).
        param_key: the entry to take from a nested dictionary; None takes the first known one.
        source: where a state dict came from, for messages.

    Returns:
        What was loaded and what was not.

    Raises:
        UserError: if the source cannot be read, or `strict` and the keys or shapes differ; all differences are named.
    """
    if isinstance(weights, Mapping):
        state = unwrap(weights, source, param_key)
    else:
        source, state = str(weights), read_state(weights, param_key)[0]
    own = model.state_dict()
    layout = find_layout(state)
    if layout is not None:
        converted = layout.to_ours(state)
        if len(own.keys() & state.keys()) > len(own.keys() & converted.keys()):
            layout = None  # a foreign network under the very names that a published one has
        else:
            state = converted

    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    report = LoadReport(
        source=source,
        layout=f"published {layout.system}" if layout else "ours",
        loaded=list(fitting),
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own],
        mismatched=[
            f"{key}: file {tuple(value.shape)}, network {tuple(own[key].shape)}"
            for key, value in state.items()
            if key in own and value.shape != own[key].shape
        ],
    )
    if strict and not report.complete:
        raise UserError(f"{report}; the network is {type(model).__name__}")
    if not fitting:
        raise UserError(f"{report}: nothing in it fits {type(model).__name__}")
    with torch.no_grad():
        for key, value in fitting.items():
            own[key].copy_(value)
    return report


def infer_network(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` options of the network that a state dict belongs to, from its keys and shapes.

    Args:
        state: a state dict in ours or a published layout.

    Returns:
        ``{'type': ..., ...}`` for `build_network`. What shapes do not show has its published value (img_range 1).

    Raises:
        UserError: if no known network has such keys.
    """
    try:
        layout = find_layout(state)
        return infer_options(layout.to_ours(state) if layout else state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the weights are incomplete: their shapes show no network that the toolbox knows ({error})") from error
