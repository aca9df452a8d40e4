"""Runs killed at random moments until they are done, compared bit for bit with one that was left alone."""

import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from soak.trials import SECONDS, STEPS, make_options, start, write

VARIANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "plain": lambda options: None,
    "two workers, accumulation": lambda options: (
        options["datasets"]["train"].update(num_worker_per_gpu=2),
        options["train"].update(accumulate=2),
    ),
    "fp16": lambda options: options["train"].update(precision="fp16"),
    "two ranks": lambda options: None,
}


def soak_kills(wanted: int, folder: Path, seed: int) -> list[str]:
    """Kill runs at random moments until ``wanted`` kills are made; returns what went wrong."""
    chance, failures, kills = random.Random(seed), [], 0
    share = -(-wanted // len(VARIANTS))
    for name, change in VARIANTS.items():
        if kills >= wanted:
            break
        ranks = 2 if name == "two ranks" else 1
        whole = make_options(folder / "data", folder / "out", f"whole {name}")
        change(whole)
        begun = time.monotonic()
        statuses = launch(write(whole, folder / "whole.yml"), folder, ranks, None, chance)[0]
        duration = time.monotonic() - begun
        if any(statuses):
            failures.append(f"{name}: the uninterrupted run ended with {statuses}")
            continue
        done, runs = 0, 0
        slowest = 0.0
        while done < share and kills < wanted:
            runs += 1
            options = {**whole, "name": f"killed {name} {runs}"}
            file = write(options, folder / "killed.yml")
            statuses = [-9]
            while any(statuses):
                delay = chance.uniform(0.05, 0.6) * duration if done < share else None
                statuses, waited = launch(file, folder, ranks, delay, chance)
                slowest = max(slowest, waited)
                if -9 in statuses:
                    done, kills = done + 1, kills + 1
                elif any(statuses):
                    failures.append(f"{name}: ended with {statuses}: {(folder / 'run0.txt').read_text()[-300:]}")
                    break
            failures += [f"{name}: {each}" for each in unlike(folder / "out" / str(whole["name"]), folder / "out" / str(options["name"]))]
        other = f"; the other rank ended at most {slowest:.1f} s after the killed one" if ranks > 1 else ""
        print(f"kills: {name}: {done} kills in {runs} runs{other}", flush=True)
    print(f"kills: {kills} in all, {len(failures)} failures", flush=True)
    return failures


def launch(file: Path, folder: Path, ranks: int, delay: float | None, chance: random.Random) -> tuple[list[int], float]:
    """Run on some ranks; kill one after ``delay`` seconds. Returns the statuses, and how long the others outlived it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        arguments = ["-opt", str(file), "--auto_resume"]
        processes.append(start(arguments, folder / f"run{rank}.txt", **(place if ranks > 1 else {})))
    victim = chance.choice(processes)
    victim.join(delay if delay is not None else SECONDS)
    if victim.exitcode is None:
        victim.kill()
        victim.join()
    begun = time.monotonic()
    for process in processes:
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            return [999 for _ in processes], SECONDS
    return [process.exitcode for process in processes], time.monotonic() - begun


def unlike(one: Path, other: Path) -> list[str]:
    """Where the ends of two runs differ: weights, averages, optimiser, generators, and every logged figure."""
    found: list[str] = []
    places = [path / "training_states" / f"step_{STEPS:08d}" for path in (one, other)]
    if not all((place / "state.pt").exists() for place in places):
        return ["the last state is missing"]
    for file in ("net_g.pth", "state.pt"):
        contents = [torch.load(place / file, weights_only=True) for place in places]
        for content in contents:
            content.pop("options", None)
        found += _unlike(contents[0], contents[1], file)
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key != "images_per_second"}
            for line in (path / "log.jsonl").read_text().splitlines()
        ]
        for path in (one, other)
    ]
    return found + (["log.jsonl"] if lines[0] != lines[1] else [])


def _unlike(one: Any, other: Any, path: str) -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        return [path] if one.keys() != other.keys() else [each for key in one for each in _unlike(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [path]
        return [each for index, pair in enumerate(zip(one, other, strict=True)) for each in _unlike(*pair, f"{path}[{index}]")]
    return [] if one == other else [path]
