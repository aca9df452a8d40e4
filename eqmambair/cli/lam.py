"""LAM: which input pixels a detail of the output comes from, as a picture and as numbers (diffusion index)."""

import argparse
import json
from pathlib import Path
from typing import get_args

from eqmambair.analysis.attribution import Box, RouterGradient, local_attribution
from eqmambair.analysis.outputs import picture_of
from eqmambair.analysis.pictures import attribution_picture
from eqmambair.archs import input_channels
from eqmambair.cli._network import add_network_arguments, network_from_arguments
from eqmambair.cli._pictures import as_tensor
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least
from eqmambair.data.io import read_image
from eqmambair.data.prepare import downscale
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.restore import find_device
from eqmambair.layers.fold import fold


def main(argv: list[str]) -> None:
    """Write the picture and the numbers, and print the latter."""
    parser = argparse.ArgumentParser(prog="lam", description=__doc__, allow_abbrev=False)
    add_network_arguments(parser, untrained=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="IMAGE", help="what the network is given")
    source.add_argument("--gt", type=Path, metavar="IMAGE", help="a picture whose bicubic low resolution the network is given")
    whole, natural = at_least(1), at_least(0)
    parser.add_argument(
        "--crop", type=natural, nargs=4, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"), help="part of the input (default: all; 64 64 is usual)"
    )
    parser.add_argument(
        "--box", type=natural, nargs=3, metavar=("TOP", "LEFT", "SIDE"), help="square of the output (default: 16 pixels in the middle)"
    )
    parser.add_argument("--steps", type=whole, default=50, help="points of the path from the blurred input (default: 50)")
    parser.add_argument("--kernel", type=whole, default=9, help="side of the blur, pixels, odd (default: 9)")
    parser.add_argument("--sigma", type=float, default=1.2, help="of the blur, pixels (default: 1.2)")
    parser.add_argument(
        "--router_gradient", choices=get_args(RouterGradient), default="straight_through",
        help="of MambaIRv2's routing: as in training, or none, the true derivative almost everywhere (default: straight_through)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument(
        "--output", type=Path, default=Path("lam.png"), metavar="FILE", help="picture (default: lam.png); numbers: .json beside"
    )
    args = parser.parse_args(argv)
    if args.output.suffix != ".png":
        raise UserError(f"{args.output}: the picture is written as .png")

    device = find_device(args.device)
    network, options, weights = network_from_arguments(args)
    network = fold(network).to(device)
    scale = getattr(network, "upscale", options.get("upscale", 1))
    name = args.input or args.gt
    pixels = read_image(name)
    if args.gt:
        pixels = downscale(pixels, scale) if scale > 1 else pixels
    if args.crop:
        top, left, height, width = args.crop
        if 0 in (height, width) or top + height > pixels.shape[0] or left + width > pixels.shape[1]:
            raise UserError(f"--crop {top} {left} {height} {width}: does not lie in the input of {pixels.shape[1]}x{pixels.shape[0]}")
        pixels = pixels[top : top + height, left : left + width]
    image = as_tensor(pixels, input_channels(network, options), str(name)).to(device)
    output = picture_of(network, image).detach()
    side = min(16, *output.shape[-2:])
    box = Box(*args.box) if args.box else Box((output.shape[-2] - side) // 2, (output.shape[-1] - side) // 2, side)
    found = local_attribution(
        network, image, box, steps=args.steps, kernel_size=args.kernel, sigma=args.sigma, router_gradient=args.router_gradient
    )

    report = {
        "network": options,
        "weights": str(weights) if weights else None,
        "picture": str(name),
        "input": {"height": image.shape[-2], "width": image.shape[-1], "crop": args.crop},
        "box": box._asdict(),
        "path": {"steps": args.steps, "kernel": args.kernel, "sigma": args.sigma},
        "diffusion_index": found.diffusion_index,
        "gini": found.gini,
        "attribution_sum": found.total,
        "detector_difference": found.expected,
    }
    if found.category_changes is not None:
        report |= {"router_gradient": args.router_gradient, "category_changes": found.category_changes}
    replace_file(args.output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    title = f"{options['type']}, {weights.name if weights else 'untrained'}, {name.name}"
    replace_file(args.output, attribution_picture(title, image, output, box, found))
    print(f"{title}: input {image.shape[-1]}x{image.shape[-2]}, square of {box.side} at row {box.top}, column {box.left} of the output")
    print(f"diffusion index {found.diffusion_index:.3f} (Gini index {found.gini:.4f})")
    print(f"sum of the attributions {found.total:.5g}, change of the detector along the path {found.expected:.5g}")
    if found.category_changes is not None:
        print(f"{found.category_changes:.3%} of the tokens change their category from one step to the next")
    print(f"{args.output}, {args.output.with_suffix('.json')}")


def cli() -> None:
    """Entry of the command line."""
    run(main)
