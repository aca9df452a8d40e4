"""Serve a page on this machine to try networks on: restore a picture, and see what turning it does."""

import argparse
import signal
from collections import Counter
from pathlib import Path

from eqmambair.cli._run import run
from eqmambair.demo import DemoServer, Limits, Model, Workshop
from eqmambair.inference.networks import load_trained
from eqmambair.inference.restore import find_device
from eqmambair.zoo import entries, locate

_NO_PICTURES = ("classification", "segmentation", "detection")  # tasks whose results are no pictures


def main(argv: list[str]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UserError: weights cannot be loaded, the device or the port cannot be used.
    """
    arguments = _parser().parse_args(argv)
    named = {name: Model(path, load_trained(path).scale) for name, path in _names(arguments.weights).items()}
    known = [entry for entry in entries().values() if entry.task not in _NO_PICTURES]
    here = {entry.name: Model(path, entry.scale or load_trained(path).scale) for entry in known if (path := locate(entry.name))}
    limits = Limits(arguments.max_megabytes * 1_000_000, arguments.max_megapixels * 1_000_000)
    workshop = Workshop({**named, **here}, limits, find_device(arguments.device))
    with DemoServer(workshop, arguments.port) as server:
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where a shell told this process to ignore Ctrl-C
            print(f"open {server.address} in a browser on this machine; Ctrl-C ends", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--weights", "-w", type=Path, nargs="+", default=[], metavar="FILE", help="beside the zoo's that are bundled or cached"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 = a free one (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: a GPU if there is one)")
    parser.add_argument("--max_megabytes", type=_positive, default=20, help="of an upload (default: %(default)s)")
    parser.add_argument("--max_megapixels", type=_positive, default=4, help="of a picture (default: %(default)s)")
    return parser


def _names(files: list[Path]) -> dict[str, Path]:
    """Files by their names, and by their paths where two have one name."""
    count = Counter(path.name for path in files)
    return {path.name if count[path.name] == 1 else str(path): path for path in files}


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 999, not {text!r}")
    return int(text)


def cli() -> None:
    """Entry of the command line."""
    run(main)
