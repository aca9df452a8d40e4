"""Files that appear whole or not at all: whatever the package writes in place of an older file goes through `replace_file`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from eqmambair.errors import UserError

Content: TypeAlias = bytes | str | Callable[[BinaryIO], Any]  # text is written as UTF-8; a function is handed the open file


def replace_file(path: str | os.PathLike[str], content: Content) -> None:
    """Write a file whole or not at all, in place of an older one, so that it survives a loss of power once this returns.

    It is written under a hidden name in the same folder (made if missing), flushed to the disk, and renamed.

    Raises:
        UserError: it cannot be written; the older file, if any, is there as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_file(temporary, content)
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch.save turns some of the first into the second
        raise UserError(f"{path}: cannot be written ({reason(error)})") from error


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a whole, flushed file its name, in place of an older one, and make that last; both are on one disk."""
    os.replace(temporary, path)
    flush_folder(path.parent)


def write_file(path: Path, content: Content) -> None:
    """Write a file under its own name and flush it to the disk; it can be found half written."""
    with path.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reason(error: BaseException) -> str:
    """What the operating system said, even where another library said something else after it; one line."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    return " ".join(str(error).split())[:200]
