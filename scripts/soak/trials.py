"""Training commands as processes of their own, and the small run that they make."""

import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from eqmambair.cli import train as train_command
from eqmambair.cli._run import run
from eqmambair.data.io import write_image
from eqmambair.data.prepare import downscale
from eqmambair.engine import commands  # noqa: F401 (loaded once, before the trials are forked)

SECONDS = 60  # after which a trial counts as a hang
MEMORY = 16 * 2**30  # address space of a trial, bytes
FORK = multiprocessing.get_context("fork")
STEPS = 30


def _trial(arguments: list[str], output: Path, place: dict[str, str]) -> None:
    os.environ.update(place)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    run(lambda _: train_command.main(arguments))


def start(arguments: list[str], output: Path, **place: str) -> Any:
    """Begin a training command in a process of its own."""
    process = FORK.Process(target=_trial, args=(arguments, output, place))
    process.start()
    return process


def judge(arguments: list[str], output: Path) -> str:
    """Run a training command to its end: ``ran``, ``refused``, or what is wrong."""
    process = start(arguments, output)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "HANG"
    text = output.read_text(errors="replace")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if "Traceback (most recent call last)" in text:
        return "TRACEBACK"
    if process.exitcode == 0:
        return "ran" if not errors else "ERROR WITH STATUS 0"
    return "refused" if process.exitcode == 2 and len(errors) == 1 else f"STATUS {process.exitcode} with {len(errors)} error lines"


def make_pairs(folder: Path, count: int = 6, size: int = 32) -> None:
    """Random pictures and their halves."""
    generator = np.random.default_rng(0)
    for index in range(count):
        picture = generator.integers(0, 256, (size, size, 3), np.uint8)
        write_image(folder / "gt" / f"p{index}.png", picture)
        write_image(folder / "lq" / f"p{index}x2.png", downscale(picture, 2))


def make_options(data: Path, out: Path, name: str) -> dict[str, Any]:
    """A short run of a small EQ-MambaIR with everything that has a state: stochastic depth, averaging, warm-up, best values."""
    pair = {
        "type": "PairedImageDataset",
        "dataroot_gt": str(data / "gt"),
        "dataroot_lq": str(data / "lq"),
        "filename_tmpl": "{}x2",
        "io_backend": {"type": "disk"},
    }
    metric = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
    return {
        "name": name,
        "model_type": "RestorationModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 7,
        "datasets": {
            "train": {**pair, "gt_size": 16, "use_hflip": True, "use_rot": True, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0},
            "val": {"name": "mini", **pair},
        },
        "network_g": {
            "type": "EQMambaIR",
            "upscale": 2,
            "embed_dim": 32,
            "depths": [1, 1],
            "d_state": 2,
            "mlp_ratio": 1.0,
            "drop_path_rate": 0.3,
            "upsampler": "pixelshuffledirect",
        },
        "path": {"pretrain_network_g": None, "experiments_root": str(out)},
        "train": {
            "total_iter": STEPS,
            "warmup_iter": 3,
            "ema_decay": 0.9,
            "grad_clip": 1.0,
            "optim_g": {"type": "AdamW", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [10, 20], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {"val_freq": 10, "save_img": False, "metrics": {"psnr": metric}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "keep_last": 3, "use_tb_logger": False},
        "dist_params": {"backend": "auto"},
    }


def write(options: dict[str, Any], path: Path) -> Path:
    """Options as a file."""
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path
