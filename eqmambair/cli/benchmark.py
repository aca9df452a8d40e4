"""Measures how fast things run here, side by side in one run: ``scan`` beside other ways to compute it, ``models`` beside one another."""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from eqmambair.cli import _benchmark_models
from eqmambair.cli._run import run
from eqmambair.cli._scans import Arguments, contenders
from eqmambair.cli._sizes import at_least
from eqmambair.files import replace_file
from eqmambair.ops import backends

# (batch, tokens, groups, channels, states): the published light networks, the shape of the goals in benchmarks/README.md, one state.
SHAPES = [(1, 4096, 4, 80, 16), (1, 4096, 4, 72, 10), (1, 65536, 4, 72, 10), (8, 4096, 4, 72, 10), (1, 4096, 4, 96, 1)]
QUICK_SHAPES = [(1, 1024, 4, 80, 16)]


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Arguments:
    """Arguments as in a network at its start: steps of 0.001 to 0.1, A = -1..-n, and the four cross-scan orders (by turns)."""
    batch, tokens, groups, channels, states = shape
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    u, delta, B, C = (normal(batch, tokens, groups, n) for n in (channels, channels, states, states))
    A = -torch.arange(1.0, states + 1).expand(groups, channels, states).contiguous()
    step = torch.exp(torch.empty(groups, channels).uniform_(-6.9, -2.3, generator=g))
    height = next(h for h in range(int(tokens**0.5), 0, -1) if tokens % h == 0)
    rows = torch.arange(tokens).view(height, -1)
    paths = [rows.flatten(), rows.t().flatten(), rows.flatten().flip(0), rows.t().flatten().flip(0)]
    order = torch.stack([paths[i % 4] for i in range(groups)])
    halves = [x.to(dtype) for x in (u, 0.1 * delta, B, C)]
    arguments = [halves[0], halves[1], A, halves[2], halves[3], torch.ones(groups, channels), step + torch.log(-torch.expm1(-step)), order]
    return Arguments(*(x.to(device) for x in arguments))


def measure(call: Callable[[], object], device: str, seconds: float, most: int) -> list[float]:
    """Seconds of each of several calls, after one that is not counted; as many as fit into ``seconds``, three to ``most``."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: list[float] = []
    for _ in range(most + 1):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - start)
        if len(times) > 3 and sum(times) > seconds:
            break
    return times[1:]


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench_scan(options: argparse.Namespace) -> dict:
    """Measure every contender at every shape and print a table as it goes."""
    device, dtype = options.device, getattr(torch, options.dtype)
    shapes = [tuple(map(int, text.split(","))) for text in options.shape] or (QUICK_SHAPES if options.quick else SHAPES)
    print(f"scan on {device}: operator runs as '{backends.backend(device)}', {options.dtype}, {torch.get_num_threads()} threads")
    print(f"{'b, l, g, d, n':<24}{'':<18}{'forward':>22}{'forward + backward':>26}")
    print(f"{'':<24}{'':<18}{'ms':>12}{'Gupd/s':>10}{'ms':>16}{'Gupd/s':>10}")
    results = []
    for shape in shapes:
        arguments = draw(shape, dtype, device)
        leaves = Arguments(*(x.clone().requires_grad_() if x.is_floating_point() else x for x in arguments))
        weights = torch.ones(shape[:4], dtype=dtype, device=device)
        updates = shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
        for name, call in contenders(device).items():
            # The others form (tokens, channels, states) tensors: what would take more than this is left out, and says so.
            if name not in ("operator", "plain backend") and updates * 4 > options.limit_gib * 2**30 / 16:
                print(f"{shape!s:<24}{name:<18}{'needs more than --limit_gib':>22}")
                continue

            def forward(call=call, arguments=arguments):
                with torch.no_grad():
                    call(arguments)

            def both(call=call, leaves=leaves, weights=weights):
                torch.autograd.grad(call(leaves), leaves[:7], weights)

            row: dict = {"shape": shape, "name": name}
            for key, timed in (("forward", forward), ("forward_backward", both)):
                times = measure(timed, device, options.seconds, 5 if options.quick else 50)
                row[key] = {
                    "median_ms": 1e3 * statistics.median(times),
                    "min_ms": 1e3 * min(times),
                    "runs": len(times),
                    "updates_per_second": updates / statistics.median(times),
                }
            results.append(row)
            cells = [(row[key]["median_ms"], row[key]["updates_per_second"] / 1e9) for key in ("forward", "forward_backward")]
            print(f"{shape!s:<24}{name:<18}{cells[0][0]:>12.2f}{cells[0][1]:>10.3f}{cells[1][0]:>16.2f}{cells[1][1]:>10.3f}", flush=True)
    return {
        "what": "scan",
        "backend": backends.backend(device),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "simd": torch.ops.eqmambair.simd_level() if backends.load("cpu") else None,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "results": results,
    }


def main(argv: list[str]) -> int | None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("scan", help="the selective scan beside a token loop and an associative scan in plain torch")
    one.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    one.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    one.add_argument("--threads", type=at_least(1), help="of the CPU; default: torch's")
    one.add_argument("--shape", action="append", default=[], metavar="B,L,G,D,N", help="instead of the built-in shapes; may be repeated")
    one.add_argument("--seconds", type=float, default=2.0, help="time for each number (default: 2)")
    one.add_argument("--limit_gib", type=float, default=8.0, help="leave out what needs more memory than this (default: 8)")
    one.add_argument("--quick", action="store_true", help="one small shape, few runs")
    one.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    models = commands.add_parser("models", help="whole networks: inference or training steps, time, memory and page faults")
    _benchmark_models.add_arguments(models)
    options = parser.parse_args(argv)
    if options.command == "models":
        measured = _benchmark_models.bench_models(options)
        if options.plot:
            _benchmark_models.plot(measured["results"], options.plot)
    else:
        with _threads(options.threads):
            measured = bench_scan(options)
    if options.json:
        replace_file(options.json, json.dumps(measured, indent=2) + "\n")
    return 0


def cli() -> None:
    """The console command."""
    run(main)
