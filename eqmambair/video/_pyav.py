"""PyAV, which only video needs, and its errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eqmambair.errors import UserError
from eqmambair.files import reason


def pyav() -> Any:
    """The module ``av``, silent: what FFmpeg would print is raised or does not matter.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise UserError(f"video needs PyAV ({error}); install it: pip install 'eqmambair[video]'") from error
    av.logging.set_level(None)
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints by itself; errors only
    return av


@contextmanager
def one_line(what: str, *others: type[Exception]) -> Iterator[None]:
    """Turn the errors of PyAV and of the system, and ``others``, into a `UserError` that begins with ``what``."""
    try:
        yield
    except UserError:
        raise
    except (OSError, pyav().FFmpegError, *others) as error:
        raise UserError(f"{what} ({reason(error)})") from error
