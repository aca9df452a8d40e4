"""Every command that the pages and option files print is one that the toolbox takes, and names files that exist."""

import argparse
import importlib
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *(ROOT / name / "README.md" for name in ("benchmarks", "datasets")), *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
START = re.compile(r"(?:\$ |# |    )?(?:[A-Z_]+=\S+ )*((?:python|torchrun|bash) .*)")
WITHIN = re.compile(r"`((?:python|torchrun|bash) [^`\s]+ [^`\n]+)`")
FOLDERS = ("options/", "scripts/", "basicsr/", "tests/", "docs/")


class _Accepted(Exception):
    """The arguments of a command were parsed."""


def _commands() -> Iterator[tuple[str, str]]:
    """Page and command; what a page puts into brackets may be left out, and is taken as given."""
    for page in PAGES:
        text = page.read_text("utf-8")
        prose = FENCED.sub("", text)
        indented = [line for line in prose.splitlines() if line.startswith("    ")]
        for line in [line for block in FENCED.findall(text) for line in block.splitlines()] + indented:
            if found := START.match(line):
                yield page.name, re.sub(r"[][]", "", found[1])
        yield from ((page.name, command) for command in WITHIN.findall(prose))
    for file in sorted((ROOT / "options").rglob("*.yml")):
        head = [line for line in file.read_text("utf-8").splitlines() if line.startswith("# ")]
        yield from ((file.name, line[start:]) for line in head if (start := max(line.find("python basicsr"), line.find("torchrun"))) > 0)


COMMANDS = list(dict.fromkeys(_commands()))


def _parser_of(script: Path) -> Callable[[list[str]], object] | None:
    """The function that takes a script's arguments; None for a script without any."""
    text = script.read_text("utf-8")
    launched = re.search(r"from (eqmambair\.\S+) import cli", text)
    if launched:
        main: Callable[[list[str]], object] = importlib.import_module(launched[1]).main
        return main
    return runpy.run_path(str(script))["main"] if "ArgumentParser" in text else None


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command[:90]}" for page, command in COMMANDS])
def test_commands_of_the_pages_are_accepted(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    for word in words:
        if word.startswith(FOLDERS) and "FILE" not in word:
            assert (ROOT / word).exists(), f"{page}: {word} does not exist"
    if words[:2] == ["python", "-m"]:
        module, arguments = words[2], words[3:]
        if module == "pytest":
            return  # whose arguments are not ours; the files exist
        place = ROOT / module.replace(".", "/")
        script = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    else:
        first = next(i for i, word in enumerate(words) if word.startswith(FOLDERS))
        script, arguments = ROOT / words[first], words[first + 1 :]
    main = _parser_of(script)
    if main is None:
        assert not arguments, f"{page}: {script.name} takes no arguments"
        return
    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: object, **named: object) -> argparse.Namespace:
        real(self, *args, **named)
        raise _Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(_Accepted):
        main(arguments)


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
