"""Semantic segmentation: a picture in, the logits of every pixel's class out."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.data.label_sets import IGNORED
from eqmambair.data.segmentation import SegmentationDataset
from eqmambair.errors import UserError
from eqmambair.inference.masks import coloured, overlay, write_labels
from eqmambair.inference.segmentation import Protocol, Segmenter
from eqmambair.metrics.segmentation import agreement, class_figures, set_figures
from eqmambair.models.base import Model, Problem, Record, TrainKeys, ValidationRequest, ValKeys
from eqmambair.models.building import built_dataset, started_network
from eqmambair.models.parameter_groups import Grouping, grouped
from eqmambair.models.recognition import check_fit, checked_logits, distinct
from eqmambair.models.specs import SUFFIX

_log = logging.getLogger("eqmambair")


class SegmentationTrain(TrainKeys):
    """The loss of segmentation."""

    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the auxiliary head's loss")
    loss_average: Literal["all", "valid"] = Field(
        "all", description="cross-entropy divided by all pixels (as published), or those that count"
    )
    sync_batchnorm: bool = Field(True, description="batch norm over the batches of all GPUs of a distributed run")
    grouping: Grouping = Field(default_factory=lambda: Grouping.model_validate({}), description="weight decay and rates of parameters")


class SegmentationVal(ValKeys):
    """How segmentation networks are tested."""

    mode: Literal["whole", "slide"] = Field("whole", description="the whole picture at once, or overlapping windows")
    window: tuple[int, int] = Field((512, 512), description="height and width of the windows")
    stride: tuple[int, int] = Field((341, 341), description="steps between windows")
    ratios: list[float] = Field(default_factory=lambda: [1.0], description="factors of the size, probabilities averaged")
    flip: bool = Field(False, description="also the mirror image of every size")
    pad_multiple: int | None = Field(None, ge=1, description="zeros right and below, to multiples of it")


class SegmentationModel(Model):
    """Trains a network on pictures with a label for each pixel: ``image`` (b, 3, h, w) and ``label`` (b, h, w), 255 where none counts.

    The network gives logits of any size, in training perhaps as ``{"out": logits, "aux": logits}``; all are resized to the labels. The loss
    is the cross-entropy, the auxiliary one's weighted. Validation: mIoU, mean and overall accuracy of the whole set in percent, and of
    each class. Source: UPerNet (arXiv 1807.10221) as VMamba (arXiv 2401.10166) trains it.
    """

    train_schema: ClassVar[type[TrainKeys]] = SegmentationTrain
    val_schema: ClassVar[type[ValKeys]] = SegmentationVal

    def __init__(self, options: Any, device: torch.device) -> None:
        super().__init__(options, device)
        self.dataset: SegmentationDataset | None = None  # the one built last: its classes, and how pictures are seen in testing

    @classmethod
    def check_options(cls, options: Any) -> list[Problem]:
        found: list[Problem] = []
        if options.scale != 1:
            found.append((("scale",), f"labels have the picture's size; leave it out, found {options.scale}"))
        if options.val is not None:
            if options.val.metrics:
                found.append((("val", "metrics"), "mIoU, mAcc and aAcc are always measured; leave metrics out"))
            if options.val.tile is not None:
                found.append((("val", "tile"), "here it is mode: slide with window and stride"))
            try:
                protocol_from(options.val, None, None)
            except UserError as error:
                found.append((("val",), str(error)))
        for key, section in options.datasets.items():
            if section.gt_sizes is not None:
                found.append((("datasets", key, "gt_sizes"), "the crop has one size in segmentation (augment.crop)"))
            if key == "train" and section.batch_size_per_gpu > 1 and section.arguments.get("augment") is None:
                found.append((("datasets", key), "batches need crops of one size: give the key 'augment'"))
        return found

    def build_network(self) -> nn.Module:
        network = started_network(self.options, self.device)
        several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if self.options.train is not None and self.options.train.sync_batchnorm and several:
            if self.device.type == "cuda":
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            else:
                _log.warning("train.sync_batchnorm: torch synchronises batch norm on GPUs only; each process uses its own statistics")
        return network

    def build_dataset(self, section: Any, phase: str) -> torch.utils.data.Dataset[Any]:
        dataset = built_dataset(self.options, section, phase)
        if not isinstance(dataset, SegmentationDataset):
            raise UserError(f"datasets: {section.type} has no labels of pixels; use SegmentationDataset")
        known = self.dataset.classes if self.dataset is not None else None
        check_fit(self.network, self.options.network_g, section.type, dataset.classes, known)
        self.dataset = dataset
        return dataset

    def parameter_groups(self) -> list[dict[str, Any]]:
        return grouped(self.network, self.options.train.grouping)

    def card(self) -> dict[str, Any]:
        if self.dataset is None:
            return {}
        protocol = protocol_from(self.options.val, self.dataset.resize, self.dataset).as_dict()
        return {"task": "segmentation", "classes": self.dataset.classes, "colours": self.dataset.colours.tolist(), "protocol": protocol}

    def batch_names(self, batch: Any) -> list[str]:
        return list(batch["path"])

    def training_step(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        output = network(batch["image"])
        heads = output if isinstance(output, dict) else {"out": output}
        parts = {"l_main": self._loss(heads["out"], batch["label"])}
        if "aux" in heads and self.options.train.auxiliary_weight:
            parts["l_aux"] = self.options.train.auxiliary_weight * self._loss(heads["aux"], batch["label"])
        return torch.stack(list(parts.values())).sum(), parts

    def _loss(self, output: Any, label: Tensor) -> Tensor:
        assert self.dataset is not None
        logits = checked_logits(output, 4, len(self.dataset.classes), type(self.network).__name__)
        full = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(full, label, ignore_index=IGNORED, reduction="sum")
        pixels = label.numel() if self.options.train.loss_average == "all" else max(int((label != IGNORED).sum()), 1)
        return total / pixels

    def validation_step(self, network: nn.Module, batch: Any, request: ValidationRequest) -> list[Record]:
        assert self.dataset is not None
        resize = (int(batch["resize"][0]), int(batch["resize"][1])) if "resize" in batch else None
        protocol = protocol_from(self.options.val, resize, self.dataset)
        image, true, name = batch["image"][0], batch["label"][0], batch["path"][0]
        scores = Segmenter(network, protocol, self.device).scores(image)
        found = checked_logits(scores[None], 4, len(self.dataset.classes), type(self.network).__name__)[0].argmax(0)
        counts = agreement(found, true, len(self.dataset.classes))
        record = Record(name, set_figures(counts), facts={"counts": counts})
        if request.pictures or request.save_to is not None:
            pixels = image.permute(1, 2, 0).cpu().numpy()
            labels, colours = found.cpu().numpy(), self.dataset.colours
            if request.pictures:
                panels = [pixels, coloured(labels, colours), coloured(true.cpu().numpy(), colours)]
                record.pictures["picture_found_truth"] = np.concatenate(panels, axis=1)
            if request.save_to is not None:
                from eqmambair.data.io import write_image

                write_labels(request.save_to / f"{name}.png", labels, colours)
                write_image(request.save_to / f"{name}_overlay.jpg", overlay(pixels, labels, colours))
        return [record]

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        return set_figures(_sum(records)) if records else {}

    def per_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """IoU and accuracy in percent of each class that is found or true somewhere."""
        return class_figures(_sum(records), distinct(self.dataset.classes)) if records and self.dataset is not None else {}


def _sum(records: Sequence[Record]) -> np.ndarray:
    return np.sum([record.facts["counts"] for record in records], axis=0)


def protocol_from(val: Any, resize: tuple[int, int] | None, dataset: SegmentationDataset | None) -> Protocol:
    """How the section ``val`` (or None) asks for networks to be tested, on pictures of this size and normalised as those of a data set."""
    given: dict[str, Any] = {"resize": resize}
    if dataset is not None:
        given |= {"mean": dataset.mean, "std": dataset.std}
    if val is not None:
        given |= {key: getattr(val, key) for key in SegmentationVal.model_fields}
    return Protocol(**given)


MODEL_REGISTRY._do_register("SegmentationModel", SegmentationModel, SUFFIX)
