"""Launcher of `eqmambair.cli.make_pasted_set`; runs from any folder, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from eqmambair.cli.make_pasted_set import cli

if __name__ == "__main__":
    cli()
