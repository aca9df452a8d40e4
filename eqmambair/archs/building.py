"""From the name and the options of a network to the network."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from eqmambair.archs.classifier import Classifier
from eqmambair.errors import UserError


def build_network(opt: Mapping[str, Any]) -> nn.Module:
    """Build a registered network from the `network_g` part of an option file.

    Args:
        opt: ``type`` is the class name; the rest are its keyword arguments, under the names of the official option files.

    Returns:
        The network, freshly initialised, in training mode.

    Raises:
        UserError: if the type or a keyword is unknown, or the values do not make a network; the message names the nearest right word.
    """
    options = dict(opt)
    name = options.pop("type", None)
    architecture = _registered(name)
    parameters = inspect.signature(architecture).parameters
    if all(parameter.kind != inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in options:
            if key not in parameters:
                raise UserError(f"{name} takes no argument {key!r}{nearest(key, parameters)}")
    try:
        return architecture(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def build_backbone(opt: Mapping[str, Any], stages: int = 4) -> Classifier:
    """Build a classifier of the registry without its head, for a dense-prediction network to stand on.

    Args:
        opt: as for `build_network`.
        stages: maps that are wanted.

    Raises:
        UserError: as `build_network`; also if the network is no classifier, or has another number of stages.
    """
    if not (isinstance(kind := _registered(opt.get("type")), type) and issubclass(kind, Classifier)):
        raise UserError(f"backbone: {opt.get('type')} is no classifier; choose VMamba, EQVMamba or another recognition network")
    backbone = build_network({**opt, "num_classes": 0})
    assert isinstance(backbone, Classifier)
    if len(backbone.feature_channels) != stages:
        raise UserError(f"backbone: {opt.get('type')} yields {len(backbone.feature_channels)} maps, {stages} are needed")
    return backbone


def _registered(name: Any) -> Any:
    """The class of this name; basicsr registers its own with an ending.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    registered = name if name in ARCH_REGISTRY else f"{name}_basicsr"
    if registered not in ARCH_REGISTRY:
        known = [key.removesuffix("_basicsr") for key in ARCH_REGISTRY.keys()]  # noqa: SIM118 (not a dict)
        raise UserError(f"network type {name!r} is not registered{nearest(str(name), known)}")
    return ARCH_REGISTRY.get(registered)


def input_channels(network: nn.Module, options: Mapping[str, Any], default: int = 3) -> int:
    """Channels of the images that a network takes: its attribute ``in_chans``, else what its options say, else `default`.

    Args:
        network: any registered network, basicsr's own included.
        options: what it was built from.
    """
    return int(getattr(network, "in_chans", options.get("in_chans", options.get("num_in_ch", 3))))


def nearest(word: str, words: Any) -> str:
    """``; did you mean 'x'?`` for the closest of `words`, or nothing."""
    by_lower = {str(known).lower(): str(known) for known in words}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
