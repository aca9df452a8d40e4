"""Which code runs the operators on a device: a library built ahead of time, one built now, or plain torch.

Environment: EQMAMBAIR_BACKEND=torch never loads a library; =cpu or =cuda makes it an error not to have that one. EQMAMBAIR_JIT=0 builds
nothing at run time. EQMAMBAIR_CACHE is where what is built at run time is kept (default: ~/.cache/eqmambair).
EQMAMBAIR_SIMD=avx512|avx2|baseline chooses among the CPU kernels. EQMAMBAIR_DEBUG=1 checks inputs where that is costly.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from eqmambair.ops import build

_DEVICES = ("cpu", "cuda")
_lock = threading.RLock()
_why_not: dict[str, str] = {}  # device -> why its library is not loaded, '' if it is


def backend(device: str | None = None) -> str:
    """The name of what runs on ``device`` (default: the GPU if there is one): 'cuda', 'cpu' (compiled kernels) or 'torch'."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device if load(device) else "torch"


def why_not_faster(device: str) -> str:
    """Why plain torch runs on ``device``; empty if compiled kernels do."""
    load(device)
    return _why_not.get(device, f"there are no kernels for {device}")


def debugging() -> bool:
    """Whether costly checks of the inputs were asked for."""
    return os.environ.get("EQMAMBAIR_DEBUG", "0") not in ("", "0")


def load(device: str) -> bool:
    """Whether compiled kernels for ``device`` are registered; the first call tries to find or to build them.

    Raises:
        RuntimeError: EQMAMBAIR_BACKEND asks for kernels that cannot be had, or for something unknown.
    """
    if device not in _DEVICES:
        return False
    if device not in _why_not:
        with _lock:
            if device not in _why_not:
                _why_not[device] = _load(device)
    return not _why_not[device]


# As torch.compiler.assume_constant_result sets it, which would import the compiler: without it no graph can be traced through `load`.
load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(device: str) -> str:
    wanted = os.environ.get("EQMAMBAIR_BACKEND", "")
    if wanted not in ("", "torch", *_DEVICES):
        raise RuntimeError(f"EQMAMBAIR_BACKEND={wanted}: must be torch, cpu or cuda")
    if wanted == "torch":
        return "EQMAMBAIR_BACKEND=torch"
    try:
        if device == "cuda" and not torch.cuda.is_available():
            raise build.BuildError("torch finds no CUDA device")
        torch.ops.load_library(str(_find(device)))
    except (build.BuildError, OSError) as error:
        log = getattr(error, "log", "")
        if wanted == device:
            raise RuntimeError(f"EQMAMBAIR_BACKEND={wanted}: {error}\n{log}") from error
        if device == "cpu" or torch.cuda.is_available():
            warnings.warn(
                f"the selective scan runs in plain torch on {device}, many times slower than compiled: {error}. "
                "`python -m eqmambair.env` tells more.",
                stacklevel=2,
            )
        return f"{error}\n{log}".strip()
    return ""


def _find(device: str) -> Path:
    name = build.library_name(device)
    ahead = Path(__file__).resolve().parent / name
    if ahead.is_file():
        return ahead
    if os.environ.get("EQMAMBAIR_JIT", "1") == "0":
        raise build.BuildError("nothing was built ahead of time for this torch, and EQMAMBAIR_JIT=0")
    folder = cache_folder()
    built, failed = folder / name, folder / f"{name}.failed"
    if built.is_file():
        return built
    folder.mkdir(parents=True, exist_ok=True)
    with _file_lock(folder / f"{name}.lock"):
        if built.is_file():
            return built
        compiler = str(build.compiler())
        if failed.is_file() and failed.read_text().splitlines()[:1] == [compiler]:
            _, why, *log = failed.read_text().splitlines()
            raise build.BuildError(f"{why} (delete {failed} to try again)", "\n".join(log))
        if build.compiler():
            print(f"eqmambair: compiling the selective scan for {device}, once; this takes about a minute ...", file=sys.stderr, flush=True)
        try:
            if device == "cpu":
                build.build_cpu(built)
            else:
                build.build_cuda(built, ["{}{}".format(*torch.cuda.get_device_capability())])
        except build.BuildError as error:
            if error.log:
                failed.write_text(f"{compiler}\n{error}\n{error.log}")
            raise
    return built


def cache_folder() -> Path:
    """Where libraries built at run time are kept."""
    chosen = os.environ.get("EQMAMBAIR_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqmambair"


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold a lock among processes; the system frees it when its holder dies."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
