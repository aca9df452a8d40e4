"""Train a network from an option file."""

import argparse
from pathlib import Path

from eqmambair.cli._run import run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="train", description=__doc__, allow_abbrev=False)
    common(parser)
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest whole state of this run, if there is one")
    parser.add_argument("--accept_changes", action="store_true", help="resume though options changed that change the outcome")
    parser.add_argument("--debug", action="store_true", help="16 steps at most, every one logged, under the name debug_NAME")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="build everything, two steps, one validation sample; write nothing"
    )
    parser.add_argument(
        "--schema", nargs="?", const="RestorationModel", metavar="MODEL_TYPE",
        help="print the JSON schema of option files of a model_type (RestorationModel) and end",
    )  # fmt: skip
    return parser


def common(parser: argparse.ArgumentParser) -> None:
    """Arguments that train and test share, basicsr's among them."""
    parser.add_argument("-opt", "--opt", help="option file (YAML)")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="how the processes of the run are started")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="given by torch.distributed.launch")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:SUBKEY=VALUE", help="change options; checked like the file")
    parser.add_argument("--root", type=Path, default=None, help="folder that relative paths start from (the project's)")


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.schema:
        import json

        from eqmambair.engine.options import joined_schema
        from eqmambair.models import find_model

        print(json.dumps(joined_schema(find_model(arguments.schema)).model_json_schema(), indent=1))
        return 0
    from eqmambair.engine.commands import train
    from eqmambair.engine.loop import RunMode
    from eqmambair.engine.options import load_options
    from eqmambair.errors import UserError

    if arguments.opt is None:
        raise UserError("give an option file: -opt FILE")
    options, warnings = load_options(arguments.opt, "train", arguments.force_yml, arguments.root, debug=arguments.debug)
    return train(options, RunMode(arguments.auto_resume, arguments.dry_run, arguments.accept_changes), arguments.launcher, warnings)


def cli() -> None:
    """Entry point of the command."""
    run(main)


if __name__ == "__main__":
    cli()
