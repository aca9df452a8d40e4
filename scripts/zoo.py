"""Launcher: python scripts/zoo.py ... (see --help); the same as python -m eqmambair.zoo."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from eqmambair.cli.zoo import cli

    cli()
