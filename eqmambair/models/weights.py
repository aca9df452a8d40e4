"""First weights of a network, as ``path.pretrain_network_g`` and ``path.pretrain_backbone`` ask for them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eqmambair.checkpoints import load_weights, read_state
from eqmambair.errors import UserError

_log = logging.getLogger("eqmambair")


def start_from(network: nn.Module, options: Any) -> None:
    """Load ``path.pretrain_backbone`` into the network's backbone and ``path.pretrain_network_g`` into all of it, where they are given.

    The former may be a classifier's weights, or those of another network on such a backbone, of which that part is taken.
    The first is left out where the second replaces all that it would give.

    Raises:
        UserError: a file, or the key in it, is missing, or does not fit; or the network has no backbone.
    """
    key = options.path.param_key_g
    replaced = options.path.pretrain_network_g is not None and options.path.strict_load_g
    if options.path.pretrain_backbone is not None and not replaced:
        backbone = getattr(network, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise UserError(f"path.pretrain_backbone: {type(network).__name__} has no backbone; use path.pretrain_network_g")
        file = _file(options, "pretrain_backbone")
        report = load_weights(backbone, _backbone_part(read_state(file, key)[0]), strict=False, source=str(file))
        fresh = tuple(getattr(backbone, "fresh_as_backbone", set)())
        report = replace(report, missing=[name for name in report.missing if not name.startswith(fresh)])
        if report.missing or report.mismatched:  # what is left over is the classifier, or norms of the network that stood on it
            raise UserError(f"path.pretrain_backbone: {report}; the backbone is {type(backbone).__name__}")
        _log.info("backbone: %s", report)
    if options.path.pretrain_network_g is not None:
        report = load_weights(network, _file(options, "pretrain_network_g"), strict=options.path.strict_load_g, param_key=key)
        _log.info("weights: %s", report)


def _backbone_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a dense-prediction network's weights, ours or published, hold of its backbone; a classifier's are taken whole."""
    part = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return part or state


def _file(options: Any, key: str) -> Path:
    path: Path = options.resolve(getattr(options.path, key))
    if not path.is_file():
        raise UserError(f"path.{key}: {path}: no such file")
    return path
