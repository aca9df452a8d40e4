"""First weights of a network, as ``path.pretrain_network_g`` asks for them."""

import logging
from typing import Any

from torch import nn

from eqmambair.checkpoints import load_weights
from eqmambair.errors import UserError

_log = logging.getLogger("eqmambair")


def start_from(network: nn.Module, options: Any) -> None:
    """Load ``path.pretrain_network_g`` into the network, if it is given.

    Raises:
        UserError: the file, or the key in it, is missing, or does not fit.
    """
    given = options.path.pretrain_network_g
    if given is None:
        return
    path = options.resolve(given)
    if not path.is_file():
        raise UserError(f"path.pretrain_network_g: {path}: no such file")
    report = load_weights(network, path, strict=options.path.strict_load_g, param_key=options.path.param_key_g)
    _log.info("weights: %s", report)
