"""Measure recognition on turned pictures: classifiers at any angles, segmentation networks at the four right ones; several side by side."""

import argparse
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from eqmambair.analysis.rotated import Figures, rotated_accuracy, rotated_segmentation, spread
from eqmambair.checkpoints import load_network
from eqmambair.cli._network import run_name
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least
from eqmambair.data.checking import check_dataset
from eqmambair.data.classification import ClassifiedPictures
from eqmambair.data.segmentation import SegmentationDataset
from eqmambair.engine.options import load_options
from eqmambair.engine.schema import Options
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.classification import PictureClassifier
from eqmambair.inference.restore import find_device
from eqmambair.inference.segmentation import Protocol, Segmenter
from eqmambair.models.building import built_dataset
from eqmambair.models.segmentation import protocol_from

EVERY_15 = [float(angle) for angle in range(0, 360, 15)]


def main(argv: list[str]) -> None:
    """Print a table, and write JSON and a plot if asked."""
    args = _parser().parse_args(argv)
    options, _ = load_options(args.opt, "test", args.force_yml, args.root)
    dataset, indices, name = _data(options, args.set, args.limit)
    weights = list(args.weights) or [_own_weights(options)]
    names = _names(weights, args.names)
    device = find_device(args.device)
    report: dict[str, Any] = {"set": name, "pictures": len(indices), "networks": {}}
    tables: dict[str, Figures] = {}
    key = "mIoU" if isinstance(dataset, SegmentationDataset) else "top1"
    for label, file in zip(names, weights, strict=True):
        network, network_options = load_network(file, None if args.weights else options.network_g, args.param_key)
        network = network.to(device).eval()
        for policy, figures in _measured(network, dataset, indices, options, args, device).items():
            title = f"{label}, {policy}" if policy else label
            tables[title] = figures
            parameters = sum(parameter.numel() for parameter in network.parameters())
            entry = {"weights": str(file), "type": network_options["type"], "parameters": parameters}
            measured = {f"{angle:g}": values for angle, values in figures.items()}
            report["networks"][title] = entry | {"summary": spread(figures, key), "angles": measured}
    for line in table(tables, {title: entry["parameters"] for title, entry in report["networks"].items()}, key):
        print(line)
    if args.json is not None:
        replace_file(args.json, json.dumps(report, indent=1) + "\n")
    if args.plot is not None:
        replace_file(args.plot, plot(tables, f"{name}, {len(indices)} pictures", key))


def _measured(
    network: nn.Module, dataset: Any, indices: Sequence[int], options: Options, args: argparse.Namespace, device: Any
) -> dict[str, Figures]:
    if isinstance(dataset, ClassifiedPictures):
        classifier = PictureClassifier(network, dataset.preprocessing, dataset.classes, device)
        return {"": rotated_accuracy(classifier, dataset, indices, args.angles or EVERY_15, args.batch, _bar)}
    if args.angles:
        raise UserError("--angles: segmentation is measured at the four right angles; labels cannot be turned by others without loss")
    protocol = protocol_from(options.val, dataset.resize, dataset)
    count = Segmenter(network, protocol, device).classes()
    if count != len(dataset.classes):
        raise UserError(f"{type(network).__name__} has {count} classes, the set {len(dataset.classes)}")
    protocols: dict[str, Protocol] = {"as-is": protocol, "padded": replace(protocol, pad_multiple=32)}
    return {
        policy if len(args.policy) > 1 else "": rotated_segmentation(Segmenter(network, protocols[policy], device), dataset, indices, _bar)
        for policy in args.policy
    }


def _data(options: Options, wanted: str | None, limit: int | None) -> tuple[Any, list[int], str]:
    """The validation set, the numbers of the pictures to use, and the set's name."""
    sections = {section.name or key: section for key, section in options.sections("val", "test").items()}
    if wanted is not None and wanted not in sections:
        raise UserError(f"--set {wanted}: the option file has {', '.join(sections)}")
    name = wanted or next(iter(sections))
    dataset = built_dataset(options, sections[name], "val")
    if not isinstance(dataset, (ClassifiedPictures, SegmentationDataset)):
        raise UserError(f"{name}: {sections[name].type} is no set of classification or segmentation")
    indices = check_dataset(dataset, "lazy", "error", name)
    if limit is not None and limit < len(indices):
        indices = [indices[position * len(indices) // limit] for position in range(limit)]
    return dataset, indices, name


def _own_weights(options: Options) -> Path:
    if options.path.pretrain_network_g is None:
        raise UserError("no weights; give --weights FILE ..., or path.pretrain_network_g in the option file")
    return options.resolve(options.path.pretrain_network_g)


def _names(weights: Sequence[Path], given: Sequence[str]) -> list[str]:
    """Names of the networks in the table: those given, else of the runs that the files belong to, else of the files."""
    if given and len(given) != len(weights):
        raise UserError(f"--names: {len(given)} names for {len(weights)} files of weights")
    found = list(given) or [run_name(file) for file in weights]
    if len(set(found)) < len(found):
        raise UserError(f"two networks would be called {max(found, key=found.count)!r}; give --names")
    return found


def table(tables: dict[str, Figures], parameters: dict[str, int], key: str) -> list[str]:
    """One line a network: its size, the figure at the right angles, and its mean (std) over them and over all angles."""
    width = max(len(title) for title in tables)
    lines = [f"{key + ' %':<{width}}  parameters  {'0':>6}  {'90':>6}  {'180':>6}  {'270':>6}  {'right angles':>14}  {'all angles':>14}"]
    for title, figures in tables.items():
        found = spread(figures, key)
        cells = [f"{figures[angle][key]:6.2f}" if angle in figures else " " * 6 for angle in (0.0, 90.0, 180.0, 270.0)]
        right = f"{found['right']:6.2f} ({found['right_std']:.2f})" if found["right"] is not None else ""
        every = f"{found['mean']:6.2f} ({found['std']:.2f})"
        lines.append(f"{title:<{width}}  {parameters[title]:>10,}  {'  '.join(cells)}  {right:>14}  {every:>14}")
    return lines


def plot(tables: dict[str, Figures], title: str, key: str) -> bytes:
    """The figure over the angle, a line for each network, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, figures in tables.items():
        axes.plot(list(figures), [values[key] for values in figures.values()], marker="o", markersize=4, label=name)
    axes.set(title=title, xlabel="turned by (degrees, counter-clockwise)", ylabel=f"{key} (%)", ylim=(0, None))
    axes.set_xticks(range(0, 360, 45))
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _bar(steps: Iterable[int]) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(steps, unit="step", disable=None, leave=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rotated_benchmark.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--opt", "-opt", required=True, metavar="FILE", help="option file: its validation set is measured on")
    parser.add_argument(
        "--weights", "-w", type=Path, nargs="+", default=[], metavar="FILE", help="networks (default: the option file's own)"
    )
    parser.add_argument("--names", nargs="+", default=[], help="what the table calls them (default: their runs)")
    parser.add_argument("--param_key", metavar="KEY", help="entry of the .pth files, such as params_ema (default: the first known one)")
    parser.add_argument("--set", metavar="NAME", help="which validation set (default: the first)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use N pictures, evenly over the set")
    parser.add_argument("--angles", type=_angle, nargs="+", help="degrees counter-clockwise, for classifiers (default: 0 15 ... 345)")
    parser.add_argument(
        "--policy", choices=("as-is", "padded"), nargs="+", default=["as-is"],
        help="for segmentation: pictures as they are, or filled up to multiples of 32 before they are turned (default: as-is)",
    )  # fmt: skip
    parser.add_argument("--batch", type=at_least(1), default=50, help="views at once, for classifiers (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:SUBKEY=VALUE", help="change options; checked like the file")
    parser.add_argument("--root", type=Path, help="folder that relative paths start from (the project's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (.png)")
    return parser


def _angle(text: str) -> float:
    try:
        angle = float(text) % 360
    except ValueError:
        angle = math.nan
    if math.isnan(angle):
        raise argparse.ArgumentTypeError(f"{text!r} is no angle in degrees")
    return angle


def cli() -> None:
    """Entry of the command line."""
    run(main)
