"""Checkpoints on disk that a kill at any byte leaves usable.

``training_states/step_00001000/`` holds one complete state: its files and ``manifest.json`` with their sizes and SHA-256. It is written
under another name, each file is flushed to the disk, and the folder is renamed last; so a folder of that name is complete, or was damaged
later, which the manifest shows. ``models/net_g_latest.pth`` is a copy of the newest complete weights.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from eqmambair.errors import UserError
from eqmambair.files import Content, flush_folder, reason, replace_file, write_file

_log = logging.getLogger("eqmambair")
_STEP = re.compile(r"^step_(\d{8,})$")
_MARGIN = 1.05


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def tensor_writer(content: Any) -> Callable[[BinaryIO], None]:
    """Writes with ``torch.save``."""
    return lambda file: torch.save(content, file)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns some of the first into the second
        raise UserError(f"{path}: cannot be saved: {reason(error)}; the last complete checkpoint is kept") from error


class StateStore:
    """The states of one run.

    Args:
        folder: ``training_states`` of the run.
        keep_last: how many states stay.
        keep_every: states at multiples of it stay too.
    """

    def __init__(self, folder: Path, keep_last: int = 3, keep_every: int | None = None) -> None:
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every

    def steps(self) -> list[int]:
        """Steps of which there is a state, whole or damaged, in order; other files are not looked at."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for each in self.folder.iterdir() if (match := _STEP.match(each.name)) and each.is_dir())

    def place(self, step: int) -> Path:
        """Folder of the state of a step."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, files: dict[str, Content], needed: int = 0) -> Path:
        """Write the state of a step.

        Args:
            files: name -> what is in it, or what writes it.
            needed: bytes that must be free.

        Raises:
            UserError: there is no room, or a file cannot be written; nothing of the state stays, the others do.
        """
        place = self.place(step)
        temporary = self.folder / f".tmp-{os.getpid()}-{place.name}"
        with _said(place):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            free = shutil.disk_usage(self.folder).free
            if free < needed * _MARGIN:
                raise OSError(f"{needed * _MARGIN / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free")
            try:
                temporary.mkdir()
                listed = {}
                for name, content in files.items():
                    write_file(temporary / name, content)
                    listed[name] = {"bytes": (temporary / name).stat().st_size, "sha256": digest(temporary / name)}
                write_file(temporary / "manifest.json", json.dumps({"step": step, "files": listed}, indent=1))
                flush_folder(temporary)
                if place.exists():
                    self._discard(place)
                os.rename(temporary, place)
                flush_folder(self.folder)
            finally:
                if temporary.exists():
                    shutil.rmtree(temporary, ignore_errors=True)
        self._prune()
        return place

    def damage(self, place: Path) -> str | None:
        """What is wrong with a state, or None."""
        try:
            manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
            for name, facts in manifest["files"].items():
                path = place / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != facts["bytes"]:
                    return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
                if digest(path) != facts["sha256"]:
                    return f"{name} is not what was saved"
        except FileNotFoundError:
            return "manifest.json is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"manifest.json cannot be read ({type(error).__name__})"
        return None

    def newest(self) -> Path | None:
        """The newest state that is whole; a warning for each newer one that is not."""
        for step in reversed(self.steps()):
            problem = self.damage(self.place(step))
            if problem is None:
                return self.place(step)
            _log.warning("%s is damaged (%s): going back to the state before it", self.place(step), problem)
        return None

    def set_aside_after(self, step: int) -> None:
        """Move states of later steps out of the way: the run goes on from an earlier one, and makes them anew."""
        for later in [each for each in self.steps() if each > step]:
            place = self.place(later)
            number = 1 + sum(1 for _ in self.folder.glob(f"left_{place.name}_*"))
            place.rename(self.folder / f"left_{place.name}_{number}")

    def _prune(self) -> None:
        steps = self.steps()
        for step in steps[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                self._discard(self.place(step))

    def _discard(self, place: Path) -> None:
        trash = self.folder / f".old-{os.getpid()}-{place.name}"
        os.rename(place, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a killed run has left half written or half removed."""
        for each in [*self.folder.glob(".tmp-*"), *self.folder.glob(".old-*")]:
            shutil.rmtree(each, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in place of an older one, never half. (A link would let whoever overwrites the copy spoil the state.)

    Raises:
        UserError: it cannot be read or written.
    """
    with _said(target), source.open("rb") as original:
        replace_file(target, lambda file: shutil.copyfileobj(original, file))


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors and plain values only.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen types
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
