"""Count parameters, multiply-accumulates and activations of networks."""

import argparse
import json

import torch

from eqmambair.analysis.complexity import complexity
from eqmambair.archs import build_network, input_channels
from eqmambair.cli._network import network_options
from eqmambair.cli._run import run
from eqmambair.cli._sizes import parse_size
from eqmambair.files import replace_file


def main(argv: list[str]) -> None:
    """Print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(prog="complexity", description=__doc__, allow_abbrev=False)
    parser.add_argument("--opt", metavar="FILE", nargs="+", required=True, help="option files whose network_g names the networks")
    parser.add_argument("--size", metavar="HxW", type=parse_size, default=(64, 64), help="size of the network's input (default: 64x64)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)

    height, width = args.size
    rows = {}
    print(f"{'option file':<40} {'parameters':>12} {'dense GMACs':>12} {'scan GMACs':>11} {'activations':>12}   at input {height}x{width}")
    for path in args.opt:
        options = network_options(path)
        network = build_network(options)
        cost = complexity(network, torch.rand(1, input_channels(network, options), height, width))
        rows[path] = cost.as_dict()
        dense, scan, activations = cost.dense_macs / 1e9, cost.scan_macs / 1e9, cost.activations / 1e6
        print(f"{path:<40} {cost.parameters:>12,} {dense:>12.3f} {scan:>11.3f} {activations:>11.2f}M")
    if args.json:
        replace_file(args.json, json.dumps({"size": [height, width], "networks": rows}, indent=2) + "\n")


def cli() -> None:
    """Entry of the command line."""
    run(main)
