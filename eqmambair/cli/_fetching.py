"""Weights by name on the command line: what is fetched is shown while it comes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from eqmambair.zoo import find_model, locate
from eqmambair.zoo.download import Progress


def model_file(name: str) -> Path:
    """The file of weights of the zoo, fetched if need be.

    Raises:
        UserError: no weights have this name, or they are not here and cannot be fetched.
    """
    found = locate(name)
    if found is not None:
        return found
    with bar(name) as progress:
        return find_model(name, progress)


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    """A bar on standard error, drawn once bytes come."""
    with tqdm(desc=name, unit="B", unit_scale=True, unit_divisor=1024, leave=False, file=sys.stderr, delay=0.5) as shown:

        def progress(have: int, length: int | None) -> None:
            shown.total = length
            shown.update(have - shown.n)

        yield progress
