"""What a task does with a network: the interface that the training loop talks to, for every task alike.

The loop owns the optimiser, the schedule, averaging, precision, ranks, checkpoints and logs; a ``Model`` owns the meaning: how the
network is built, what a sample is, which loss a batch has and what validation measures. ``options`` is
``eqmambair.engine.schema.Options``, which lies above this package and is therefore not imported here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

Problem = tuple[Sequence[str | int], str]


class TrainKeys(BaseModel):
    """Keys of the section ``train`` that only one model knows; subclass it and name it as ``Model.train_schema``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ValKeys(BaseModel):
    """Keys of the section ``val`` that only one model knows; subclass it and name it as ``Model.val_schema``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


@dataclass
class Record:
    """What validation measured on one sample, and pictures of it (uint8, (h, w, 3), RGB) where they were asked for.

    ``facts`` are what ``Model.summarise`` needs beyond the figures, such as labels or counts of pixels; nobody else reads them.
    """

    name: str
    values: dict[str, Any]
    pictures: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationRequest:
    """What a validation step is to do beside measuring.

    Args:
        set_name: name of the data set.
        save_to: folder for restored pictures, or None.
        suffix: ending of their file names.
        pictures: how many of the batch's first records shall carry pictures for the log.
    """

    set_name: str
    save_to: Path | None = None
    suffix: str = ""
    pictures: int = 0


class Model(ABC):
    """A network and what is done with it.

    Args:
        options: the checked option file.
        device: where the network lives.
    """

    train_schema: ClassVar[type[TrainKeys]] = TrainKeys
    val_schema: ClassVar[type[ValKeys]] = ValKeys
    image_key: ClassVar[str] = "image"  # where a batch has the pictures that the network takes
    batched_validation: ClassVar[bool] = False  # samples of a set are of one size: validate batch_size_per_gpu of them at once

    def __init__(self, options: Any, device: torch.device) -> None:
        self.options = options
        self.device = device
        self.network: nn.Module = self.build_network()

    @classmethod
    def check_options(cls, options: Any) -> list[Problem]:
        """What is wrong with the options as a whole, as (path of the key, message) pairs."""
        return []

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network with its first weights, on the device."""

    @abstractmethod
    def build_dataset(self, section: Any, phase: str) -> torch.utils.data.Dataset[Any]:
        """The data set of an option section; ``phase`` is train, val or test. See ``eqmambair.data.checking`` for what it may offer."""

    @abstractmethod
    def training_step(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (mean over samples) and its parts for the log. ``network`` may be wrapped for several ranks."""

    @abstractmethod
    def validation_step(self, network: nn.Module, batch: Any, request: ValidationRequest) -> list[Record]:
        """What is measured on each sample of a batch; gradients are off and the network is in eval mode."""

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Figures of a whole set: means over the finite values, and how many were not finite where some were not."""
        summary: dict[str, float] = {}
        for key in dict.fromkeys(key for record in records for key in record.values):
            values = [float(record.values[key]) for record in records if key in record.values]
            finite = [value for value in values if math.isfinite(value)]
            summary[key] = math.fsum(finite) / len(finite) if finite else float("nan")
            if len(finite) < len(values):
                summary[f"{key}_not_finite"] = len(values) - len(finite)
        return summary

    def per_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """Figures of each class of a whole set, class name -> figure -> value; nothing where there are no classes."""
        return {}

    def card(self) -> dict[str, Any]:
        """What one must know to use the weights beside the network's options, such as names of classes; plain values, kept with them."""
        return {}

    def higher_is_better(self, metric: str) -> bool:
        """Whether larger values of this figure are better."""
        return True

    def move(self, batch: Any) -> Any:
        """A batch on the device, its pictures (``image_key``) in the memory layout that ``train.channels_last`` asks for."""
        batch = moved(batch, self.device)
        if self.options.train is None or self.options.train.channels_last:
            pictures = batch.get(self.image_key) if isinstance(batch, dict) else None
            if isinstance(pictures, Tensor) and pictures.dim() == 4:
                batch[self.image_key] = pictures.contiguous(memory_format=torch.channels_last)
        return batch

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """A batch from samples; runs in the loader's processes, which the network does not go to."""
        return torch.utils.data.default_collate(samples)

    def parameter_groups(self) -> Iterable[Any]:
        """What the optimiser gets: trainable parameters, or groups of them."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def batch_names(self, batch: Any) -> list[str]:
        """Names of the samples in a batch, for messages."""
        return []


def moved(content: Any, device: torch.device) -> Any:
    """The tensors in nested dictionaries, lists and tuples on a device; all else as it is."""
    if isinstance(content, Tensor):
        return content.to(device, non_blocking=True)
    if isinstance(content, dict):
        return {key: moved(value, device) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(moved(value, device) for value in content)
    return content
