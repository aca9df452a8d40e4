"""What an option file names, built: networks with their first weights, losses, data sets."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.archs import input_channels
from eqmambair.errors import UserError
from eqmambair.models.specs import build, lookup
from eqmambair.models.weights import start_from


def built(kind: str, spec: dict[str, Any]) -> nn.Module:
    """The module that a checked mapping stands for.

    Raises:
        UserError: its values do not make one.
    """
    try:
        module: nn.Module = build(kind, spec)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"the {kind} {spec['type']} cannot be built: {' '.join(str(error).split())}") from error
    return module


def started_network(options: Any, device: torch.device) -> nn.Module:
    """``network_g`` with the weights of ``path.pretrain_network_g``, if given; in channels_last memory if ``train`` asks for it."""
    network = built("network", options.network_g).to(device)
    start_from(network, options)
    if options.train is None or options.train.channels_last:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def built_dataset(options: Any, section: Any, phase: str) -> Any:
    """The data set of an option section; ``phase`` is train, val or test."""
    target = lookup("dataset", section.type)
    given = {"phase": phase, "scale": options.scale, "root": options.resolve("")}
    given = {key: value for key, value in given.items() if key in inspect.signature(target).parameters}
    return target(**section.arguments, **given)


def check_channels(network: nn.Module, options: Mapping[str, Any], kind: str, channels: int) -> None:
    """Raise ``UserError`` if a network says that it takes other pictures than a data set has.

    Args:
        network: what they are given to.
        options: what it was built from.
        kind: type of the data set, for the message.
        channels: of its pictures.
    """
    taken = input_channels(network, options, default=channels)
    if taken != channels:
        raise UserError(f"network_g: {type(network).__name__} takes {taken} channels, {kind} has pictures of {channels}")


def described(output: Any) -> str:
    """What messages call the output of a network."""
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
