"""Segment pictures: label files with a palette, and overlays, of files and folders."""

import argparse
import sys
from typing import Any

import numpy as np
import torch

from eqmambair.cli._recognition import add_recognition_arguments, class_names, pictures_in, places_of_results, recognition_network
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least
from eqmambair.data.io import write_image
from eqmambair.data.label_sets import LABEL_SETS, colours_of
from eqmambair.data.pictures import open_picture
from eqmambair.errors import UserError
from eqmambair.inference.masks import overlay, write_labels
from eqmambair.inference.segmentation import Protocol, Segmenter, protocol_of


def main(argv: list[str]) -> int:
    """Write labels and overlays; returns 1 where a picture could not be read."""
    args = _parser().parse_args(argv)
    pictures = pictures_in(args.inputs, args.recursive)
    targets = places_of_results(pictures, args.output)
    network, card, device = recognition_network(args)
    segmenter = Segmenter(network, _protocol(args, card), device)
    count = segmenter.classes()
    if not hasattr(network, "num_classes") and card.get("task") != "segmentation":
        raise UserError(f"{type(network).__name__} is no segmentation network: neither it nor its weights speak of classes")
    of_set = {"classes": list(LABEL_SETS[args.palette].classes) or None} if args.palette else card
    names = class_names(args.classes, of_set)
    if names is not None and len(names) != count:
        raise UserError(f"{type(network).__name__} has {count} classes, but {len(names)} names are given")
    colours = np.array(card["colours"], np.uint8) if "colours" in card and args.palette is None else colours_of(args.palette, count)
    if len(colours) != count:
        raise UserError(f"{type(network).__name__} has {count} classes, but {len(colours)} colours are given")
    problems: list[str] = []
    for (path, _), target in zip(pictures, targets, strict=True):
        try:
            pixels = np.asarray(open_picture(path, upright=True))
        except UserError as error:
            problems.append(str(error))
            continue
        labels = segmenter.labels(torch.from_numpy(pixels.transpose(2, 0, 1).copy())).cpu().numpy()
        write_labels(target.with_name(f"{target.name}_labels.png"), labels, colours)
        write_image(target.with_name(f"{target.name}_overlay.png"), overlay(pixels, labels, colours, args.opacity))
        print(f"{path}: {_shares(labels, names)}")
    print(f"{len(pictures) - len(problems)} segmented, {len(problems)} problems; results in {args.output}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _shares(labels: np.ndarray, names: list[str] | None) -> str:
    numbers, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts)[:5]
    return ", ".join(f"{names[numbers[i]] if names else numbers[i]} {100 * counts[i] / labels.size:.0f} %" for i in order)


def _protocol(args: argparse.Namespace, card: dict[str, Any]) -> Protocol:
    changes = {key: getattr(args, key) for key in ("mode", "window", "stride", "resize", "ratios", "pad_multiple")}
    return protocol_of(card, **changes, flip=True if args.flip else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segment.py", description=__doc__, allow_abbrev=False)
    add_recognition_arguments(parser, drawn="labels")
    pair: dict[str, Any] = {"type": at_least(1), "nargs": 2}
    told = "(default: what the weights say)"
    parser.add_argument("--mode", choices=("whole", "slide"), help=f"whole pictures or windows {told}")
    parser.add_argument("--window", **pair, metavar=("H", "W"), help=f"of the windows {told}")
    parser.add_argument("--stride", **pair, metavar=("H", "W"), help=f"steps between windows {told}")
    parser.add_argument("--resize", **pair, metavar=("LONG", "SHORT"), help=f"sides that pictures are fitted into {told}")
    parser.add_argument("--ratios", type=float, nargs="+", help="factors of the size; probabilities are averaged")
    parser.add_argument("--flip", action="store_true", help="also the mirror image of every size")
    parser.add_argument("--pad_multiple", type=at_least(1), help="zeros right and below, to multiples of it")
    parser.add_argument("--palette", choices=sorted(LABEL_SETS), help="colours and names of a set, instead of what the weights say")
    return parser


def cli() -> None:
    """Entry of the command line."""
    run(main)
