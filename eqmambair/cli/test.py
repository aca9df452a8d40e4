"""Measure a network on data sets, from an option file."""

import argparse

from eqmambair.cli._run import run
from eqmambair.cli.train import common


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="test", description=__doc__, allow_abbrev=False)
    common(parser)
    arguments = parser.parse_args(argv)
    from eqmambair.engine.commands import test
    from eqmambair.engine.options import load_options
    from eqmambair.errors import UserError

    if arguments.opt is None:
        raise UserError("give an option file: -opt FILE")
    options, warnings = load_options(arguments.opt, "test", arguments.force_yml, arguments.root)
    return test(options, arguments.launcher, warnings)


def cli() -> None:
    """Entry point of the command."""
    run(main)


if __name__ == "__main__":
    cli()
