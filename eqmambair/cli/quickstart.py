"""The end of the quickstart: measure what it trained on the held-out pictures, print a table, draw a comparison."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.cli._run import run
from eqmambair.data.io import list_images, read_image, to_float, write_image
from eqmambair.data.prepare import pair_by_name, upscale
from eqmambair.errors import UserError
from eqmambair.inference.comparison import comparison, telling_box
from eqmambair.inference.networks import load_trained
from eqmambair.metrics import psnr, ssim


def main(argv: list[str]) -> int:
    """Print the table and write the picture; returns 1 if the network does not beat bicubic by the margin."""
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__, allow_abbrev=False)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--gt", type=Path, required=True, help="ground truth of the held-out pictures")
    parser.add_argument("--lr", type=Path, required=True, help="their low resolution")
    parser.add_argument("--sr", type=Path, required=True, help="what the network made of it")
    parser.add_argument("--picture", type=Path, required=True, help="the comparison to write")
    parser.add_argument("--margin", type=float, required=True, help="dB of PSNR over bicubic that the network must reach")
    arguments = parser.parse_args(argv)

    trained = load_trained(arguments.weights)
    scale = trained.scale
    truths = list_images(arguments.gt)
    low = dict(pair_by_name(truths, list_images(arguments.lr), scale).both)
    results = dict(pair_by_name(truths, list_images(arguments.sr), scale).both)
    missing = [path for path in truths if path not in low or path not in results]
    if missing or not truths:
        raise UserError(f"{missing[0] if missing else arguments.gt}: has no partner in {arguments.lr} and {arguments.sr}")

    rows: list[tuple[str, list[float]]] = []
    panels = {}
    for path in truths:
        truth = read_image(path)
        bicubic, result = upscale(read_image(low[path]), scale), read_image(results[path])
        truth = truth[: result.shape[0], : result.shape[1]]
        values = [measure(picture, truth, crop_border=scale) for measure in (psnr, ssim) for picture in (bicubic, result)]
        rows.append((path.stem, values))
        panels[path] = (bicubic, result, truth, values)
    mean = [float(np.mean([values[i] for _, values in rows])) for i in range(4)]
    rows.append(("mean", mean))
    print(f"\nheld-out pictures, x{scale}, luma, {scale} pixels cut at each border")
    print(f"{'picture':12}  {'PSNR bicubic':>12}  {'PSNR trained':>12}  {'gain':>8}  {'SSIM bicubic':>12}  {'SSIM trained':>12}")
    for name, (plain, better, plain_ssim, better_ssim) in rows:
        print(f"{name:12}  {plain:9.2f} dB  {better:9.2f} dB  {better - plain:+5.2f} dB  {plain_ssim:12.4f}  {better_ssim:12.4f}")

    x = torch.from_numpy(to_float(read_image(low[truths[0]])))[:64, :48].permute(2, 0, 1)[None]
    error = max(element["nmse"] for element in equivariance_error(trained.network, x, "c4")["elements"].values())
    print(f"equivariance error under quarter turns (NMSE, float32): {error:.1e}")

    bicubic, result, truth, values = panels[truths[0]]
    side = min(64, *truth.shape[:2])
    titles = (f"bicubic {values[0]:.2f} dB", f"EQ-MambaIR {values[1]:.2f} dB", "ground truth")
    corner = telling_box(bicubic, result, truth, side)
    write_image(arguments.picture, comparison(list(zip(titles, (bicubic, result, truth), strict=True)), corner, side))
    print(f"comparison: {arguments.picture} (enlarged: where the network gains most)")
    if mean[1] < mean[0] + arguments.margin:
        print(f"error: the network beats bicubic by {mean[1] - mean[0]:.2f} dB, less than {arguments.margin} dB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
