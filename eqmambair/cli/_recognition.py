"""What the commands of recognition share: arguments, networks with the cards of their weights, pictures, and the files to write."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.archs import input_channels
from eqmambair.checkpoints.files import read_card
from eqmambair.cli._network import add_network_arguments, chosen, network_from_arguments
from eqmambair.cli._sizes import share
from eqmambair.data.classification import read_class_list
from eqmambair.data.io import IMAGE_EXTENSIONS, list_images
from eqmambair.errors import UserError
from eqmambair.inference.networks import is_exported, load_exported
from eqmambair.inference.restore import find_device


def add_recognition_arguments(parser: argparse.ArgumentParser, *, drawn: str | None = None, exported: bool = False) -> None:
    """Add the pictures, those of `add_network_arguments`, --classes, --recursive and --device.

    Args:
        drawn: what the command draws over the pictures, such as "masks"; adds --output and --opacity. None: it draws nothing.
        exported: whether the command runs .onnx files as well.
    """
    parser.add_argument("inputs", type=Path, nargs="+", help="pictures and folders of pictures")
    if drawn is not None:
        parser.add_argument("--output", "-o", type=Path, default=Path("results"), help="folder (default: %(default)s)")
        parser.add_argument("--opacity", type=share, default=0.5, help=f"of the {drawn} over the picture, 0 to 1 (default: %(default)s)")
    add_network_arguments(parser, exported=exported)
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names, one a line: any word, such as the folder, then the name (default: what the weights say)",
    )
    places = "" if drawn is None else "; the results lie in the same sub-folders"
    parser.add_argument("--recursive", action="store_true", help=f"sub-folders too{places}")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: a GPU if there is one)")


def recognition_network(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], torch.device]:
    """The network that the arguments name, on --device in evaluation mode; the card of its weights; the device.

    Raises:
        UserError: they name none, it cannot be loaded, or it takes other pictures than RGB.
    """
    network, options, weights = network_from_arguments(arguments)
    _check_colour(type(network).__name__, input_channels(network, options))
    device = find_device(arguments.device)
    return network.to(device).eval(), read_card(weights) if weights is not None else {}, device


def classifier_from_arguments(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], torch.device]:
    """As `recognition_network`, or the classifier in an .onnx file, with the card that the file holds; it runs where it can.

    Raises:
        UserError: as `recognition_network`; or the file is none of ours, or no classifier.
    """
    if arguments.weights is None or not is_exported(arguments.weights):
        return recognition_network(arguments)
    choice = chosen(arguments)
    network = load_exported(arguments.weights, "classification", choice.network, choice.param_key)
    _check_colour(network.facts.arch, network.facts.channels)
    return network, network.facts.card, find_device(arguments.device)


def _check_colour(arch: str, channels: int) -> None:
    if channels != 3:
        raise UserError(f"{arch} takes pictures of {channels} channel{'s' * (channels > 1)}, recognition is for RGB")


def class_names(file: Path | None, card: dict[str, Any]) -> list[str] | None:
    """Names of the classes: the file's (lines ``folder [name]``), else the card's, else None."""
    return list(read_class_list(file).values()) if file is not None else card.get("classes")


def pictures_in(inputs: list[Path], recursive: bool) -> list[tuple[Path, Path]]:
    """Pictures, and each one's place relative to the folder that it was found in.

    Raises:
        UserError: an input is missing, or a folder holds no picture.
    """
    found: list[tuple[Path, Path]] = []
    for path in dict.fromkeys(inputs):
        if path.is_dir():
            inside = list_images(path, recursive=recursive, extensions=(*IMAGE_EXTENSIONS, ".ppm", ".pgm", ".gif"))
            if not inside:
                raise UserError(f"{path}: no picture here{'' if recursive else ' (--recursive looks into sub-folders)'}")
            found += [(image, image.relative_to(path)) for image in inside]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise UserError(f"{path}: no such file or folder")
    return found


def places_of_results(pictures: list[tuple[Path, Path]], folder: Path) -> list[Path]:
    """Where each picture's results go: its place in a folder, without ending.

    Raises:
        UserError: two have the same.
    """
    targets = [folder / place.with_suffix("") for _, place in pictures]
    twice = [target for target, count in Counter(targets).items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} results would have the name of another, such as {min(twice)}; give the folders one by one")
    return targets
