"""The look at every sample before training starts, so that a bad file is known at once and not in the night.

A data set that can be checked has ``inspect(index, level)``, which raises ``UserError``; others are taken as they are.
"""

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eqmambair.errors import UserError

_log = logging.getLogger("eqmambair")
_SHOWN = 10
_MOST_BAD = 0.5  # share of bad files above which skipping is refused


def check_dataset(dataset: Any, level: str, on_bad_file: str, name: str) -> list[int]:
    """Indices of the sound samples.

    Args:
        level: full (decode), header (as far as the data set knows), lazy (partners only).
        on_bad_file: error, or skip and count.
        name: what messages call the data set.

    Raises:
        UserError: there are bad files and they are not to be skipped, or most files are bad; names them.
    """
    count = len(dataset)
    if count == 0:
        raise UserError(f"{name}: holds no samples")
    unpaired = dataset.unpaired() if hasattr(dataset, "unpaired") else []
    if unpaired:
        _log.warning("%s: %d files belong to no truth and are not used: %s", name, len(unpaired), _listed(unpaired))
    if not hasattr(dataset, "inspect"):
        return list(range(count))

    def problem(index: int) -> str | None:
        try:
            dataset.inspect(index, level)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        found = list(pool.map(problem, range(count)))
    bad = [message for message in found if message is not None]
    if bad and on_bad_file == "error":
        raise UserError(f"{name}: {len(bad)} of {count} samples cannot be used (on_bad_file: skip would leave them out): {_listed(bad)}")
    if len(bad) > _MOST_BAD * count:
        raise UserError(f"{name}: {len(bad)} of {count} samples cannot be used, too many to skip: {_listed(bad)}")
    for message in bad:
        _log.warning("left out: %s", message)
    if bad:
        _log.warning("%s: %d of %d samples left out", name, len(bad), count)
    return [index for index, message in enumerate(found) if message is None]


def _listed(messages: Iterable[str]) -> str:
    messages = list(messages)
    more = f"; and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more
