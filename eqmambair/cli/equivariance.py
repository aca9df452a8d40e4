"""Measure how far a network is from commuting with turns and mirror images."""

import argparse
import json
from pathlib import Path

import torch

from eqmambair.analysis.equivariance import equivariance_error, equivariance_maps
from eqmambair.analysis.pictures import equivariance_picture
from eqmambair.archs import input_channels
from eqmambair.cli._network import add_network_arguments, network_from_arguments
from eqmambair.cli._pictures import read_tensor
from eqmambair.cli._run import run
from eqmambair.cli._sizes import parse_size
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.restore import find_device


def main(argv: list[str]) -> None:
    """Print the error of every group element, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(prog="equivariance", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser, untrained=True)
    parser.add_argument("--group", choices=["c2", "c4", "d4"], default="c4", help="what the network should commute with (default: c4)")
    parser.add_argument("--input", metavar="IMAGE", help="picture to measure on; without it noise of every --size")
    parser.add_argument("--size", metavar="HxW", type=parse_size, nargs="+", default=[(32, 32), (24, 40), (17, 23)], help="input sizes")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of the weights if there are none (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw there where f(g x) and g f(x) differ (.png; one input)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)
    if args.picture and args.picture.suffix != ".png":
        raise UserError(f"{args.picture}: the picture is written as .png")
    if args.picture and not args.input and len(args.size) > 1:
        args.size = args.size[:1]

    torch.manual_seed(args.seed)
    network, options, weights = network_from_arguments(args)
    device = find_device(args.device)
    network = network.to(device)
    channels = input_channels(network, options)
    if args.input:
        inputs = {args.input: read_tensor(args.input, channels)}
    else:
        inputs = {f"noise {h}x{w}": torch.rand(1, channels, h, w) for h, w in args.size}

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


def cli() -> None:
    """Entry of the command line."""
    run(main)
