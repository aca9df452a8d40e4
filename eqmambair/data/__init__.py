"""Pictures: files, pairs of them, and the order in which they come. What basicsr lacks."""

from eqmambair.data.classification import ImageFolderDataset, TorchvisionDataset
from eqmambair.data.coco import CocoDataset
from eqmambair.data.datasets import PairedImageDataset, SingleImageDataset
from eqmambair.data.degraded import DegradedImageDataset
from eqmambair.data.sampler import EndlessSampler
from eqmambair.data.seeded import SeededDataset
from eqmambair.data.segmentation import SegmentationDataset

__all__ = [
    "CocoDataset",
    "DegradedImageDataset",
    "EndlessSampler",
    "ImageFolderDataset",
    "PairedImageDataset",
    "SeededDataset",
    "SegmentationDataset",
    "SingleImageDataset",
    "TorchvisionDataset",
]
