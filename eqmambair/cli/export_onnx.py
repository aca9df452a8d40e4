"""Write a network as an .onnx file of standard operators, compared with torch before it is written."""

import argparse
from pathlib import Path

from eqmambair.checkpoints.files import read_card
from eqmambair.cli._network import add_network_arguments, network_from_arguments
from eqmambair.cli._run import run
from eqmambair.errors import UserError
from eqmambair.export import TOLERANCE, export_network


def main(argv: list[str]) -> None:
    """Export the network that the arguments name, and print how far the file is from torch."""
    parser = argparse.ArgumentParser(prog="export_onnx", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser, untrained=True)
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", required=True, help="what to write: FILE.onnx")
    parser.add_argument("--fp16", action="store_true", help="float16 in, out and inside; the scans' states stay float32")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)

    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output}: exists; add --overwrite to replace it")
    network, options, weights = network_from_arguments(args)
    exported = export_network(network, options, args.output, half=args.fp16, card=read_card(weights) if weights else None)
    precision = "float16" if args.fp16 else "float32"
    print(f"{exported.path}: {options['type']}, {precision}, {exported.bytes / 1e6:.1f} MB")
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.differences)
    largest = max(exported.differences.values())
    print(f"compared with torch at {sizes}: largest difference {largest:.1e} (allowed: {TOLERANCE[precision]:.0e})")


def cli() -> None:
    """Entry of the command line."""
    run(main)
