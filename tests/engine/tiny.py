"""A network of a few weights, pictures of a few pixels and option files for them; as a script, ``basicsr/train.py`` that knows them.

One argument of the script is ``train`` or ``test``.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from eqmambair.data.io import write_image
from eqmambair.models.specs import REGISTRIES


@REGISTRIES["network"].register()
class TinySR(nn.Module):
    """Convolution, batch norm, dropout and a pixel shuffle: everything that has a state or draws random numbers."""

    def __init__(self, *, upscale: int = 2, width: int = 4, dropout: float = 0.0, batch_norm: bool = False, in_chans: int = 3) -> None:
        super().__init__()
        self.upscale, self.in_chans = upscale, in_chans
        self.body = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, padding=1), nn.BatchNorm2d(width) if batch_norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Conv2d(width, in_chans * upscale**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.head(self.body(image)), self.upscale)


@REGISTRIES["loss"].register()
class SometimesNaN(nn.Module):
    """L1, but not finite at the calls whose numbers (from 1) are given."""

    def __init__(self, bad: list[int]) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        self.calls += 1
        loss = (output - truth).abs().mean()
        return loss * float("nan") if self.calls in self.bad else loss


@REGISTRIES["metric"].register()
def signals_once(img: np.ndarray, img2: np.ndarray, mark: str) -> float:
    """Send this process SIGTERM at the first call of all."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return 0.0


def make_pictures(folder: Path, count: int = 6, size: int = 24, channels: int = 3, seed: int = 0) -> Path:
    """Write smooth random pictures; returns the folder."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        small = torch.from_numpy(generator.random((1, channels, 6, 6)))
        picture = nn.functional.interpolate(small, (size, size), mode="bilinear")[0].permute(1, 2, 0).numpy()
        write_image(folder / f"picture_{index:02d}.png", (picture * 255).round().astype(np.uint8))
    return folder


def tiny_options(root: Path, **changes: Any) -> dict[str, Any]:
    """Options of a short run in ``root`` whose pictures lie in ``root/gt``; ``changes`` are given as a__b__c=value (``...`` removes)."""
    options: dict[str, Any] = {
        "name": "tiny",
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "type": "PairedImageDataset",
                "dataroot_gt": str(root / "gt"),
                "gt_size": 8,
                "use_hflip": True,
                "use_rot": True,
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {"name": "mini", "type": "PairedImageDataset", "dataroot_gt": str(root / "gt")},
        },
        "network_g": {"type": "TinySR", "upscale": 2, "dropout": 0.2, "batch_norm": True},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "train": {
            "total_iter": 10,
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [4, 8], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {"val_freq": 5, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False},
    }
    return changed(options, changes)


def changed(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options with some values changed in place: the path a__b__c of each, and its value (``...`` removes it)."""
    for path, value in changes.items():
        *above, key = path.split("__")
        here = options
        for part in above:
            here = here[part]
        if value is ...:
            here.pop(key, None)
        else:
            here[key] = value
    return options


def write_options(root: Path, file: str = "tiny.yml", **changes: Any) -> Path:
    """``tiny_options`` as a file."""
    path = root / file
    path.write_text(yaml.safe_dump(tiny_options(root, **changes), sort_keys=False))
    return path


if __name__ == "__main__":
    from eqmambair.cli import test, train

    command = next(argument for argument in sys.argv if argument in ("train", "test"))
    sys.argv.remove(command)
    {"train": train, "test": test}[command].cli()
