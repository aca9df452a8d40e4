"""Where weights lie: with the package, in the local cache, or still with those who published them."""

import hashlib
import logging
import os
import zipfile
from pathlib import Path

from filelock import FileLock, Timeout

from eqmambair.checkpoints import infer_network, read_state
from eqmambair.errors import UserError
from eqmambair.files import move_into_place, reason, replace_file
from eqmambair.zoo.download import DownloadError, Patience, Progress, download, forget
from eqmambair.zoo.table import Entry, find_entry

WEIGHTS_FOLDER = Path(__file__).resolve().parents[1] / "weights"

_log = logging.getLogger("eqmambair")


def bundled_models() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))}


def cache_folder() -> Path:
    """Where fetched weights lie: EQMAMBAIR_CACHE, else ``~/.cache/eqmambair/weights``. It may not exist yet."""
    chosen = os.environ.get("EQMAMBAIR_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "eqmambair" / "weights"


def locate(name: str) -> Path | None:
    """The file of these weights if it is on this machine, else None.

    Raises:
        UserError: no weights have this name.
    """
    if name in (bundled := bundled_models()):
        return bundled[name]
    path = cache_folder() / find_entry(name).file
    return path if path.is_file() else None


def find_model(name: str, progress: Progress | None = None) -> Path:
    """The file of these weights: a bundled one, else from the cache, else fetched into it.

    Args:
        name: of the table; any file among the bundled weights is found by its stem.
        progress: told of the bytes that come.

    Raises:
        UserError: no weights have this name, or they are not here and cannot be fetched.
    """
    found = locate(name)
    return found if found is not None else fetch(find_entry(name), progress)


def fetch(entry: Entry, progress: Progress | None = None, patience: Patience | None = None) -> Path:
    """Download weights into the cache, unless they are there.

    The file has its name only once it came whole and was checked (`check`); before, it is ``.<name>.part.pth``, which a later call
    continues. Whoever wants the same file meanwhile waits.

    Args:
        entry: what to fetch.
        progress: told of the bytes that come.
        patience: how long it is tried.

    Raises:
        UserError: it cannot be fetched, and where to put it by hand; or what came is something else.
    """
    path = cache_folder() / entry.file
    partial = path.with_name(f".{path.stem}.part{path.suffix}")  # a file that `check` reads as what it is
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("%s: another process fetches it; waiting", path)
            lock.acquire()
        try:
            if not path.is_file():
                _fetch(entry, path, partial, progress, patience)
        finally:
            lock.release()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)}); EQMAMBAIR_CACHE names another folder") from error
    return path


def _fetch(entry: Entry, path: Path, partial: Path, progress: Progress | None, patience: Patience | None) -> None:
    problems = []
    for url in entry.urls:
        for _ in range(2):  # a continued file may have a wrong beginning
            continued = partial.is_file()
            try:
                download(url, partial, patience, progress)
                check(entry, partial)
            except DownloadError as error:
                problems.append(f"{url}: {error}")
                break
            except UserError as error:
                forget(partial)
                if not continued:
                    problems.append(f"{url}: {str(error).removeprefix(f'{partial}: ')}")
                    break
            else:
                replace_file(_recorded(path), f"{sha256(partial)}  {path.name}\n")
                move_into_place(partial, path)
                forget(partial)
                return
    by_hand = f"download it by hand from {entry.urls[0]} and put it at {path}" if entry.urls else "no address is known"
    raise UserError(f"{entry.name} could not be fetched ({'; '.join(problems)}); {by_hand}")


def check(entry: Entry, path: Path) -> str:
    """Check a file of weights: by its published hash if there is one, by the hash noted when it was fetched, and by what is in it.

    It must load as tensors alone and belong to the network and the scale that the table names.

    Args:
        entry: what it should be.
        path: the file.

    Returns:
        What its bytes were checked by, as words.

    Raises:
        UserError: it is damaged or something else.
    """
    expected, whose = entry.sha256, "the published SHA-256"
    if expected is None and _recorded(path).is_file():
        expected, whose = _recorded(path).read_text(encoding="utf-8").split()[0], "its SHA-256 when it was fetched"
    if expected is not None and (found := sha256(path)) != expected:
        raise UserError(f"{path}: is not what it should be: {whose} is {expected[:16]}..., this file's {found[:16]}...")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise UserError(f"{path}: is damaged ({error})") from error
        if damaged is not None:
            raise UserError(f"{path}: is damaged ({damaged})")
    _check_content(entry, path)
    return whose if expected is not None else "its content alone"


def _check_content(entry: Entry, path: Path) -> None:
    state, network = read_state(path)
    arch = entry.arch
    if entry.part is not None:
        prefix, arch = entry.part
        state, network = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, None
    try:
        found = network or infer_network(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if found.get("type") != arch:
        raise UserError(f"{path}: holds weights of {found.get('type')}, not of {arch}")
    if entry.scale is not None and found.get("upscale", 1) != entry.scale:
        raise UserError(f"{path}: enlarges by {found.get('upscale', 1)}, not by {entry.scale}")


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _recorded(path: Path) -> Path:
    """Where the hash of a fetched file is noted, as sha256sum writes it."""
    return path.with_name(f"{path.name}.sha256")
