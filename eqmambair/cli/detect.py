"""Find things in pictures: boxes, classes, scores and masks, drawn and as a COCO result file, of files and folders."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eqmambair.cli._recognition import add_recognition_arguments, class_names, pictures_in, places_of_results, recognition_network
from eqmambair.cli._run import run
from eqmambair.data.coco import listed, mask_tools
from eqmambair.data.io import write_image
from eqmambair.data.pictures import open_picture
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.detection import Detector, Found
from eqmambair.inference.tiling import MEMORY_ERRORS, is_out_of_memory


def main(argv: list[str]) -> int:
    """Write pictures and results; returns 1 where a picture could not be used."""
    args = _parser().parse_args(argv)
    if not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: must be from 0 to 1")
    mask_tools()  # without it no mask can be written
    pictures = pictures_in(args.inputs, args.recursive)
    targets = places_of_results(pictures, args.output)
    network, card, device = recognition_network(args)
    detector = Detector(network, device)
    images, categories, names = _names(args, network, card)
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, ((path, place), target) in enumerate(zip(pictures, targets, strict=True), start=1):
        key = place.as_posix()
        if images is not None and key not in images:
            problems.append(f"{path}: {key} is not listed in {args.annotations}")
            continue
        try:
            pixels = torch.from_numpy(np.asarray(open_picture(path)).transpose(2, 0, 1).copy())
            found = detector.found(pixels, args.score)
            write_image(target.with_name(f"{target.name}_found.png"), found.drawn(pixels, names, args.opacity))
        except UserError as error:
            problems.append(str(error))
            continue
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            problems.append(f"{path}: not enough memory for {pixels.shape[2]}x{pixels.shape[1]} pixels; make it smaller")
            continue
        results += found.results(key if images is None else images[key], categories)
        print(f"[{number}/{len(pictures)}] {path}: {_told(found, names)}", flush=True)
    replace_file(args.output / "detections.json", json.dumps(results) + "\n")
    print(f"{len(pictures) - len(problems)} searched, {len(results)} things found, {len(problems)} problems; results in {args.output}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _names(args: argparse.Namespace, network: nn.Module, card: dict[str, Any]) -> tuple[dict[str, int | str] | None, list[int], list[str]]:
    """What an annotation file calls pictures (None: by their place) and classes, and the names of the classes."""
    count = int(getattr(network, "num_classes", 0))
    images, categories = None, dict(enumerate((str(label) for label in range(1, count + 1)), start=1))
    if args.annotations is not None:
        images, categories = listed(args.annotations)
        if len(categories) != count:
            raise UserError(f"{type(network).__name__} has {count} classes, but {args.annotations} has {len(categories)}")
    names = class_names(args.classes, card) or list(categories.values())
    if len(names) != count:
        raise UserError(f"{type(network).__name__} has {count} classes, but {len(names)} names are given")
    return images, list(categories), names


def _told(found: Found, names: list[str]) -> str:
    counts = Counter(names[label - 1] for label in found.labels.tolist())
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="detect.py", description=__doc__, allow_abbrev=False)
    add_recognition_arguments(parser, drawn="masks")
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        help="least score, 0 to 1; below the network's own score_threshold nothing is found (%(default)s)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file whose numbers of pictures and categories the results have (default: paths, labels)",
    )
    return parser


def cli() -> None:
    """Entry of the command line."""
    run(main)
