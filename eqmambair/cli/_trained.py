"""Arguments that name a trained network and how it is run; shared by inference and evaluation."""

import argparse
from pathlib import Path

from eqmambair.errors import UserError
from eqmambair.inference.networks import Trained, find_model, load_trained
from eqmambair.inference.restore import PRECISIONS, TILE_MODES, Restorer, find_device


def add_network_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --weights, --model, --opt and --param_key."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", "-w", type=Path, help="weight file, ours or published: .safetensors, .pth, .pt")
    source.add_argument("--model", help="name of weights that come with the package")
    needed = "one of --weights, --model and --opt is needed" if required else "instead of --weights"
    parser.add_argument(
        "--opt",
        type=Path,
        help=f"option file whose network_g is built (default: what the weights say); {needed} (path: pretrain_network_g)",
    )
    parser.add_argument("--param_key", metavar="KEY", help="entry of a .pth file, such as params_ema (default: the first known one)")


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


def load_from_arguments(arguments: argparse.Namespace) -> Trained:
    """Return the network that --weights, --model or --opt name; the weights named on the command line win over those in the file."""
    weights = find_model(arguments.model) if arguments.model is not None else arguments.weights
    if arguments.opt is None:
        if weights is None:
            raise UserError("no network; give --weights FILE, --model NAME or --opt FILE")
        return load_trained(weights, param_key=arguments.param_key)
    from eqmambair.engine.yaml_source import read_yaml

    data = read_yaml(arguments.opt).data
    network, path = data.get("network_g"), data.get("path")
    if not isinstance(network, dict):
        raise UserError(f"{arguments.opt}: has no network_g")
    if weights is None:
        weights = path.get("pretrain_network_g") if isinstance(path, dict) else None
        if weights is None:
            raise UserError(f"{arguments.opt}: names no weights (path: pretrain_network_g); give --weights FILE")
    scale = data.get("scale")
    return load_trained(weights, network, scale if isinstance(scale, int) else None, arguments.param_key)


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
