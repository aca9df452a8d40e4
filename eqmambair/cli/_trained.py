"""Arguments that name a trained network and how it is run; shared by inference and evaluation."""

import argparse
from pathlib import Path
from typing import Any

from eqmambair.engine.yaml_source import Source
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
    """Return the network that --weights, --model or --opt name; the weights named on the command line win over those in the file.

    The file's weights are found as basicsr/test.py finds them: relative to the project, in the entry that param_key_g names.
    """
    weights = find_model(arguments.model) if arguments.model is not None else arguments.weights
    if arguments.opt is None:
        if weights is None:
            raise UserError("no network; give --weights FILE, --model NAME or --opt FILE")
        return load_trained(weights, param_key=arguments.param_key)
    from eqmambair.engine.options import project_root
    from eqmambair.engine.yaml_source import read_yaml

    source = read_yaml(arguments.opt)
    network = _entry(source, ("network_g",), dict, "a mapping")
    if network is None:
        raise UserError(f"{arguments.opt}: has no network_g")
    scale = _entry(source, ("scale",), int, "a whole number of at least 1")
    param_key = arguments.param_key
    if weights is None:
        _entry(source, ("path",), dict, "a mapping")
        named = _entry(source, ("path", "pretrain_network_g"), str, "the name of a file")
        if named is None:
            raise UserError(f"{arguments.opt}: names no weights (path: pretrain_network_g); give --weights FILE")
        weights = project_root() / Path(named).expanduser()  # an absolute path stays itself
        param_key = param_key or _entry(source, ("path", "param_key_g"), str, "a word")
    return load_trained(weights, network, scale, param_key)


def _entry(source: Source, path: tuple[str, ...], kind: type, expected: str) -> Any:
    """Return what an option file holds under these keys, None where it holds nothing; raise `UserError` unless it is of this kind."""
    value: Any = source.data
    for key in path:
        value = (value or {}).get(key)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    right = isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 1)
    if value is not None and not right:
        raise UserError(f"{source.place(path)}: {'.'.join(path)}: expected {expected}, found {value!r}")
    return value


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
