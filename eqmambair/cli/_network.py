"""The arguments by which commands name a network, and what stands behind them."""

import argparse
from typing import Any

from torch import nn

from eqmambair.archs import build_network
from eqmambair.checkpoints import load_network
from eqmambair.engine.yaml_source import read_yaml
from eqmambair.errors import UserError


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --opt and --param_key."""
    parser.add_argument("--weights", metavar="FILE", help="weights, ours or published: .pth, .pt or .safetensors")
    parser.add_argument("--opt", metavar="FILE", help="option file whose network_g names the network; without it the weights tell")
    parser.add_argument("--param_key", metavar="KEY", help="entry of a .pth file, such as params_ema (default: the first known one)")


def network_options(path: str) -> dict[str, Any]:
    """The `network_g` part of an option file.

    Raises:
        UserError: if the file cannot be read or has no `network_g`.
    """
    content = read_yaml(path).data
    options = content.get("network_g") if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise UserError(f"{path}: has no network_g section")
    return dict(options)


def network_from(args: argparse.Namespace, untrained: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The network that the arguments name, in evaluation mode, and its options.

    Args:
        args: parsed with `add_network_arguments`.
        untrained: whether --opt alone will do.

    Raises:
        UserError: if the arguments do not name a network or it cannot be loaded.
    """
    options = network_options(args.opt) if args.opt else None
    if args.weights:
        return load_network(args.weights, options, args.param_key)
    if options is None or not untrained:
        raise UserError("name a network: --weights FILE" + (" or --opt FILE" if untrained else ""))
    return build_network(options).eval(), options
