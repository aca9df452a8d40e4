"""Classification: a picture in, the logits of its class out."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from eqmambair.data.classification import ClassifiedPictures
from eqmambair.errors import UserError
from eqmambair.models.base import Model, Problem, Record, TrainKeys, ValidationRequest
from eqmambair.models.building import built, built_dataset, started_network
from eqmambair.models.parameter_groups import Grouping, grouped
from eqmambair.models.recognition import check_fit, checked_logits, distinct
from eqmambair.models.specs import SUFFIX, LossSpec
from eqmambair.models.teacher import Teacher, build_teacher

_TOP = 5


class Mixing(TrainKeys):
    """Mixup and cutmix: each batch is blended with itself in reversed order (timm's)."""

    mixup_alpha: float = Field(0.0, ge=0, description="both parameters of the beta distribution of the share in mixup; 0 = no mixup")
    cutmix_alpha: float = Field(0.0, ge=0, description="the same of the area in cutmix; 0 = no cutmix")
    prob: float = Field(1.0, ge=0, le=1, description="probability that a batch is blended at all")
    switch_prob: float = Field(0.5, ge=0, le=1, description="probability of cutmix where both are given")
    mode: Literal["batch", "pair", "elem"] = Field("batch", description="one draw for a batch, a pair of samples, a sample")


class ClassificationTrain(TrainKeys):
    """The loss of classification."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all classes share")
    mixing: Mixing | None = Field(None, description="blends the pictures of a batch")
    teacher: Teacher | None = Field(None, description="a trained classifier to learn from")
    distill_opt: LossSpec | None = Field(None, description="loss with labels and teacher, such as DistillationLoss")
    grouping: Grouping = Field(default_factory=lambda: Grouping.model_validate({}), description="weight decay and rates of parameters")


class ClassificationModel(Model):
    """Trains a network on pictures with a class each: ``image`` (b, 3, h, w), normalised, and ``label`` (b,).

    The loss is the cross-entropy with the (smoothed, blended) target. Validation: top-1 and top-5 in percent, the mean of the classes' own
    accuracies, the cross-entropy without smoothing; accuracy and F1 of each class.
    """

    train_schema: ClassVar[type[TrainKeys]] = ClassificationTrain
    batched_validation: ClassVar[bool] = True

    def __init__(self, options: Any, device: torch.device) -> None:
        super().__init__(options, device)
        self.dataset: ClassifiedPictures | None = None  # the one that the weights are for
        self._mixing: Any = None  # timm's, made when it is first needed
        train = options.train
        self.distillation = built("loss", train.distill_opt) if train is not None and train.distill_opt is not None else None
        self.teacher: nn.Module | None = None  # built with the training set, so that testing needs none
        if train is not None:
            self._check_teaching(train)

    def _check_teaching(self, train: Any) -> None:
        """Raise ``UserError`` if a head would learn nothing, or a loss waits for a teacher who is not there."""
        taught = self.distillation is not None and getattr(self.distillation, "needs_teacher", True)
        if not taught and getattr(self.network, "dist_head", None) is not None:
            name, needed = type(self.network).__name__, "train.teacher and train.distill_opt (kind: hard or soft)"
            raise UserError(f"{name} has a head that learns from a teacher: give {needed}, or network_g.distillation: false")
        if self.distillation is not None and train.teacher is None and getattr(self.distillation, "needs_teacher", False):
            raise UserError("train.distill_opt: has a term for a teacher: give train.teacher, or kind: none")

    @classmethod
    def check_options(cls, options: Any) -> list[Problem]:
        found: list[Problem] = []
        if options.scale != 1:
            found.append((("scale",), f"a class has no scale; leave it out, found {options.scale}"))
        if options.val is not None:
            if options.val.metrics:
                found.append((("val", "metrics"), "top1, top5, mean_class and loss are always measured; leave metrics out"))
            for key in ("save_img", "tile"):
                if getattr(options.val, key):
                    found.append((("val", key), "there is nothing to write or to tile in classification"))
        train = options.datasets.get("train")
        if options.train is not None and options.train.teacher is not None and options.train.distill_opt is None:
            found.append((("train", "teacher"), "needs train.distill_opt: the loss by which it teaches, such as DistillationLoss"))
        if options.train is not None and options.train.mixing is not None and train is not None:
            for size in train.mini_batch_sizes or [train.batch_size_per_gpu]:
                if size % 2:
                    found.append((("datasets", "train", "batch_size_per_gpu"), f"mixing needs an even batch, found {size}"))
        return found

    def build_network(self) -> nn.Module:
        return started_network(self.options, self.device)

    def build_dataset(self, section: Any, phase: str) -> torch.utils.data.Dataset[Any]:
        dataset = built_dataset(self.options, section, phase)
        if not isinstance(dataset, ClassifiedPictures):
            raise UserError(f"datasets: {section.type} has no classes; use ImageFolderDataset or TorchvisionDataset")
        known = self.dataset.classes if self.dataset is not None else None
        check_fit(self.network, self.options.network_g, section.type, dataset.classes, known)
        if phase == "train" and self.options.train is not None and self.options.train.teacher is not None and self.teacher is None:
            self.teacher = build_teacher(self.options.train.teacher, self.options, self.device)
        if self.dataset is None:
            self.dataset = dataset
        return dataset

    def parameter_groups(self) -> list[dict[str, Any]]:
        return grouped(self.network, self.options.train.grouping)

    def card(self) -> dict[str, Any]:
        if self.dataset is None:
            return {}
        return {"task": "classification", "classes": self.dataset.classes, "preprocessing": self.dataset.preprocessing.as_dict()}

    def batch_names(self, batch: Any) -> list[str]:
        return list(batch["path"])

    def training_step(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        image, label = batch["image"], batch["label"]
        train = self.options.train
        if self.distillation is not None:
            return self._distilled(network, image, label)
        if train.mixing is None:
            loss = F.cross_entropy(self._logits(network(image)), label, label_smoothing=train.label_smoothing)
        else:
            image, target = self._mix(image, label)
            loss = F.cross_entropy(self._logits(network(image)), target)
        return loss, {"l_class": loss}

    def _distilled(self, network: nn.Module, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with labels and teacher, who sees the same pictures; a network with one head learns both with it."""
        assert self.dataset is not None
        assert self.distillation is not None
        if self.options.train.mixing is None:
            smoothing, classes = self.options.train.label_smoothing, len(self.dataset.classes)
            target = F.one_hot(label, classes) * (1 - smoothing) + smoothing / classes
        else:
            image, target = self._mix(image, label)
        output = network(image)
        head, dist_head = map(self._logits, output if isinstance(output, tuple) else (output, output))
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(image).float()
            if taught.shape != dist_head.shape:
                raise UserError(f"train.teacher: tells {taught.shape[1]} classes, the network {dist_head.shape[1]}")
        loss = self.distillation(head, dist_head, target, taught)
        return loss, {"l_distill": loss}

    def _logits(self, output: Any) -> Tensor:
        assert self.dataset is not None
        return checked_logits(output, 2, len(self.dataset.classes), type(self.network).__name__)

    def _mix(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if self._mixing is None:
            from timm.data import Mixup

            assert self.dataset is not None
            train = self.options.train
            classes = len(self.dataset.classes)
            self._mixing = Mixup(**train.mixing.model_dump(), label_smoothing=train.label_smoothing, num_classes=classes)
        mixed: tuple[Tensor, Tensor] = self._mixing(image, label)
        return mixed

    def validation_step(self, network: nn.Module, batch: Any, request: ValidationRequest) -> list[Record]:
        logits, labels = self._logits(network(batch["image"])), batch["label"]
        best = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        losses = F.cross_entropy(logits, labels, reduction="none")
        records = []
        for index, name in enumerate(batch["path"]):
            values = {"top1": 100.0 * float(hits[index, 0]), "top5": 100.0 * float(hits[index].any()), "loss": float(losses[index])}
            record = Record(name, values, facts={"label": int(labels[index]), "found": int(best[index, 0])})
            if index < request.pictures and self.dataset is not None:
                record.pictures["picture"] = self._captioned(batch["image"][index], record.facts)
            records.append(record)
        return records

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        summary = super().summarise(records)
        classes = self.per_class(records)
        if classes:
            present = [values["accuracy"] for values in classes.values()]
            summary["mean_class"] = sum(present) / len(present)
        return summary

    def per_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """Accuracy and F1 in percent of each class that occurs."""
        if not records or self.dataset is None:
            return {}
        from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

        labels = torch.tensor([record.facts["label"] for record in records])
        found = torch.tensor([record.facts["found"] for record in records])
        names = distinct(self.dataset.classes)
        if len(names) == 1:
            return {names[0]: {"accuracy": 100.0, "f1": 100.0}}
        accuracy = multiclass_accuracy(found, labels, len(names), average=None)
        f1 = multiclass_f1_score(found, labels, len(names), average=None)
        there = set(labels.tolist())
        return {
            name: {"accuracy": 100 * float(accuracy[index]), "f1": 100 * float(f1[index])}
            for index, name in enumerate(names)
            if index in there
        }

    def higher_is_better(self, metric: str) -> bool:
        return metric != "loss"

    def _captioned(self, image: Tensor, facts: dict[str, int]) -> np.ndarray:
        """The picture as the network sees it, enlarged, under what it is and what it was taken for."""
        assert self.dataset is not None
        view = self.dataset.preprocessing
        mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
        pixels = ((image.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        side = max(160, image.shape[-1])
        card = Image.new("RGB", (side, side + 32), "white" if facts["label"] == facts["found"] else "salmon")
        card.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))
        names = self.dataset.classes
        ImageDraw.Draw(card).text((2, side + 2), f"is {names[facts['label']]}\nfound {names[facts['found']]}", fill="black")
        return np.asarray(card)


MODEL_REGISTRY._do_register("ClassificationModel", ClassificationModel, SUFFIX)
