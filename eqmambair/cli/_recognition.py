"""What the commands of recognition share: networks with the cards of their weights, pictures, and the files to write."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.archs import input_channels
from eqmambair.checkpoints.files import read_card
from eqmambair.cli._network import network_from_arguments
from eqmambair.data.classification import read_class_list
from eqmambair.data.io import IMAGE_EXTENSIONS, list_images
from eqmambair.errors import UserError
from eqmambair.inference.restore import find_device


def recognition_network(arguments: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], torch.device]:
    """The network that the arguments name, on --device in evaluation mode; the card of its weights; the device.

    Raises:
        UserError: they name none, it cannot be loaded, or it takes other pictures than RGB.
    """
    network, options, weights = network_from_arguments(arguments)
    channels = input_channels(network, options)
    if channels != 3:
        raise UserError(f"{type(network).__name__} takes pictures of {channels} channel{'s' * (channels > 1)}, recognition is for RGB")
    device = find_device(arguments.device)
    return network.to(device).eval(), read_card(weights) if weights is not None else {}, device


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
