"""Measure how far networks of any task are from commuting with turns and mirror images."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.analysis.equivariance import equivariance_error, equivariance_maps
from eqmambair.analysis.pictures import equivariance_picture
from eqmambair.analysis.verification import Row, measured, verification_table, warmed
from eqmambair.archs import input_channels
from eqmambair.checkpoints import load_network
from eqmambair.checkpoints.files import read_card
from eqmambair.cli._network import add_network_arguments, built, network_from_arguments, network_options, run_name
from eqmambair.cli._pictures import read_tensor
from eqmambair.cli._run import run
from eqmambair.cli._sizes import parse_seed, parse_size
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.restore import find_device


def main(argv: list[str]) -> None:
    """Print the error of every group element, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(prog="equivariance", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser, required=False, untrained=True)
    parser.add_argument(
        "--compare", type=Path, nargs="+", metavar="FILE", default=[],
        help="several networks side by side: option files (first weights, and warmed ones that use their scans) and weights (trained)",
    )  # fmt: skip
    parser.add_argument("--group", choices=["c2", "c4", "d4"], default="c4", help="what the network should commute with (default: c4)")
    parser.add_argument("--input", metavar="IMAGE", help="picture to measure on; without it noise of every --size")
    parser.add_argument("--size", metavar="HxW", type=parse_size, nargs="+", default=[(32, 32), (24, 40), (17, 23)], help="input sizes")
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the noise, and of the weights if there are none (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw there where f(g x) and g f(x) differ (.png; one input)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)
    if args.picture and args.picture.suffix != ".png":
        raise UserError(f"{args.picture}: the picture is written as .png")
    if args.picture and not args.input and len(args.size) > 1:
        args.size = args.size[:1]

    torch.manual_seed(args.seed)
    if args.compare:
        _compare(args)
        return
    network, options, weights = network_from_arguments(args)
    device = find_device(args.device)
    network = network.to(device)
    channels = input_channels(network, options)
    inputs = _inputs(args, channels)

    results = {}
    print(f"{options['type']}, {f'weights {weights}' if weights else 'untrained'}, group {args.group}")
    print(f"{'input':<24} {'element':<16} {'NMSE':>10} {'max |diff|':>12}")
    for name, x in inputs.items():
        results[name] = equivariance_error(network, x.to(device), args.group)
        for element, error in results[name]["elements"].items():
            print(f"{name:<24} {element:<16} {error['nmse']:>10.2e} {error['max_abs']:>12.2e}")
    if args.picture:
        (name, x), *_ = inputs.items()
        output, maps = equivariance_maps(network, x.to(device), args.group)
        title = f"{options['type']}, {weights.name if weights else 'untrained'}, {Path(name).name}"
        replace_file(args.picture, equivariance_picture(title, output, maps, results[name]["elements"]))
        print(args.picture)
    if args.json:
        report = {"network": options, "weights": str(weights) if weights else None, "inputs": results}
        replace_file(args.json, json.dumps(report, indent=2) + "\n")


def _compare(args: argparse.Namespace) -> None:
    """Print the errors of the networks of --compare, a line for each network, its state and the input."""
    if args.weights or args.opt or args.model:
        raise UserError("--compare names the networks itself; leave --weights, --model and --opt out")
    if args.picture:
        raise UserError("--picture shows one network; leave --compare out")
    device = find_device(args.device)
    rows: list[Row] = []
    for file in args.compare:
        for state, network, options in _states(file, args.param_key):
            card = read_card(file) if state == "trained" else {}
            inputs = {title: _seen(x, card).to(device) for title, x in _inputs(args, input_channels(network, options)).items()}
            rows += measured(f"{options['type']} {run_name(file)}", state, network.to(device).eval(), inputs, args.group)
    for line in verification_table(rows):
        print(line)
    if args.json:
        replace_file(args.json, json.dumps({"group": args.group, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def _states(file: Path, param_key: str | None) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    if file.suffix not in (".yml", ".yaml"):
        network, options = load_network(file, None, param_key)
        yield "trained", network, options
        return
    options = network_options(file)
    network = built(options, file)
    yield "initial", network, options
    yield "warmed", warmed(network), options


def _inputs(args: argparse.Namespace, channels: int) -> dict[str, torch.Tensor]:
    """The picture of --input, or noise of every --size, the same for every network."""
    if args.input:
        return {args.input: read_tensor(args.input, channels)}
    generator = torch.Generator().manual_seed(args.seed)
    return {f"noise {h}x{w}": torch.rand(1, channels, h, w, generator=generator) for h, w in args.size}


def _seen(x: torch.Tensor, card: dict[str, Any]) -> torch.Tensor:
    """A picture as the network of these weights takes it."""
    view = card.get("preprocessing", card.get("protocol"))
    if view is None:
        return x
    return (x - torch.tensor(view["mean"])[:, None, None]) / torch.tensor(view["std"])[:, None, None]


def cli() -> None:
    """Entry of the command line."""
    run(main)
