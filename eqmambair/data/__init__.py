"""Pictures: files, pairs of them, and the order in which they come. What basicsr lacks."""

from eqmambair.data.classification import ImageFolderDataset, TorchvisionDataset
from eqmambair.data.datasets import PairedImageDataset, SingleImageDataset
from eqmambair.data.degraded import DegradedImageDataset
from eqmambair.data.sampler import EndlessSampler
from eqmambair.data.seeded import SeededDataset

__all__ = [
    "DegradedImageDataset",
    "EndlessSampler",
    "ImageFolderDataset",
    "PairedImageDataset",
    "SeededDataset",
    "SingleImageDataset",
    "TorchvisionDataset",
]
