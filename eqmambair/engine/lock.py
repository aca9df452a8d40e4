"""A run's folder belongs to one start at a time: two of the same name would mix their files."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eqmambair.engine.distributed import Ranks
from eqmambair.engine.schema import Options
from eqmambair.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks; there nobody looks
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("eqmambair")


@contextmanager
def held(options: Options, ranks: Ranks) -> Iterator[None]:
    """Hold the run's name until the end, for all ranks.

    The lock is on a file beside the folder, which itself may be renamed. It is one of POSIX's, which a process loses with its death and
    does not hand to its children, so loader processes that outlive a killed run do not keep its next start out.

    Raises:
        UserError: a run of this name is in progress.
    """
    descriptor = ranks.on_main(lambda: _lock(options.experiment_folder))
    try:
        yield
    finally:
        if ranks.is_main and descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    if fcntl is None:
        return None
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise UserError(f"the run {folder.name} is in progress ({path} is locked by its process)") from None
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s: cannot be locked (%s), so nothing keeps a second start of this run out", path, error.strerror)
    return descriptor
