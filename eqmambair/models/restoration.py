"""Restoration: a degraded picture in, the picture out. Super-resolution, denoising, removal of JPEG artefacts."""

import inspect
from typing import Any, ClassVar

import numpy as np
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from pydantic import Field
from torch import Tensor, nn

from eqmambair.data.datasets import PairedImageDataset
from eqmambair.data.io import write_image
from eqmambair.errors import UserError
from eqmambair.models.base import Model, Problem, Record, TrainKeys, ValidationRequest
from eqmambair.models.building import built, built_dataset, check_channels, described, started_network
from eqmambair.models.grids import comparison
from eqmambair.models.restoration_metrics import measure, metric_problems
from eqmambair.models.specs import SUFFIX, LossSpec, lookup

# Names that published option files give to what is one and the same here.
OFFICIAL_TYPES = (
    "SRModel",
    "MambaIRModel",
    "MambaIRv2Model",
    "EQMambaIRModel",
    "EQMambaIRSRModel",
    "SwinIRModel",
    "HATModel",
    "ATDModel",
    "ImageRestorationModel",
    "ImageCleanModel",
    "DenoisingModel",
    "ImageDenoisingModel",
)


class Mixing(TrainKeys):
    """Mixup: each batch is blended with a shuffled copy of itself."""

    mixup: bool = Field(False, description="blend batches")
    mixup_beta: float = Field(1.2, gt=0, description="both parameters of the beta distribution that the share is drawn from")
    use_identity: bool = Field(True, description="leave every other batch, by chance, as it is")


class RestorationTrain(TrainKeys):
    """Losses of restoration."""

    pixel_opt: LossSpec | None = Field(None, description="loss between output and truth")
    perceptual_opt: LossSpec | None = Field(None, description="loss between features of output and truth")
    mixing_augs: Mixing | None = Field(None, description="mixes the pictures of a batch")


class RestorationModel(Model):
    """Trains a network on pairs of a degraded picture (``lq``) and the truth (``gt``); RGB in [0, 1], (b, c, h, w)."""

    train_schema: ClassVar[type[TrainKeys]] = RestorationTrain
    image_key: ClassVar[str] = "lq"

    def __init__(self, options: Any, device: torch.device) -> None:
        super().__init__(options, device)
        self.losses: dict[str, nn.Module] = {}
        if options.train is not None:
            for name, spec in (("l_pix", options.train.pixel_opt), ("l_percep", options.train.perceptual_opt)):
                if spec is not None:
                    self.losses[name] = built("loss", spec).to(device)

    @classmethod
    def check_options(cls, options: Any) -> list[Problem]:
        found: list[Problem] = []
        upscale = options.network_g.get("upscale")
        if upscale is None and "upscale" in inspect.signature(lookup("network", options.network_g["type"])).parameters:
            upscale = inspect.signature(lookup("network", options.network_g["type"])).parameters["upscale"].default
        if isinstance(upscale, int) and upscale != options.scale:
            found.append((("network_g", "upscale"), f"is {upscale}, but scale is {options.scale}"))
        for key, section in options.datasets.items():
            path = ("datasets", key)
            gt_size = section.arguments.get("gt_size")
            if key == "train" and gt_size is None and "gt_size" in inspect.signature(lookup("dataset", section.type)).parameters:
                found.append((path, "training needs the key 'gt_size': the side of the crops, in output pixels"))
            for name, sizes in (("gt_size", [gt_size] if gt_size is not None else []), ("gt_sizes", section.gt_sizes or [])):
                for size in sizes:
                    if size < options.scale or size % options.scale:
                        found.append(((*path, name), f"{size} is not a multiple of the scale {options.scale}"))
                    if gt_size is not None and size > gt_size:
                        found.append(((*path, name), f"{size} is larger than gt_size ({gt_size})"))
            if key == "train" and section.arguments.get("dataroot_gt") is None:
                found.append((path, "training needs the key 'dataroot_gt'"))
            argument_problems = getattr(lookup("dataset", section.type), "argument_problems", None)
            if argument_problems is not None:
                problems = argument_problems(section.arguments, options.scale)
                found += [((*path, name) if name else path, message) for name, message in problems]
        if options.val is not None:
            found += metric_problems(options.val.metrics)
        for name in ("pixel_opt", "perceptual_opt"):
            spec = (getattr(options.train, name) if options.train is not None else None) or {}
            for key, choices in (("reduction", ("mean", "sum")), ("criterion", ("l1", "fro"))):
                if spec.get(key, choices[0]) not in choices:
                    found.append((("train", name, key), f"expected {' or '.join(choices)}, found {spec[key]!r}"))
        if options.val is not None and options.val.tile is not None and options.val.tile_overlap >= options.val.tile:
            found.append((("val", "tile_overlap"), f"must be less than the tile ({options.val.tile})"))
        if options.train is not None and options.train.pixel_opt is None and options.train.perceptual_opt is None:
            found.append((("train",), "no loss is given: pixel_opt, perceptual_opt or both"))
        return found

    def build_network(self) -> nn.Module:
        return started_network(self.options, self.device)

    def build_dataset(self, section: Any, phase: str) -> torch.utils.data.Dataset[Any]:
        dataset: torch.utils.data.Dataset[Any] = built_dataset(self.options, section, phase)
        if isinstance(dataset, PairedImageDataset):
            check_channels(self.network, self.options.network_g, f"{section.type} (color: {dataset.color})", dataset.channels)
        return dataset

    def batch_names(self, batch: Any) -> list[str]:
        return list(batch["lq_path"])

    def training_step(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        lq, gt = mix(batch["lq"], batch["gt"], self.options.train.mixing_augs)
        output = network(lq)
        if not isinstance(output, Tensor) or output.shape != gt.shape:
            raise UserError(f"network_g: {type(self.network).__name__} gives {described(output)}, the truth has {tuple(gt.shape)}")
        parts: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            value = loss(output.float(), gt)
            for part, suffix in zip(value, ("", "_style"), strict=True) if isinstance(value, tuple) else ((value, ""),):
                if part is not None:
                    parts[name + suffix] = part
        return torch.stack(list(parts.values())).sum(), parts

    def validation_step(self, network: nn.Module, batch: Any, request: ValidationRequest) -> list[Record]:
        output = self._restore(network, batch["lq"]).float().clamp(0, 1)
        records = []
        for index, name in enumerate(batch["lq_path"]):
            restored = _to_pixels(output[index])
            truth = None
            if "gt" in batch:
                truth = _to_pixels(batch["gt"][index])[: restored.shape[0], : restored.shape[1]]
            values = measure(self.options.val.metrics, restored, truth, name) if truth is not None and self.options.val else {}
            record = Record(name, values)
            if request.pictures:
                record.pictures["lq_sr_gt_difference"] = comparison(_to_pixels(batch["lq"][index]), restored, truth)
            if request.save_to is not None:
                write_image(request.save_to / (f"{name}_{request.suffix}.png" if request.suffix else f"{name}.png"), restored)
            records.append(record)
        return records

    def higher_is_better(self, metric: str) -> bool:
        spec = self.options.val.metrics.get(metric, {}) if self.options.val else {}
        return spec.get("better", "higher") != "lower"

    def _restore(self, network: nn.Module, lq: Tensor) -> Tensor:
        tile = self.options.val.tile if self.options.val else None
        if tile is None or max(lq.shape[-2:]) <= tile:
            output: Tensor = network(lq)
            return output
        from eqmambair.inference.tiling import tiled

        return tiled(network, lq, self.options.scale, tile, self.options.val.tile_overlap)


for _name in ("RestorationModel", *OFFICIAL_TYPES):
    MODEL_REGISTRY._do_register(_name, RestorationModel, SUFFIX)


def mix(lq: Tensor, gt: Tensor, mixing: Mixing | None) -> tuple[Tensor, Tensor]:
    """Both batches blended with the same shuffled copy of themselves, in one random share; or as they are."""
    if mixing is None or not mixing.mixup or (mixing.use_identity and bool(torch.rand(()) < 0.5)):
        return lq, gt
    share = float(np.random.beta(mixing.mixup_beta, mixing.mixup_beta))
    order = torch.randperm(lq.shape[0]).to(lq.device)
    return lq.lerp(lq[order], 1 - share), gt.lerp(gt[order], 1 - share)


def _to_pixels(image: Tensor) -> np.ndarray:
    """(c, h, w) in [0, 1] to uint8 (h, w, c), rounded."""
    pixels: np.ndarray = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels
