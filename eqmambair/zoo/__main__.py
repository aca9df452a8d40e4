"""Launcher: python -m eqmambair.zoo ... (see --help)."""

from eqmambair.cli.zoo import cli

if __name__ == "__main__":
    cli()
