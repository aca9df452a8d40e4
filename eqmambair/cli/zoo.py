"""The weights that the toolbox knows: which there are, where they lie, fetch them, check them."""

import argparse
import json
import sys

from eqmambair.cli._fetching import bar
from eqmambair.cli._run import run
from eqmambair.errors import UserError
from eqmambair.zoo import Entry, cache_folder, check, entries, fetch, find_entry, locate


def main(argv: list[str]) -> int:
    """Run one of the sub-commands; returns 1 where something is not as it should be."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.command(arguments)
    return status


def _list(arguments: argparse.Namespace) -> int:
    wanted = [entry for entry in entries().values() if arguments.word.lower() in f"{entry.name} {entry.arch} {entry.task}".lower()]
    if not wanted:
        raise UserError(f"no name, network or task of the table contains {arguments.word!r}")
    if arguments.json:
        print(json.dumps([_fields(entry) for entry in wanted], indent=1))
        return 0
    rows = [("name", "network", "task", "scale", "where", "scores")]
    rows += [(e.name, e.arch, e.task, f"x{e.scale}" if e.scale else "", _where(e), _scores(e)) for e in wanted]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join([f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)] + [row[-1]]).rstrip())
    return 0


def _show(arguments: argparse.Namespace) -> int:
    for key, value in _fields(find_entry(arguments.name)).items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {number}" for name, number in value.items())
        elif isinstance(value, list):
            value = f"\n{'':<15}".join(map(str, value))
        if value not in (None, ""):
            print(f"{key + ':':<14} {value}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    chosen = [find_entry(name) for name in arguments.names]  # a misspelt name stops all before anything is fetched
    for entry in chosen:
        path = locate(entry.name)
        if path is None:
            with bar(entry.name) as progress:
                path = fetch(entry, progress)
        print(path)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    chosen = [find_entry(name) for name in arguments.names or entries()]
    problems = 0
    for entry in chosen:
        path = locate(entry.name)
        if path is None:
            if arguments.names:
                print(f"{entry.name}: not here; `python -m eqmambair.zoo fetch {entry.name}` fetches it", file=sys.stderr)
                problems += 1
            continue
        try:
            print(f"{entry.name}: right, by {check(entry, path)} ({path})")
        except UserError as error:
            print(f"{entry.name}: {error}; remove it and fetch it again", file=sys.stderr)
            problems += 1
    return 1 if problems else 0


def _fields(entry: Entry) -> dict[str, object]:
    path = locate(entry.name)
    file = str(path) if path else f"not here; its place is {cache_folder() / entry.file}"
    licence = entry.licence or "not known here; see the source"
    return {**entry.model_dump(mode="json", exclude={"bundled", "part"}), "licence": licence, "where": _where(entry), "file": file}


def _where(entry: Entry) -> str:
    return "bundled" if entry.bundled else "cached" if locate(entry.name) else "to fetch"


def _scores(entry: Entry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.scores.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eqmambair.zoo", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="a line for each set of weights", allow_abbrev=False)
    listing.add_argument("word", nargs="?", default="", help="only those whose name, network or task contains it")
    listing.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    listing.set_defaults(command=_list)
    showing = commands.add_parser("show", help="all that is known of one", allow_abbrev=False)
    showing.add_argument("name")
    showing.set_defaults(command=_show)
    fetching = commands.add_parser("fetch", help="download into the cache what is not here, and print the files", allow_abbrev=False)
    fetching.add_argument("names", nargs="+", metavar="NAME")
    fetching.set_defaults(command=_fetch)
    verifying = commands.add_parser("verify", help="check what is here, by hash and content", allow_abbrev=False)
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here")
    verifying.set_defaults(command=_verify)
    return parser


def cli() -> None:
    """Entry of the command line."""
    run(main)
