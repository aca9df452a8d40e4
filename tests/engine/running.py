"""Runs of the tiny network in this process or in others, and what compares them."""

import json
import multiprocessing
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from eqmambair.cli._run import run
from eqmambair.engine.commands import train
from eqmambair.engine.loop import RunMode
from eqmambair.engine.options import load_options
from tests.conftest import ROOT
from tests.engine import tiny

TIMES = ("images_per_second",)


def run_here(file: Path, **mode: bool) -> int:
    """Train in this process."""
    options, warnings = load_options(file, "train")
    return train(options, RunMode(**mode), "none", warnings)


def run_ranks(file: Path, count: int = 2, **mode: bool) -> list[int]:
    """Train in forked processes that find each other as torchrun's would; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, count, port, file, mode)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert all(process.exitcode is not None for process in processes), "a rank hangs"
    return [int(process.exitcode or 0) for process in processes]


def start(file: Path, limit: int | None = None, **mode: bool) -> "multiprocessing.process.BaseProcess":
    """Begin to train in a forked process, which may write files of at most ``limit`` bytes."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(file, limit, mode))
    process.start()
    return process


def _alone(file: Path, limit: int | None, mode: dict[str, bool]) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run(lambda _: run_here(file, **mode))


def _rank(rank: int, count: int, port: int, file: Path, mode: dict[str, bool]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    run(lambda _: run_here(file, **mode))


def command(*arguments: str | Path, launcher: tuple[str, ...] = ("-m",)) -> list[str]:
    """The command line that trains or tests tiny networks."""
    return [sys.executable, *launcher, *(("tests.engine.tiny",) if launcher == ("-m",) else (str(tiny.__file__),)), *map(str, arguments)]


def environment() -> dict[str, str]:
    """For other processes: finds the checkout, one thread each."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def state(folder: Path, step: int) -> dict[str, Any]:
    """All that the checkpoint of a step holds."""
    place = folder / "training_states" / f"step_{step:08d}"
    return {name: torch.load(place / name, weights_only=True) for name in ("net_g.pth", "state.pt")}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and values differ by a bit or more."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return [f"{path}: keys"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{path}: length"]
        return [found for index, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{path}[{index}]")]
    return [] if one == other else [f"{path}: {one} {other}"]


def figures(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl without those figures that tell the time."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
