"""Launcher: python basicsr/train.py -opt FILE. This folder has no __init__.py, so ``import basicsr`` finds the installed package."""

import sys
from pathlib import Path

sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parents[1]))

from eqmambair.cli.train import cli  # noqa: E402

if __name__ == "__main__":
    cli()
