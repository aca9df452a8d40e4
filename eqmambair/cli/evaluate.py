"""PSNR, SSIM and PSNR-B of results, of a network, of bicubic enlargement, or of degraded pictures, against ground truth."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eqmambair.cli._degrading import add_degradation_arguments, degradation, degrade
from eqmambair.cli._network import add_network_arguments, trained_from_arguments
from eqmambair.cli._restorer import add_restorer_arguments, restorer_from_arguments
from eqmambair.cli._run import run
from eqmambair.data.io import IMAGE_EXTENSIONS, Image, list_images, read_image, write_image
from eqmambair.data.prepare import downscale, pair_by_name, upscale
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.metrics import CHANNELS, Channel, average, psnr, psnrb, ssim

METRICS: dict[str, Callable[..., float]] = {"psnr": psnr, "ssim": ssim, "psnrb": psnrb}
_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "psnrb": "PSNR-B"}
_CHANNEL_NAMES = {"y": "Y of YCbCr", "rgb": "RGB", "gray": "gray"}


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    for scale in arguments.scale or ():
        _save_folder(arguments, scale)  # before anything is measured

    results: dict[str, dict[str, Any]] = {}
    for scale in arguments.scale or [None]:
        result = _evaluate(arguments, scale)
        results[f"x{result['scale']}"] = result
        _print_table(result)
    if arguments.json:
        content = next(iter(results.values())) if len(results) == 1 else results
        replace_file(arguments.json, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    problems = [problem for result in results.values() for problem in result["problems"]]
    for problem in dict.fromkeys(problems):
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for arguments that do not go together."""
    network = arguments.weights or arguments.model or arguments.opt
    degraded = degradation(arguments)
    if sum(map(bool, (arguments.sr, network, arguments.bicubic, arguments.degraded))) != 1:
        raise UserError("say what is to be measured: one of --sr FOLDER, --bicubic, --degraded, or a network (--weights, --model, --opt)")
    if arguments.degraded and not degraded:
        raise UserError("--degraded measures what --jpeg QUALITY or --noise SIGMA makes of the ground truth; give one of them")
    if degraded and (arguments.sr or arguments.bicubic or arguments.lr):
        raise UserError("--jpeg and --noise make the input of a network of the ground truth; leave --sr, --lr and --bicubic out")
    if degraded and set(arguments.scale or [1]) != {1}:
        raise UserError("--jpeg and --noise keep the size: the scale is 1")
    if arguments.lr and arguments.sr:
        raise UserError("--lr is the input of a network or of --bicubic; --sr holds results already")
    if not network and not degraded and not arguments.scale:
        raise UserError("--scale is needed (1 for pictures of the same size)")
    if any(scale < 1 for scale in arguments.scale or ()):
        raise UserError(f"a scale is an integer of at least 1, not {min(arguments.scale)}")
    if network and len(arguments.scale or ()) > 1 and "{scale}" not in f"{arguments.weights}{arguments.model}{arguments.opt}":
        raise UserError("a network has one scale; for several write {scale} in --weights, --model or --opt")
    if arguments.save and len(arguments.scale or ()) > 1 and "{scale}" not in str(arguments.save):
        raise UserError(f"--save {arguments.save}: the pictures of each scale would replace those before; write {{scale}} in it")


def _evaluate(arguments: argparse.Namespace, scale: int | None) -> dict[str, Any]:
    """Score one scale; None takes that of the network."""
    filled = argparse.Namespace(**{key: _with_scale(value, scale) for key, value in vars(arguments).items()})
    make: Callable[[Image], Image]
    if filled.sr:
        assert scale is not None  # checked by main
        other, make = filled.sr, lambda picture: picture
    elif filled.degraded:
        other, make, scale = None, lambda picture: picture, 1
    elif filled.bicubic:
        assert scale is not None
        enlarge = scale
        other, make = filled.lr, lambda picture: upscale(picture, enlarge) if enlarge > 1 else picture
    else:
        trained = trained_from_arguments(filled)
        if scale is not None and trained.scale != scale:
            raise UserError(f"the network enlarges by {trained.scale}, not by {scale}")
        scale = trained.scale
        restore = restorer_from_arguments(trained, filled)
        # as the benchmarks do it: a colour network is given gray as RGB, and its luma is measured
        other, make = filled.lr, lambda picture: restore(np.repeat(picture, 3, 2) if picture.shape[2] == 1 < trained.channels else picture)
    how = degradation(filled)
    if how and scale != 1:
        raise UserError(f"the network enlarges by {scale}; --jpeg and --noise keep the size")
    channel: Channel = filled.channel or ("rgb" if how else "y")
    measured = filled.metrics or (["psnr", "ssim", "psnrb"] if filled.jpeg is not None else ["psnr", "ssim"])
    save = _save_folder(arguments, scale)
    border = scale if filled.crop_border is None else filled.crop_border
    border = 0 if filled.crop_border is None and scale == 1 else border

    truths = _images(filled.gt)
    problems: list[str] = []
    if other is None:
        if scale == 1 and not how:
            raise UserError("--lr is needed at scale 1, or --jpeg or --noise: there is no low resolution to be made")
        both: list[tuple[Path, Path | None]] = [(truth, None) for truth in truths]
        twice = [path for path in truths if sum(path.stem == twin.stem for twin in truths) > 1]
        problems += [f"{path}: its name without extension is not its own" for path in twice]
        both = [pair for pair in both if pair[0] not in twice]
    else:
        pairs = pair_by_name(truths, _images(other), scale, filled.suffix)
        both = list(pairs.both)
        problems += pairs.ambiguous
        problems += [f"{path}: no partner in {other}" for path in pairs.truth_alone]
        problems += [f"{path}: no partner in {filled.gt}" for path in pairs.other_alone]

    images: dict[str, dict[str, float]] = {}
    for truth, partner in _bar(both, filled.quiet):
        try:
            target = read_image(truth)
            if how:
                target, source = degrade(target, how, channel)
            else:
                source = downscale(target, scale) if partner is None else read_image(partner)
            result = make(source)
            if result.dtype == np.float32:
                result = np.rint(result.clip(0, 1) * 255).astype(np.uint8)
            target = _crop_to(target, result, scale)
            values = {metric: METRICS[metric](result, target, crop_border=border, channel=channel) for metric in measured}
            if save:
                write_image(save / f"{truth.stem}.png", result)
            images[os.fsencode(truth.stem).decode("utf-8", "backslashreplace")] = values  # printed and written, which takes UTF-8
        except UserError as error:
            name = str(partner or truth)
            problems.append(str(error) if str(truth) in str(error) or name in str(error) else f"{name}: {error}")
    if not both:
        problems.append(f"{filled.gt}: no pair of pictures to score")
    means = {metric: average(values[metric] for values in images.values())[0] for metric in measured}
    return {
        "scale": scale,
        **({"degradation": how} if how else {}),
        "channel": channel,
        "crop_border": border,
        "mean": {metric: None if math.isnan(value) else value for metric, value in means.items()},
        "images": images,
        "identical": [name for name, values in images.items() if math.isinf(values.get("psnr", 0))],
        "problems": problems,
    }


def _save_folder(arguments: argparse.Namespace, scale: int) -> Path | None:
    """Return the folder for the pictures of a scale; raise `UserError` if pictures are read from it."""
    if arguments.save is None:
        return None
    folder: Path = _with_scale(arguments.save, scale)
    for name in ("gt", "lr", "sr"):
        read = _with_scale(getattr(arguments, name), scale)
        if read is not None and folder.resolve() == read.resolve():
            raise UserError(f"--save {folder}: would replace the pictures of --{name}; give another folder")
    return folder


def _crop_to(truth: Image, result: Image, scale: int) -> Image:
    """Return the ground truth without the rest of a division by the scale at the right and lower border."""
    height, width = result.shape[:2]
    if (height, width) == (truth.shape[0] // scale * scale, truth.shape[1] // scale * scale):
        return truth[:height, :width]
    return truth


def _with_scale(value: Any, scale: int | None) -> Any:
    """Return a path or text with {scale} filled in; other values as they are."""
    if scale is None or not isinstance(value, Path | str):
        return value
    return type(value)(str(value).replace("{scale}", str(scale)))


def _images(folder: Path) -> list[Path]:
    found = list_images(folder)
    if not found:
        raise UserError(f"{folder}: no picture here ({', '.join(IMAGE_EXTENSIONS)})")
    return found


def _bar(items: list[Any], quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(items, "measuring", unit="picture", leave=False, disable=True if quiet else None)


def _print_table(result: dict[str, Any]) -> None:
    names = [*result["images"], "mean"]
    width = max(map(len, names))
    made = "".join(f", {key} {value:g}" for key, value in result.get("degradation", {}).items())
    titles = [f"{_TITLES[metric]}{'' if metric == 'ssim' else ' in dB'}" for metric in result["mean"]]
    measured = " and ".join([", ".join(titles[:-1]), titles[-1]] if titles[1:] else titles)
    print(f"x{result['scale']}{made}: {measured} on {_CHANNEL_NAMES[result['channel']]}, {result['crop_border']} pixels cut at each border")
    print(f"{'image':{width}}" + "".join(f"  {_TITLES[metric]:>7}" for metric in result["mean"]))
    for name, values in [*result["images"].items(), ("mean", result["mean"])]:
        numbers = {metric: math.nan if value is None else value for metric, value in values.items()}
        print(f"{name:{width}}" + "".join(f"  {value:7.{4 if metric == 'ssim' else 3}f}" for metric, value in numbers.items()))
    if result["identical"]:
        print(f"identical to the ground truth (infinite PSNR), left out of the mean of PSNR: {', '.join(result['identical'])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description=__doc__,
        epilog="{scale} in --gt, --sr, --lr, --save, --weights, --model and --opt stands for each scale in turn.",
        allow_abbrev=False,
    )
    parser.add_argument("--gt", type=Path, required=True, help="folder of ground-truth pictures")
    parser.add_argument("--sr", type=Path, help="folder of results to be measured")
    parser.add_argument("--bicubic", action="store_true", help="measure bicubic enlargement, the baseline of the tables")
    parser.add_argument("--degraded", action="store_true", help="measure what --jpeg or --noise makes, the baseline of the tables")
    parser.add_argument("--lr", type=Path, help="folder of inputs (default: made from --gt by MATLAB-compatible bicubic)")
    parser.add_argument("--scale", type=int, nargs="+", metavar="S", help="one or several (default: that of the network)")
    parser.add_argument("--suffix", help="what the names in --sr or --lr carry more than those in --gt (default: nothing, xS or _xS)")
    parser.add_argument("--channel", choices=CHANNELS, help="what is compared (default: y, the luma; with --jpeg or --noise rgb)")
    parser.add_argument("--metrics", choices=list(METRICS), nargs="+", help="default: psnr and ssim, with --jpeg also psnrb")
    parser.add_argument("--crop_border", type=int, help="pixels left out at each side (default: the scale; 0 at scale 1)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--save", type=Path, help="write the pictures that are measured to this folder, as PNG")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_degradation_arguments(parser)
    add_network_arguments(parser, required=False, exported=True)
    add_restorer_arguments(parser)
    return parser


def cli() -> None:
    run(main)
