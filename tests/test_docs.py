"""Every command that the pages and option files print is one that the toolbox takes, and names files that exist."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "datasets/README.md", *sorted((ROOT / "docs").glob("*.md"))]
START = re.compile(r"(?:\$ |# )?(?:[A-Z_]+=\S+ )*((?:python|torchrun|bash) .*)")
FOLDERS = ("options/", "scripts/", "basicsr/", "tests/", "docs/")


class _Accepted(Exception):
    """The arguments of a command were parsed."""


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            yield from ((page.name, found[1]) for line in block.splitlines() if (found := START.match(line)))
    for file in sorted((ROOT / "options").rglob("*.yml")):
        head = [line for line in file.read_text("utf-8").splitlines() if line.startswith("# ")]
        yield from ((file.name, line[start:]) for line in head if (start := max(line.find("python basicsr"), line.find("torchrun"))) > 0)


COMMANDS = list(dict.fromkeys(_commands()))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command[:90]}" for page, command in COMMANDS])
def test_commands_of_the_pages_are_accepted(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    for word in words:
        if word.startswith(FOLDERS):
            assert (ROOT / word).exists(), f"{page}: {word} does not exist"
    if words[:2] == ["python", "-m"]:
        module, arguments = words[2], words[3:]
        if module == "pytest":
            return  # whose arguments are not ours; the files exist
        module = "eqmambair.cli.zoo" if module == "eqmambair.zoo" else module
        assert module.startswith("eqmambair.cli."), f"{page}: no parser is known for {module}"
    else:
        place = next(i for i, word in enumerate(words) if word.startswith(FOLDERS))
        arguments = words[place + 1 :]
        found = re.search(r"from (eqmambair\.\S+) import cli", (ROOT / words[place]).read_text("utf-8"))
        if found is None:
            assert not arguments, f"{page}: no parser is known for {words[place]}"
            return
        module = found[1]
    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: object, **named: object) -> argparse.Namespace:
        real(self, *args, **named)
        raise _Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(_Accepted):
        importlib.import_module(module).main(arguments)


def test_pages_link_to_what_exists() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_command_has_a_page() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert not [
        script.name for script in sorted((ROOT / "scripts").iterdir()) if script.suffix in {".py", ".sh"} and script.name not in text
    ]
