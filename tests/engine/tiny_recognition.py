"""Networks of a few weights, labelled pictures of a few pixels and option files for classification and segmentation."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch import Tensor, nn

from eqmambair.models.specs import REGISTRIES
from tests.engine.tiny import changed

CLASSES = ("left", "right", "top")


@REGISTRIES["network"].register()
class TinyClassifier(nn.Module):
    """Convolution, batch norm, dropout and one linear layer: everything that has a state or draws random numbers."""

    def __init__(self, *, num_classes: int = 3, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, 3
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.body(image), 2).flatten(1))


@REGISTRIES["network"].register()
class TinySegmenter(nn.Module):
    """Two strided convolutions; logits at stride 4 of the main and, in training, at stride 2 of an auxiliary head."""

    def __init__(self, *, num_classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, 3
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.1))
        self.main, self.auxiliary = nn.Conv2d(width, num_classes, 3, 2, 1), nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.backbone(image)
        return {"out": self.main(features), "aux": self.auxiliary(features)} if self.training else self.main(features)


def make_labelled_pictures(root: Path, split: str, count: int = 4, ignored: int = 11) -> Path:
    """``root/SPLIT/{images,labels}``: pictures of a bright and a dark half that are told apart by labels, some pixels ``ignored``."""
    generator = np.random.default_rng(len(split))
    for folder in ("images", "labels"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = 20 + 4 * index, 28
        labels = np.zeros((height, width), np.uint8)
        labels[:, : 8 + 3 * index] = 1
        pixels = generator.integers(0, 80, (height, width, 3)) + 150 * labels[:, :, None]
        labels[-2:] = ignored
        Image.fromarray(pixels.astype(np.uint8)).save(root / split / "images" / f"{index}.png")
        Image.fromarray(labels).save(root / split / "labels" / f"{index}.png")
    return root


def segmentation_options(root: Path, **changes: Any) -> dict[str, Any]:
    """Options of a short run on ``root/{train,val}/{images,labels}``; ``changes`` as of `classification_options`."""
    data = {"type": "SegmentationDataset", "dataroot": str(root), "classes": ["dark", "bright"], "ignore": [11], "resize": [28, 24]}
    options: dict[str, Any] = {
        "name": "tiny",
        "model_type": "SegmentationModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {"train": {**data, "batch_size_per_gpu": 2, "augment": {"crop": [16, 16]}}, "val": {"name": "mini", **data}},
        "network_g": {"type": "TinySegmenter", "num_classes": 2},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "train": {
            "total_iter": 10,
            "ema_decay": 0.9,
            "optim_g": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.01},
            "scheduler": {"type": "WarmupPolyLR", "total_iter": 10, "warmup_iter": 2, "warmup_factor": 1e-6},
            "grouping": {"no_decay": "norms"},
        },
        "val": {"val_freq": 5},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False},
    }
    return changed(options, changes)


def make_class_folders(root: Path, each: int = 4, size: tuple[int, int] = (20, 16), classes: tuple[str, ...] = CLASSES) -> Path:
    """``root/CLASS/n.png``: noise, brighter at one side."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 100, (*size, 3))
            half = [(slice(None), slice(0, 8)), (slice(None), slice(8, None)), (slice(0, 8), slice(None))][number % 3]
            pixels[half] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def classification_options(root: Path, **changes: Any) -> dict[str, Any]:
    """Options of a short run on ``root/train`` and ``root/val``; ``changes`` are given as a__b__c=value (``...`` removes)."""
    view = {"size": 12, "crop_pct": 1.0}
    options: dict[str, Any] = {
        "name": "tiny",
        "model_type": "ClassificationModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "type": "ImageFolderDataset",
                "dataroot": str(root / "train"),
                **view,
                "batch_size_per_gpu": 4,
                "augment": {"auto_augment": "rand-m9-mstd0.5-inc1", "erase": 0.5, "rotate": 0.5},
            },
            "val": {"name": "mini", "type": "ImageFolderDataset", "dataroot": str(root / "val"), **view, "batch_size_per_gpu": 4},
        },
        "network_g": {"type": "TinyClassifier", "num_classes": 3},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "train": {
            "total_iter": 10,
            "ema_decay": 0.9,
            "optim_g": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.05},
            "scheduler": {"type": "WarmupCosineLR", "total_iter": 10, "warmup_iter": 2, "warmup_lr": 1e-5, "eta_min": 1e-4},
            "label_smoothing": 0.1,
            "mixing": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        },
        "val": {"val_freq": 5},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False},
    }
    return changed(options, changes)


def write(root: Path, options: dict[str, Any], file: str = "tiny.yml") -> Path:
    """Options as a file."""
    path = root / file
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path
