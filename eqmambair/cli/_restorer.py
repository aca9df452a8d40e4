"""Arguments that say how a network restores pictures; shared by inference and evaluation."""

import argparse

from eqmambair.inference.networks import Trained
from eqmambair.inference.restore import PRECISIONS, TILE_MODES, Restorer, find_device


def add_restorer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `Restorer` takes."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: a GPU if there is one)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--tile", type=int, help="side of a tile in input pixels; 0 = never tile (default: 256 for pictures larger than that)"
    )
    parser.add_argument("--tile_overlap", type=int, help="input pixels that neighbouring tiles share (default: an eighth of the tile)")
    parser.add_argument(
        "--tile_mode", choices=TILE_MODES, default="blend", help="official = as the published test program (default: blend)"
    )
    parser.add_argument("--self_ensemble", action="store_true", help="mean over eight turned and mirrored forms; eight times slower")


def restorer_from_arguments(trained: Trained, arguments: argparse.Namespace) -> Restorer:
    """Return the `Restorer` that the arguments describe."""
    return Restorer(
        trained,
        device=find_device(arguments.device),
        precision=arguments.precision,
        tile=arguments.tile,
        tile_overlap=arguments.tile_overlap,
        tile_mode=arguments.tile_mode,
        ensemble=arguments.self_ensemble,
    )
