"""A trained network from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from eqmambair.archs import input_channels
from eqmambair.checkpoints import load_network
from eqmambair.errors import UserError
from eqmambair.export import OnnxNetwork
from eqmambair.export.facts import Task


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in evaluation mode, and what restoring needs to know of it."""

    network: nn.Module
    scale: int
    channels: int
    options: dict[str, Any]


def load_trained(
    weights: str | Path,
    options: Mapping[str, Any] | None = None,
    scale: int | None = None,
    param_key: str | None = None,
    strict: bool = True,
) -> Trained:
    """Build the network that a weight file belongs to and fill it; or take the network that an .onnx file is.

    Args:
        weights: .safetensors, .pth or .pt, ours or published; or .onnx, written by `eqmambair.export`.
        options: the ``network_g`` part of an option file. None: what the file itself says, else what its keys and shapes show.
        scale: output pixels per input pixel and side, where the network does not say it by an attribute ``upscale``.
        param_key: entry of a nested file, such as params_ema; None takes the first known one.
        strict: whether every key must find its partner of the same shape; if not, what fits is loaded, and a warning names the rest.

    Raises:
        UserError: the file cannot be read, belongs to no known network, or does not fit the options.
    """
    if is_exported(weights):
        exported = load_exported(weights, "restoration", options, param_key)
        return Trained(exported, exported.facts.scale, exported.facts.channels, exported.facts.options)
    try:
        network, options = load_network(weights, options, param_key, strict)
    except UserError as error:
        raise UserError(f"{error}" if str(weights) in str(error) else f"{weights}: {error}") from error
    own_scale = getattr(network, "upscale", None)
    if own_scale is None and scale is None:
        raise UserError(f"{options['type']} does not tell its scale; give 'scale' in the option file")
    if own_scale is not None and scale is not None and own_scale != scale:
        raise UserError(f"the network enlarges by {own_scale}, but scale is {scale}")
    return Trained(network, own_scale or scale or 1, input_channels(network, options), options)


def is_exported(weights: str | Path) -> bool:
    """Whether a file is a network that `eqmambair.export` wrote, by its ending."""
    return Path(weights).suffix.lower() == ".onnx"


def load_exported(weights: str | Path, task: Task, options: Mapping[str, Any] | None = None, param_key: str | None = None) -> OnnxNetwork:
    """Take the network that an .onnx file is.

    Args:
        weights: the file.
        task: what it is wanted for.
        options, param_key: as in `load_trained`; they can only be None, since the file needs neither.

    Raises:
        UserError: the file is not one of ours, is of another task, or options or a key are given.
    """
    if options is not None or param_key is not None:
        raise UserError(f"{weights}: an .onnx file is a whole network; leave the option file and the parameter key out")
    network = OnnxNetwork(weights)
    if network.facts.task != task:
        makes = {"restoration": "restores", "classification": "classifies"}[task]
        raise UserError(f"{weights}: holds {network.facts.arch}, which {makes} no pictures")
    return network
