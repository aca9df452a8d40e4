"""Launcher of `eqmambair.cli.export_onnx`; runs from any folder, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from eqmambair.cli.export_onnx import cli

if __name__ == "__main__":
    cli()
