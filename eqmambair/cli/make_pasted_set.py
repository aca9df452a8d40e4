"""Make a small detection set from photographs of scikit-image, to try detectors on: coins, horses and cats with exact masks."""

import argparse

from eqmambair.cli._run import run
from eqmambair.cli._sizes import parse_seed
from eqmambair.data.pasted import make_pasted_set


def main(argv: list[str]) -> None:
    """Write the set and say where it is."""
    parser = argparse.ArgumentParser(prog="make_pasted_set", description=__doc__, allow_abbrev=False)
    parser.add_argument("target", metavar="FOLDER", help="where to; must not exist")
    parser.add_argument("--train", type=int, default=300, help="pictures for training (default: 300)")
    parser.add_argument("--val", type=int, default=60, help="pictures for validation (default: 60)")
    parser.add_argument("--side", type=int, default=160, help="height of the pictures in pixels; they are a quarter wider (default: 160)")
    parser.add_argument("--seed", type=parse_seed, default=0, help="of everything random (default: 0)")
    args = parser.parse_args(argv)
    if min(args.train, args.val) < 1 or args.side < 64:
        parser.error("at least one picture of each part, and sides of 64 pixels or more")
    make_pasted_set(args.target, args.train, args.val, args.side, args.seed)
    print(f"{args.target}: {args.train} + {args.val} pictures; train.json, val.json")


def cli() -> None:
    """Entry of the command line."""
    run(main)
