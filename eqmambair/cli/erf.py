"""ERF: how far the central output pixel looks, as a picture and as the area that holds given shares of its gradient."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from torch import Tensor
from tqdm import tqdm

from eqmambair.analysis.pictures import receptive_field_picture
from eqmambair.analysis.receptive_field import SHARES, centred_squares, effective_receptive_field
from eqmambair.archs import input_channels
from eqmambair.cli._network import add_network_arguments, network_from_arguments
from eqmambair.cli._pictures import as_tensor, listed_pictures
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least, parse_seed, parse_size
from eqmambair.data.io import read_image
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.restore import find_device
from eqmambair.layers.fold import fold


def main(argv: list[str]) -> None:
    """Write the picture and the numbers, and print the latter."""
    parser = argparse.ArgumentParser(prog="erf", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser, untrained=True)
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH", help="pictures, and folders of pictures")
    parser.add_argument("--most", type=at_least(1), default=100, help="pictures at most (default: 100)")
    parser.add_argument(
        "--size", type=parse_size, default=(120, 120), metavar="HxW", help="each is resized to it, nearest (default: 120x120)"
    )
    parser.add_argument("--sign", choices=("positive", "absolute"), default="positive", help="part of the gradient (default: positive)")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help=f"of the sum (default: {' '.join(map(str, SHARES))})")
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the weights if there are none (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument(
        "--output", type=Path, default=Path("erf.png"), metavar="FILE", help="picture (default: erf.png); numbers: .json beside"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if args.output.suffix != ".png":
        raise UserError(f"{args.output}: the picture is written as .png")
    if not all(0 < share <= 1 for share in args.shares):
        raise UserError(f"--shares: each lies between 0 and 1, found {' '.join(map(str, args.shares))}")

    torch.manual_seed(args.seed)
    device = find_device(args.device)
    pictures = listed_pictures(args.input)[: args.most]
    network, options, weights = network_from_arguments(args)
    network = fold(network).to(device)
    channels = input_channels(network, options)

    def inputs() -> Iterator[Tensor]:
        for path in tqdm(pictures, "measuring", unit="picture", leave=False, disable=True if args.quiet else None):
            image = as_tensor(read_image(path), channels, str(path))
            pixels = cv2.resize(image[0].permute(1, 2, 0).numpy(), args.size[::-1], interpolation=cv2.INTER_NEAREST)
            yield torch.from_numpy(pixels.reshape(*args.size, channels)).permute(2, 0, 1)[None].to(device)

    field, used, left_out = effective_receptive_field(network, inputs(), sign=args.sign)
    squares = centred_squares(field, args.shares)
    report = {
        "network": options,
        "weights": str(weights) if weights else None,
        "pictures": used,
        "left_out": left_out,
        "size": list(args.size),
        "sign": args.sign,
        "squares": [asdict(square) for square in squares],
    }
    replace_file(args.output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    title = f"{options['type']}, {weights.name if weights else 'untrained'}, mean of {used} pictures of {args.size[1]}x{args.size[0]}"
    replace_file(args.output, receptive_field_picture(title, field, squares))
    print(title + (f"; {left_out} left out, gradients were no numbers" if left_out else ""))
    for square in squares:
        side = f"a square of {square.side} pixels ({square.side_ratio:.1%} of the side, {square.area_ratio:.1%} of the area)"
        print(f"{square.share:>5.0%} of the gradient in {side}")
    print(f"{args.output}, {args.output.with_suffix('.json')}")


def cli() -> None:
    """Entry of the command line."""
    run(main)
