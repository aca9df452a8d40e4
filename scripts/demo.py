"""Launcher: python scripts/demo.py (see --help)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from eqmambair.cli.demo import cli

    cli()
