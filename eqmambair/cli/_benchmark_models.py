"""Whole networks side by side: time, memory and page faults of inference and of a training step.

Every network lives in a process of its own, and the processes take turns, so that what else the machine does hits all of them alike.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqmambair.analysis.complexity import complexity
from eqmambair.archs import build_network
from eqmambair.cli._scans import Arguments, token_loop
from eqmambair.cli._sizes import at_least
from eqmambair.errors import UserError
from eqmambair.layers import scan2d
from eqmambair.layers.fold import fold
from eqmambair.layers.linear import GroupLinear
from eqmambair.memory import keep_freed_memory
from eqmambair.ops import backend

_LIGHT = {"upscale": 2, "embed_dim": 60, "depths": [6] * 4, "d_state": 10, "mlp_ratio": 1.2, "upsampler": "pixelshuffledirect"}
_SMALL = {"upscale": 2, "embed_dim": 32, "depths": [2, 2], "d_state": 8, "mlp_ratio": 1.25, "upsampler": "pixelshuffledirect"}
_LOOP = "_loop"
NETWORKS: dict[str, dict[str, Any]] = {
    "eq_mambair_light": {"type": "EQMambaIR", **_LIGHT},
    "mambair_light": {"type": "MambaIR", **_LIGHT},
    "swinir_light": {"type": "SwinIR"},
    "eq_mambair_small": {"type": "EQMambaIR", **_SMALL},
    "mambair_small": {"type": "MambaIR", **_SMALL},
    # The same with a Python step for each token: see `_loop_over_tokens`. Group filters are made anew at each call.
    "eq_mambair_light_loop": {"type": "EQMambaIR", **_LIGHT},
    "eq_mambair_small_loop": {"type": "EQMambaIR", **_SMALL},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``benchmark.py models`` takes."""
    default = ["eq_mambair_light", "mambair_light", *(["swinir_light"] if _has_spandrel() else [])]
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=default, help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", type=at_least(1), default=[64, 128, 256], help="sides of the input (default: 64 128 256)")
    parser.add_argument("--train", action="store_true", help="measure training steps (4 patches) instead of inference")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=at_least(1), help="of the CPU; default: torch's")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="turns of each network at each size (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw time per pixel against size (.png, .pdf, .svg)")


def _has_spandrel() -> bool:
    return importlib.util.find_spec("spandrel") is not None


def _loop_over_tokens() -> None:
    """From here on this process scans with a Python step for each token, and computes everything else in plain torch."""
    os.environ["EQMAMBAIR_BACKEND"] = "torch"
    scan2d.selective_scan = lambda *arguments: token_loop(Arguments(*arguments))  # type: ignore[assignment]


def _build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = NETWORKS[name]
    if options["type"] != "SwinIR":
        return build_network(options)
    if not _has_spandrel():
        raise UserError("swinir_light: is measured in the package spandrel, which is not installed; pip install spandrel")
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        upscale=2, img_size=64, window_size=8, img_range=1.0, depths=[6] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip


def _folded(network: nn.Module, device: str) -> nn.Module:
    by_kernels = device == "cpu" and backend("cpu") == "cpu"
    return fold(network, keep=(GroupLinear,) if by_kernels else ())


def _inference(network: nn.Module, x: Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> Tensor:
        return network(x)

    return run


def _training_step(network: nn.Module, x: Tensor) -> Callable[[], object]:
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    target = torch.rand(x.shape[0], 3, 2 * x.shape[2], 2 * x.shape[3], device=x.device)

    def run() -> None:
        optimizer.zero_grad()
        (network(x) - target).abs().mean().backward()
        optimizer.step()

    return run


def _serve(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Live in a process: for every size received, send the figures of one call, until None comes."""
    try:
        keep_freed_memory()
        if options.threads:
            torch.set_num_threads(options.threads)
        loops = name.endswith(_LOOP)
        if loops:
            _loop_over_tokens()
        network = _build(name).to(options.device).eval()
        if not (loops or options.train):
            network = _folded(network, options.device)
        idle = _memory(options.device)
        calls: dict[int, Callable[[], object]] = {}
        while (size := pipe.recv()) is not None:
            if size not in calls:
                calls.clear()  # the memory of one size at a time
                x = torch.rand(4 if options.train else 1, 3, size, size, device=options.device)
                calls[size] = (_training_step if options.train else _inference)(network, x.to(memory_format=torch.channels_last))
                calls[size]()
            pipe.send(_measured(calls[size], options.device) | {"peak_mib": _memory(options.device) - idle})
    except UserError as error:
        pipe.send(error)


def _measured(call: Callable[[], object], device: str) -> dict[str, float]:
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    call()
    synchronise()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "faults": after.ru_minflt - before.ru_minflt, "system": after.ru_stime - before.ru_stime}


def _memory(device: str) -> float:
    """The most that the process has had, MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def bench_models(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every network at every size in turns, and print a table.

    Returns:
        The figures, for JSON.

    Raises:
        UserError: a network cannot be built here.
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name in options.networks:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(name, options, there), daemon=True)
        process.start()
        there.close()
        workers[name] = (process, here)
    what = "training step, 4 patches" if options.train else "inference"
    print(f"{what} on {options.device}, float32, x2; the fastest of {options.rounds}; memory above that of the idle process")
    print(f"{'network':<28}{'input':>10}{'seconds':>10}{'median':>10}{'us/pixel':>10}{'peak MiB':>10}{'faults':>10}{'GMACs':>10}")
    rows = []
    try:
        for size in sorted(options.sizes):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
            for _ in range(options.rounds):
                for name, (_, pipe) in workers.items():
                    rounds[name].append(_ask(pipe, name, size))
            for name, figures in rounds.items():
                rows.append(_row(name, size, figures, options.train))
    finally:
        for process, pipe in workers.values():
            if process.is_alive():
                pipe.send(None)
            process.join(5)
    return {
        "what": what,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads or torch.get_num_threads(),
        "simd": torch.ops.eqmambair.simd_level() if backend("cpu") == "cpu" else None,
        "torch": torch.__version__,
        "results": rows,
    }


def _ask(pipe: Connection, name: str, size: int) -> dict[str, float]:
    try:
        pipe.send(size)
        answer = pipe.recv()
    except (EOFError, OSError):
        raise UserError(f"{name} at {size}x{size}: its process died, probably for want of memory") from None
    if isinstance(answer, UserError):
        raise answer
    return answer


def _row(name: str, size: int, figures: Sequence[dict[str, float]], train: bool) -> dict[str, Any]:
    fastest, last = min(each["seconds"] for each in figures), figures[-1]
    pixels = size * size * (4 if train else 1)
    macs = None
    if size <= 64:
        counted = complexity(_build(name), torch.rand(1, 3, size, size))
        macs = counted.dense_macs if name.endswith(_LOOP) else counted.fourier_macs
    row = {
        "network": name,
        "size": size,
        "min_seconds": fastest,
        "median_seconds": statistics.median(each["seconds"] for each in figures),
        "microseconds_per_pixel": 1e6 * fastest / pixels,
        "peak_mib": last["peak_mib"],
        "page_faults": last["faults"],
        "system_seconds": last["system"],
        "runs": len(figures),
        "macs": macs,
    }
    cells = [f"{fastest:>10.3f}{row['median_seconds']:>10.3f}{row['microseconds_per_pixel']:>10.2f}{last['peak_mib']:>10.0f}"]
    cells.append(f"{last['faults']:>10.0f}" + (f"{macs / 1e9:>10.2f}" if macs else f"{'':>10}"))
    print(f"{name:<28}{f'{size}x{size}':>10}{''.join(cells)}", flush=True)
    return row


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time per pixel against the side of the input, one line a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="side of the input, pixels", ylabel="microseconds per input pixel", xscale="log", yscale="log")
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        axes.plot([row["size"] for row in mine], [row["microseconds_per_pixel"] for row in mine], marker="o", label=name)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
