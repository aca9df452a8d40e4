"""Every set of weights that the toolbox knows, read from weights.yml."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from eqmambair.archs import nearest
from eqmambair.errors import UserError

TABLE = Path(__file__).with_name("weights.yml")


class Entry(BaseModel):
    """One set of weights.

    Attributes:
        name: what ``--model`` takes; also the stem of its file.
        arch: class of the network.
        task: what it is for.
        scale: output pixels per input pixel and side; None where only the file tells, or the task has none.
        option_file: of this project, relative to its root: the network and how it is trained; None where there is none.
        training_data: None where unknown.
        scores: metric -> value, as text.
        scores_are: who measured them: the authors (published), or this project with these very weights (measured).
        licence: None where the toolbox does not know it: ask at the source.
        source: the publication.
        urls: addresses of the file, best first; the first is also where a person goes. Empty for bundled weights.
        sha256: None where none is published.
        bundled: whether the file comes with the package.
        part: prefix and arch of the keys that the toolbox reads, where those are not all.
        note: what else one should know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    arch: str
    task: str
    scale: int | None = None
    option_file: str | None = None
    training_data: str | None = None
    scores: dict[str, str | float] = {}
    scores_are: Literal["published", "measured"]
    licence: str | None = None
    source: str
    urls: tuple[str, ...] = ()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    bundled: bool = False
    part: tuple[str, str] | None = None
    note: str | None = None

    @property
    def file(self) -> str:
        """Name of the file, among the bundled weights or in the cache."""
        safe = self.bundled or any(url.endswith(".safetensors") for url in self.urls)
        return f"{self.name}.safetensors" if safe else f"{self.name}.pth"


@cache
def entries() -> dict[str, Entry]:
    """The table, by name, in the order of the file."""
    found: dict[str, Entry] = {}
    for family in yaml.safe_load(TABLE.read_text(encoding="utf-8")):
        shared = {key: value for key, value in family.items() if key != "weights"}
        for row in family["weights"]:
            entry = Entry(**{**shared, **row})
            if entry.name in found:
                raise ValueError(f"{TABLE.name}: {entry.name} stands there twice")
            found[entry.name] = entry
    return found


def find_entry(name: str) -> Entry:
    """The row of this name.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    if name not in entries():
        raise UserError(f"no weights are called {name!r}{nearest(name, entries())}; `python -m eqmambair.zoo list` names them all")
    return entries()[name]
