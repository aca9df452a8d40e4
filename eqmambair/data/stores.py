"""Where image files lie: a folder or an LMDB. Both give the same bytes for the same key, so both train alike.

A key is the path below the root without its last extension, with ``/`` between folders; any UTF-8 text, dots included.
"""

import io
import os
import re
import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from eqmambair.data.io import list_images
from eqmambair.data.prepare import read_meta_info
from eqmambair.errors import UserError

_ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 lie on their side


_LMDB_META = struct.Struct("=16xI20xI92xQQ")  # of a meta page on 64-bit machines: magic, page size, last page, transaction
_LMDB_MAGIC = 0xBEEFC0DE


class ImageStore(ABC):
    """Image files by key."""

    root: Path

    @abstractmethod
    def keys(self) -> list[str]:
        """All keys, sorted."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of the file; ``UserError`` naming store and key where there are none."""

    @abstractmethod
    def describe(self, key: str) -> str:
        """What messages call the file."""

    @abstractmethod
    def __contains__(self, key: str) -> bool: ...


class FolderStore(ImageStore):
    """Image files in a folder and its sub-folders.

    Raises:
        UserError: the folder is missing, or two files have one key.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, Path] = {}
        for path in list_images(root, recursive=True):
            key = path.relative_to(root).with_suffix("").as_posix()
            if not _is_text(path.name):
                name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
                raise UserError(f"{root}: the name of {name} is not UTF-8; rename it")
            if key in self._paths:
                raise UserError(f"{root}: {path.name} and {self._paths[key].name} differ in their extension alone; keep one of them")
            self._paths[key] = path

    def keys(self) -> list[str]:
        return sorted(self._paths)

    def read(self, key: str) -> bytes:
        if key not in self._paths:
            raise UserError(f"{self.describe(key)}: no such image")
        try:
            return self._paths[key].read_bytes()
        except OSError as error:
            raise UserError(f"{self._paths[key]}: cannot be read ({error.strerror or error})") from None

    def describe(self, key: str) -> str:
        return str(self._paths.get(key, self.root / f"{key}.*"))

    def __contains__(self, key: str) -> bool:
        return key in self._paths


class LmdbStore(ImageStore):
    """Image files in an LMDB with basicsr's ``meta_info.txt`` beside it (lines ``name.ext (h,w,c) level``).

    One environment per process and folder, shared by all stores that use it, opened at the first read and never carried through a fork.

    Raises:
        UserError: the folder, its data or its list is missing.
    """

    _open: ClassVar[dict[str, Any]] = {}

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "data.mdb").is_file():
            raise UserError(f"{root}: is no LMDB (data.mdb is missing)" if root.is_dir() else f"{root}: no such folder")
        self._names: dict[str, str] = {name.rsplit(".", 1)[0]: name for name in read_meta_info(root / "meta_info.txt")}

    def keys(self) -> list[str]:
        return sorted(self._names)

    def read(self, key: str) -> bytes:
        import lmdb

        try:
            with self._environment().begin(write=False) as transaction:
                value = transaction.get(key.encode("utf-8"))
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be read as LMDB ({error})") from None
        if value is None:
            raise UserError(f"{self.root}: has no key {key!r}, though its list names it")
        return bytes(value)

    def describe(self, key: str) -> str:
        return f"{self.root}:{self._names.get(key, key)}"

    def __contains__(self, key: str) -> bool:
        return key in self._names

    @classmethod
    def close_all(cls) -> None:
        """Close what this process has open; the next read opens it again. LMDB must not be open when a process forks."""
        for environment in cls._open.values():
            environment.close()
        cls._open.clear()

    def _environment(self) -> Any:
        import lmdb

        mark = str(self.root.resolve())
        if mark not in self._open:
            _refuse_cut_off(self.root / "data.mdb")
            self._open[mark] = lmdb.open(str(self.root), readonly=True, lock=False, readahead=False, meminit=False, max_readers=1024)
        return self._open[mark]


def _refuse_cut_off(path: Path) -> None:
    """Raise ``UserError`` where an LMDB's file is shorter than it says: LMDB would read behind its end, and that kills the process."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 17)
    needed = 1
    if len(head) >= _LMDB_META.size:
        page = _LMDB_META.unpack_from(head)[1]
        metas = [_LMDB_META.unpack_from(head, at) for at in (0, page) if at + _LMDB_META.size <= len(head)]
        magic, _, last_page, _ = max(metas, key=lambda meta: meta[3])  # the newer of two
        if magic != _LMDB_MAGIC:
            raise UserError(f"{path}: is not an LMDB")
        needed = max(last_page + 1, 2) * page
    if size < max(needed, _LMDB_META.size):
        raise UserError(f"{path}: is cut off ({size} of {needed} bytes); make it again")


def header_size(store: ImageStore, key: str) -> tuple[int, int]:
    """Width and height that a file states, upright, without decoding it.

    Raises:
        UserError: the file cannot be read or states none.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(store.read(key))) as image:
            tags = Image.Exif()  # image.getexif() would decode a PNG
            tags.load(image.info.get("exif", b""))
            turned = tags.get(_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{store.describe(key)}: is not an image, or is damaged ({' '.join(str(error).split())[:100]})") from None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LmdbStore.close_all)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_store(root: str | Path, what: str, kind: str | None = None, scale: int = 1) -> ImageStore:
    """The store at ``root``: an LMDB where the folder's name ends with .lmdb or ``kind`` says so, else a folder.

    Args:
        root: an absolute path.
        what: the option that named it, for messages.
        kind: ``disk``, ``lmdb`` or None (by the name).
        scale: for the message alone.

    Raises:
        UserError: it is missing or empty; the message names the command that makes data sets.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such folder ({what}); make it with: {how_to_make(root, scale)}")
    store: ImageStore = LmdbStore(root) if kind == "lmdb" or (kind is None and root.suffix == ".lmdb") else FolderStore(root)
    if not store.keys():
        raise UserError(f"{root}: holds no images ({what})")
    return store


def how_to_make(root: Path, scale: int = 1) -> str:
    """The command of scripts/prepare_datasets.py that makes a folder of this name in the layout of datasets/README.md."""
    script = "python scripts/prepare_datasets.py"
    below = root.parent
    size = re.fullmatch(r"X(\d+)(_sub)?", root.name)
    if size and size[2]:
        scale = int(size[1])
        return f"{script} subimages --input {below / f'X{scale}'} --output {root} --size {480 // scale} --step {240 // scale}"
    if size:
        return f"{script} lr --hr {below.parent / 'HR'} --scales {size[1]}"
    if root.name.endswith("_sub"):
        return f"{script} subimages --input {root.with_name(root.name[:-4])} --output {root} --size 480 --step 240 --multiple {scale}"
    if root.suffix == ".lmdb":
        return f"{script} lmdb --input {root.with_suffix('')} --output {root}"
    return f"{script} list (tells where to get it)"
