"""Count parameters, multiply-accumulates, activations and memory of networks, and measure their time."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from eqmambair.analysis.complexity import complexity, complexity_of_sizes, seconds
from eqmambair.analysis.presets import markdown, replace_table, rows
from eqmambair.archs import input_channels
from eqmambair.cli._network import built, network_options
from eqmambair.cli._run import run
from eqmambair.cli._sizes import at_least, parse_size
from eqmambair.engine.options import project_root
from eqmambair.errors import UserError
from eqmambair.files import replace_file
from eqmambair.inference.restore import find_device


def main(argv: list[str]) -> None:
    """Print a table, and write it as JSON if asked; or write the table of all networks into a page."""
    parser = argparse.ArgumentParser(prog="complexity", description=__doc__, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--opt", metavar="FILE", nargs="+", help="option files whose network_g names the networks")
    what.add_argument("--table", type=Path, metavar="PAGE", help="write the table of all option files into this page (docs/models.md)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", metavar="HxW", type=parse_size, default=(64, 64), help="size of the network's input (default: 64x64)")
    size.add_argument(
        "--output_size", metavar="HxW", type=parse_size, help="size of its output instead, such as 720x1280; counted, nothing is computed"
    )
    parser.add_argument("--time", type=at_least(1), metavar="N", help="measure the median time of N passes, too")
    parser.add_argument("--device", default="cpu", help="where the time is measured: cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)

    if args.table:
        _write_table(args.table)
        return
    if args.time and args.output_size:
        raise UserError("--time measures at --size; leave --output_size out")
    device = find_device(args.device)
    shown = "output {}x{}".format(*args.output_size) if args.output_size else "input {}x{}".format(*args.size)
    time = f" {'time':>10}" if args.time else ""
    titles = f"{'parameters':>12} {'dense GMACs':>12} {'scan GMACs':>11} {'activations':>12} {'peak memory':>12}{time}"
    print(f"{'option file':<40} {titles}   at {shown}")
    figures = {}
    for path in args.opt:
        figures[path] = row = _measure(path, args, device)
        dense, scan, activations, peak = (row[key] for key in ("dense_macs", "scan_macs", "activations", "peak_bytes"))
        time = f" {row['seconds'] * 1000:>7.0f} ms" if args.time else ""
        counts = f"{dense / 1e9:>12.3f} {scan / 1e9:>11.3f} {activations / 1e6:>11.2f}M {peak / 2**20:>8.1f} MiB"
        print(f"{path:<40} {row['parameters']:>12,} {counts}{time}")
    if args.json:
        key = "output_size" if args.output_size else "size"
        replace_file(args.json, json.dumps({key: list(args.output_size or args.size), "networks": figures}, indent=2) + "\n")


def _measure(file: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    options = network_options(file)
    with torch.device("meta" if args.output_size else "cpu"):
        network = built(options, file)
        channels, scale = input_channels(network, options), getattr(network, "upscale", 1)
        height, width = (each // scale for each in args.output_size) if args.output_size else args.size
        if 0 in (height, width):
            raise UserError(f"{options['type']} enlarges by {scale}: an output that small has no input")
    shape = (1, channels, height, width)
    counted = complexity_of_sizes(network, shape) if args.output_size else complexity(network, torch.rand(shape))
    if counted is None:
        raise UserError(f"{options['type']}: its work depends on what is in the picture; leave --output_size out and measure at --size")
    figures = counted.as_dict()
    if args.time:
        x = torch.rand(shape).to(device)
        figures |= {"seconds": seconds(network.to(device), x, args.time), "device": str(device), "threads": torch.get_num_threads()}
    return figures


def _write_table(page: Path) -> None:
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{page}: is not a text file (UTF-8)") from error
    replace_table(text, markdown([]))  # a page without the table is refused before minutes of counting
    from tqdm import tqdm

    table = markdown(tqdm(rows(project_root()), "counting", unit="network", leave=False, disable=None))
    replace_file(page, replace_table(text, table))
    print(f"{page}: {len(table.splitlines()) - 2} networks")


def cli() -> None:
    """Entry of the command line."""
    run(main)
