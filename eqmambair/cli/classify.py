"""Classify pictures: files and folders, the likeliest classes of each, as a table and as JSON."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from eqmambair.cli._recognition import add_recognition_arguments, class_names, classifier_from_arguments, pictures_in
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least
from eqmambair.data.pictures import open_picture
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.classification import Guess, PictureClassifier, preprocessing_of


def main(argv: list[str]) -> int:
    """Print the table; returns 1 where a picture could not be read."""
    args = _parser().parse_args(argv)
    pictures = [path for path, _ in pictures_in(args.inputs, args.recursive)]
    network, card, device = classifier_from_arguments(args)
    classifier = PictureClassifier(
        network, preprocessing_of(card, size=args.size, crop_pct=args.crop_pct), class_names(args.classes, card), device
    )
    width = max(len(str(path)) for path in pictures)
    results: dict[str, Any] = {}
    problems: list[str] = []
    for start in range(0, len(pictures), args.batch):
        named = list(_opened(pictures[start : start + args.batch], problems))
        if not named:
            continue
        for (path, _), guesses in zip(named, classifier.guesses([picture for _, picture in named], args.top), strict=True):
            results[str(path)] = [asdict(guess) for guess in guesses]
            print(f"{path!s:<{width}}  {_shown(guesses)}")
    if args.json is not None:
        report = {
            "weights": str(args.weights) if args.weights else None,
            "preprocessing": classifier.preprocessing.as_dict(),
            "pictures": results,
        }
        replace_file(args.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _opened(paths: list[Path], problems: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, open_picture(path, upright=True)
        except UserError as error:
            problems.append(str(error))


def _shown(guesses: list[Guess]) -> str:
    return "  ".join(f"{guess.name} {100 * guess.probability:.1f} %" for guess in guesses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="classify.py", description=__doc__, allow_abbrev=False)
    add_recognition_arguments(parser, exported=True)
    parser.add_argument("--top", type=at_least(1), default=5, help="classes of each picture (default: %(default)s)")
    parser.add_argument("--size", type=at_least(1), help="side of the view in pixels (default: what the weights say, else 224)")
    parser.add_argument("--crop_pct", type=float, help="view over resized shorter side (default: what the weights say, else 0.875)")
    parser.add_argument("--batch", type=at_least(1), default=16, help="pictures at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the classes there as well")
    return parser


def cli() -> None:
    """Entry of the command line."""
    run(main)
