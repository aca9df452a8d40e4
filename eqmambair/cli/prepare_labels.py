"""Make segmentation sets ready that come in other forms than training wants: Potsdam, LoveDA, COCO-Stuff-164K."""

import argparse
from pathlib import Path

from eqmambair.cli._run import run
from eqmambair.data import prepare_labels


def main(argv: list[str]) -> None:
    """Write the files, and how many there were."""
    args = _parser().parse_args(argv)
    if args.set == "potsdam":
        place, written = args.output, prepare_labels.potsdam(args.images, args.labels, args.output)
    elif args.set == "loveda":
        place, written = args.output, prepare_labels.loveda(args.input, args.output)
    else:
        place, written = args.root, prepare_labels.coco_stuff(args.root)
    print(f"{sum(1 for _ in written)} files written in {place}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare_labels.py", description=__doc__, allow_abbrev=False)
    sets = parser.add_subparsers(dest="set", required=True)
    sub = sets.add_parser("potsdam", help="tiles of 512x512 from the 38 orthophotos; areas of both parts as published", allow_abbrev=False)
    sub.add_argument("--images", type=Path, required=True, help="folder of top_potsdam_ROW_COLUMN_RGB.tif")
    sub.add_argument("--labels", type=Path, required=True, help="folder of top_potsdam_ROW_COLUMN_label_noBoundary.tif")
    sub.add_argument("--output", type=Path, default=Path("datasets/potsdam"), help="default: %(default)s")
    sub = sets.add_parser("loveda", help="rural and urban pictures in one folder a part", allow_abbrev=False)
    sub.add_argument("--input", type=Path, required=True, help="folder with Train and Val")
    sub.add_argument("--output", type=Path, default=Path("datasets/loveDA"), help="default: %(default)s")
    sub = sets.add_parser("cocostuff164k", help="label files with the 171 classes that occur", allow_abbrev=False)
    sub.add_argument("--root", type=Path, default=Path("datasets/coco_stuff164k"), help="default: %(default)s")
    return parser


def cli() -> None:
    """Entry of the command line."""
    run(main)
