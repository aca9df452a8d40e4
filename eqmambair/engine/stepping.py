"""One optimiser step: forward passes in the wanted precision, accumulation, clipping, and a guard against what is not finite."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eqmambair.engine.averaging import MovingAverage
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.optimizers import build_optimizer
from eqmambair.engine.schedule import find_schedule, warmup
from eqmambair.engine.schema import TrainOptions
from eqmambair.models import Model

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 1.0


@dataclass
class StepResult:
    """What a step gave.

    Args:
        losses: parts of the loss and their sum ``loss``, means over the forward passes of this rank.
        grad_norm: norm of the gradient before clipping.
        rate: learning rate of the first group.
        samples: samples of this rank.
        wanted_stop: whether any rank was asked to stop.
        overflow: fp16 gradients overflowed; the scaler lowers its scale and the step is left out.
        bad: names of this rank's samples if loss or gradient is not finite on any rank; the step is left out.
    """

    losses: dict[str, float]
    grad_norm: float
    rate: float
    samples: int
    wanted_stop: bool = False
    overflow: bool = False
    bad: list[str] | None = None


class Stepper:
    """Makes optimiser steps of a model.

    Args:
        model: gives losses.
        network: the model's network, perhaps wrapped for several ranks or compiled.
        train: checked options.
    """

    def __init__(self, model: Model, network: nn.Module, train: TrainOptions, ranks: Ranks) -> None:
        self.model, self.network, self.train, self.ranks = model, network, train, ranks
        self.optimizer = build_optimizer(train.optim_g, model.parameter_groups())
        self._schedule = find_schedule(train.scheduler["type"])(**{key: value for key, value in train.scheduler.items() if key != "type"})
        self.average = MovingAverage(model.network, train.ema_decay) if train.ema_decay else None
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=train.precision == "fp16")
        self._parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        kept = model.network.state_dict(keep_vars=True)
        self._buffers = [buffer for name, buffer in model.network.named_buffers() if name in kept and buffer.is_floating_point()]

    def rates(self, step: int) -> list[float]:
        """The learning rate of each group for the step after ``step`` others."""
        factor = warmup(step, self.train.warmup_iter)
        groups = self.optimizer.param_groups
        return [factor * group.get("lr_scale", 1.0) * self._schedule(step, group["base_lr"]) for group in groups]  # timm's layer decay

    def step(self, step: int, batches: Iterator[Any], stop: bool = False) -> StepResult:
        """One step from the next ``accumulate`` batches.

        Args:
            step: how many steps were made before.
            batches: gives batches of samples.
            stop: whether this rank was asked to stop; the result tells whether any was.
        """
        for group, rate in zip(self.optimizer.param_groups, self.rates(step), strict=True):
            group["lr"] = rate
        self.network.train()
        kept = [buffer.clone() for buffer in self._buffers]
        losses, names, samples = self._gradients(batches)
        finite_loss = math.isfinite(losses["loss"])
        self.scaler.unscale_(self.optimizer)
        norm = self._norm()
        stopped, any_bad_loss, any_bad_norm = self.ranks.largest(float(stop), float(not finite_loss), float(not math.isfinite(norm)))
        result = StepResult(losses, norm, self.optimizer.param_groups[0]["lr"], samples, wanted_stop=bool(stopped))
        if any_bad_norm and not any_bad_loss and self.scaler.is_enabled() and self.scaler.get_scale() > _SMALLEST_SCALE:
            result.overflow = True
        elif any_bad_loss or any_bad_norm:
            result.bad = names
        if result.bad is None:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if result.bad is not None or result.overflow:
            for buffer, value in zip(self._buffers, kept, strict=True):
                buffer.copy_(value)
            return result
        self.ranks.copy_from_main(self._buffers)  # what batch norm has seen, so that every rank averages and measures one network
        if self.average is not None:
            self.average.update(self.model.network)
        return result

    def _gradients(self, batches: Iterator[Any]) -> tuple[dict[str, float], list[str], int]:
        count = self.train.accumulate
        sums: dict[str, torch.Tensor] = {}
        names: list[str] = []
        samples = 0
        for number in range(count):
            batch = next(batches)
            names += self.model.batch_names(batch)
            samples += _samples(batch)
            with self._unsynchronised(last=number == count - 1), autocast(self.ranks.device, self.train.precision):
                loss, parts = self.model.training_step(self.network, self.model.move(batch))
                self.scaler.scale(loss / count).backward()
            for key, value in {**parts, "loss": loss}.items():
                detached = value.detach().float() / count
                sums[key] = sums[key] + detached if key in sums else detached
        return {key: float(value) for key, value in sums.items()}, names, samples

    def _unsynchronised(self, last: bool) -> AbstractContextManager[Any]:
        if not last and isinstance(self.network, nn.parallel.DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def _norm(self) -> float:
        with_gradient = [parameter for parameter in self._parameters if parameter.grad is not None]
        limit = self.train.grad_clip if self.train.grad_clip is not None else math.inf
        return float(nn.utils.clip_grad_norm_(with_gradient, limit)) if with_gradient else 0.0


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Computes in the wanted precision where that is safe; fp32: as it stands."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_TYPES[precision])


def _samples(batch: Any) -> int:
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0])
    if isinstance(batch, dict):
        return max((_samples(value) for value in batch.values()), default=0)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return len(batch)
    return 0
