"""Convert weights between the published layouts and ours, and between .pth and .safetensors."""

import argparse
from pathlib import Path

from eqmambair.checkpoints import save_weights, to_official
from eqmambair.cli._network import add_network_arguments, network_from_arguments
from eqmambair.cli._run import run
from eqmambair.errors import UserError


def main(argv: list[str]) -> None:
    """Load a weight file into its network, and write the network's weights."""
    parser = argparse.ArgumentParser(prog="convert_weights", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser)
    parser.add_argument("--output", metavar="FILE", required=True, help="what to write: .safetensors or .pth")
    parser.add_argument("--official", action="store_true", help="write the published key layout instead of ours")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)

    if Path(args.output).exists() and not args.overwrite:
        raise UserError(f"{args.output}: exists; add --overwrite to replace it")
    network, options, _ = network_from_arguments(args)
    state = network.state_dict()
    save_weights(args.output, to_official(state) if args.official else state, options)
    print(f"{args.output}: {len(state)} tensors of {options['type']}, {'published' if args.official else 'our'} layout")


def cli() -> None:
    """Entry of the command line."""
    run(main)
