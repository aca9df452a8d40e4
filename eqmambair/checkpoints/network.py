"""A whole network from one weight file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from eqmambair.archs import build_network
from eqmambair.checkpoints.files import read_state
from eqmambair.checkpoints.loading import infer_network, load_weights

_log = logging.getLogger("eqmambair")


def load_network(
    weights: str | Path, options: Mapping[str, Any] | None = None, param_key: str | None = None, strict: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a weight file belongs to, and load it.

    Args:
        weights: a .pth, .pt or .safetensors file, ours or published.
        options: the ``network_g`` options; None takes those stored in the file, else what its keys and shapes show.
        param_key: entry of a nested file; None takes the first known one.
        strict: whether every key must find its partner of the same shape; if not, what fits is loaded, and a warning names the rest.

    Returns:
        The network in evaluation mode, and its options.

    Raises:
        UserError: if the file cannot be read, belongs to no known network, or does not fit `options`.
    """
    state, stored = read_state(weights, param_key)
    chosen = dict(options or stored or infer_network(state))
    network = build_network(chosen)
    report = load_weights(network, state, strict=strict, source=str(weights))
    if not report.complete:
        _log.warning("%s", report)
    return network.eval(), chosen
