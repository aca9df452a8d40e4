"""Detection: a picture in, boxes, classes, scores and masks of the things in it out."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from pydantic import Field
from torch import Tensor, nn

from eqmambair.data.coco import CocoDataset, mask_tools
from eqmambair.data.io import write_image
from eqmambair.errors import UserError
from eqmambair.inference.detection import Found
from eqmambair.metrics.detection import Things, average_precision, run_lengths
from eqmambair.models.base import Model, Problem, Record, TrainKeys, ValidationRequest
from eqmambair.models.building import built_dataset, started_network
from eqmambair.models.parameter_groups import Grouping, grouped
from eqmambair.models.specs import SUFFIX

_SHOWN = 0.5  # least score of what is drawn


class DetectionTrain(TrainKeys):
    """Training of detectors."""

    grouping: Grouping = Field(default_factory=lambda: Grouping.model_validate({}), description="weight decay and rates of parameters")


class DetectionModel(Model):
    """Trains a detector on pictures of any sizes: lists of ``image`` (3, h, w) in [0, 1] and ``target`` (boxes, labels, masks).

    The loss is the sum of the network's own losses. Validation: average precision of boxes and masks in percent, by COCO's code, over IoU
    0.5 to 0.95, at 0.5 and 0.75, of small, medium and large things, and of each class.
    """

    train_schema: ClassVar[type[TrainKeys]] = DetectionTrain
    batched_validation: ClassVar[bool] = True

    def __init__(self, options: Any, device: torch.device) -> None:
        mask_tools()  # without it nothing can be read or measured
        super().__init__(options, device)
        self.dataset: CocoDataset | None = None
        self._measured: tuple[Sequence[Record], Any] | None = None

    @classmethod
    def check_options(cls, options: Any) -> list[Problem]:
        found: list[Problem] = []
        if options.scale != 1:
            found.append((("scale",), f"boxes are in the picture's pixels; leave it out, found {options.scale}"))
        if options.val is not None:
            if options.val.metrics:
                found.append((("val", "metrics"), "average precision is always measured; leave metrics out"))
            if options.val.tile is not None:
                found.append((("val", "tile"), "pictures are seen whole in detection"))
        for key, section in options.datasets.items():
            if section.gt_sizes is not None:
                found.append((("datasets", key, "gt_sizes"), "sizes are the network's in detection (network_g.min_size)"))
        return found

    def build_network(self) -> nn.Module:
        return started_network(self.options, self.device)

    def build_dataset(self, section: Any, phase: str) -> torch.utils.data.Dataset[Any]:
        dataset = built_dataset(self.options, section, phase)
        if not isinstance(dataset, CocoDataset):
            raise UserError(f"datasets: {section.type} has no boxes and masks; use CocoDataset")
        known = getattr(self.network, "num_classes", len(dataset.classes))
        if len(dataset.classes) != known:
            raise UserError(f"datasets: {section.type} has {len(dataset.classes)} classes, the network {known} (network_g.num_classes)")
        if self.dataset is not None and self.dataset.classes != dataset.classes:
            raise UserError("datasets: training and validation differ in their classes")
        self.dataset = dataset
        return dataset

    def parameter_groups(self) -> list[dict[str, Any]]:
        return grouped(self.network, self.options.train.grouping)

    def card(self) -> dict[str, Any]:
        return {} if self.dataset is None else {"task": "detection", "classes": self.dataset.classes}

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        return {key: [sample[key] for sample in samples] for key in samples[0]}

    def batch_names(self, batch: Any) -> list[str]:
        return list(batch["path"])

    def training_step(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        losses = network(batch["image"], batch["target"])
        parts = {f"l_{name.removeprefix('loss_')}": value for name, value in losses.items()}
        return torch.stack(list(parts.values())).sum(), parts

    def validation_step(self, network: nn.Module, batch: Any, request: ValidationRequest) -> list[Record]:
        records = []
        for index, (output, name) in enumerate(zip(network(batch["image"]), batch["path"], strict=True)):
            every = Found.of(output)
            found = Things(every.boxes, every.labels, run_lengths(every.masks), every.scores)
            target = {key: value.cpu() for key, value in batch["target"][index].items()}
            true = Things(target["boxes"], target["labels"], run_lengths(target["masks"]), crowd=target["crowd"], area=target["area"])
            sure = Found.of(output, _SHOWN)
            record = Record(name, {"things": len(true.labels), "found": len(sure.labels)}, facts={"found": found, "true": true})
            if index < request.pictures or request.save_to is not None:
                assert self.dataset is not None
                pixels = (batch["image"][index].clamp(0, 1) * 255).round().to(torch.uint8)
                picture = sure.drawn(pixels, self.dataset.classes)
                if index < request.pictures:
                    record.pictures["found"] = picture
                if request.save_to is not None:
                    write_image(request.save_to / f"{name.rsplit('.', 1)[0]}{'_' if request.suffix else ''}{request.suffix}.png", picture)
            records.append(record)
        return records

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        return dict(self._figures(records)[0])

    def per_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        return dict(self._figures(records)[1])

    def _figures(self, records: Sequence[Record]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Average precision of a set, measured once for its figures and those of its classes."""
        if not records or self.dataset is None:
            return {}, {}
        if self._measured is None or self._measured[0] is not records:
            found, true = ([record.facts[key] for record in records] for key in ("found", "true"))
            self._measured = records, average_precision(found, true, self.dataset.classes)
        figures: tuple[dict[str, float], dict[str, dict[str, float]]] = self._measured[1]
        return figures


MODEL_REGISTRY._do_register("DetectionModel", DetectionModel, SUFFIX)
