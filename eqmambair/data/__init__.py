"""Pictures: files, pairs of them, and the order in which they come. What basicsr lacks."""

from eqmambair.data.datasets import PairedImageDataset, SingleImageDataset
from eqmambair.data.degraded import DegradedImageDataset
from eqmambair.data.sampler import EndlessSampler
from eqmambair.data.seeded import SeededDataset

__all__ = ["DegradedImageDataset", "EndlessSampler", "PairedImageDataset", "SeededDataset", "SingleImageDataset"]
