"""Learning rates as functions of the step alone, so that there is nothing to save and nothing to drift.

``step`` counts optimiser steps already made: the first one is made with ``rate(0)``. Warm-up multiplies the schedule, so that at and after
``warmup_iter`` the rate is the plain schedule's.
"""

import bisect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from eqmambair.errors import UserError
from eqmambair.models.specs import nearest


class Schedule(Protocol):
    """The rate at a step for a base rate."""

    def __call__(self, step: int, base: float) -> float: ...


def _increasing(values: list[int], name: str, smallest: int = 1) -> None:
    if any(later <= earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError(f"{name} must increase, found {values}")
    if values and values[0] < smallest:
        raise ValueError(f"{name} must be at least {smallest}, found {values[0]}")


def _same_length(values: list[Any], others: list[Any], name: str, other: str) -> None:
    if len(values) != len(others):
        raise ValueError(f"{name} ({len(values)} values) and {other} ({len(others)}) must be equally long")


def _positive(value: float, name: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, found {value}")


@dataclass(frozen=True)
class Constant:
    """The base rate, always."""

    def __call__(self, step: int, base: float) -> float:
        return base


@dataclass(frozen=True)
class MultiStep:
    """The base rate, times ``gamma`` at each milestone; restarts put it back to ``restart_weights`` times the base rate."""

    milestones: list[int]
    gamma: float = 0.1
    restarts: list[int] = field(default_factory=lambda: [0])
    restart_weights: list[float] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        _increasing(self.milestones, "milestones")
        _increasing(self.restarts, "restarts", smallest=0)
        _same_length(self.restarts, self.restart_weights, "restarts", "restart_weights")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], found {self.gamma}")

    def __call__(self, step: int, base: float) -> float:
        last = bisect.bisect_right(self.restarts, step) - 1
        start = self.restarts[last] if last >= 0 else 0
        weight = self.restart_weights[last] if last >= 0 else 1.0
        passed = bisect.bisect_right(self.milestones, step) - bisect.bisect_right(self.milestones, start)
        return base * weight * self.gamma**passed


@dataclass(frozen=True)
class CosineRestart:
    """Half a cosine from ``restart_weights[i]`` times the base rate to ``eta_min`` in each period; after the last it stays at the end."""

    periods: list[int]
    restart_weights: list[float] = field(default_factory=lambda: [1.0])
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        if not self.periods or min(self.periods) < 1:
            raise ValueError(f"periods must be positive, found {self.periods}")
        _same_length(self.periods, self.restart_weights, "periods", "restart_weights")

    def __call__(self, step: int, base: float) -> float:
        return _cosine(step, base, self.periods, self.restart_weights, [self.eta_min] * len(self.periods))


@dataclass(frozen=True)
class CosineRestartCyclic:
    """As ``CosineRestart`` with a floor of its own for each period (Restormer's schedule)."""

    periods: list[int]
    restart_weights: list[float] = field(default_factory=lambda: [1.0])
    eta_mins: list[float] = field(default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        if not self.periods or min(self.periods) < 1:
            raise ValueError(f"periods must be positive, found {self.periods}")
        _same_length(self.periods, self.restart_weights, "periods", "restart_weights")
        _same_length(self.periods, self.eta_mins, "periods", "eta_mins")

    def __call__(self, step: int, base: float) -> float:
        return _cosine(step, base, self.periods, self.restart_weights, self.eta_mins)


def _cosine(step: int, base: float, periods: list[int], weights: list[float], floors: list[float]) -> float:
    start = 0
    for period, weight, floor in zip(periods, weights, floors, strict=True):
        if step < start + period:
            return floor + weight * 0.5 * (base - floor) * (1 + math.cos(math.pi * (step - start) / period))
        start += period
    return floors[-1]


@dataclass(frozen=True)
class Linear:
    """A straight line from the base rate to ``end`` times it over ``total_iter`` steps."""

    total_iter: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _positive(self.total_iter, "total_iter")

    def __call__(self, step: int, base: float) -> float:
        return base * (1 + (self.end - 1) * min(step / self.total_iter, 1.0))


@dataclass(frozen=True)
class Poly:
    """The base rate times (1 - step / total_iter) to a power: segmentation's schedule."""

    total_iter: int
    power: float = 1.0
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        _positive(self.total_iter, "total_iter")

    def __call__(self, step: int, base: float) -> float:
        left = max(1 - step / self.total_iter, 0.0)
        return (base - self.eta_min) * left**self.power + self.eta_min


@dataclass(frozen=True)
class WarmupCosine:
    """A line from ``warmup_lr`` over ``warmup_iter`` steps to the base rate, then half a cosine to ``eta_min`` over the rest (timm's)."""

    total_iter: int
    warmup_iter: int = 0
    warmup_lr: float = 0.0
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        _warm(self.total_iter, self.warmup_iter, self.warmup_lr)

    def __call__(self, step: int, base: float) -> float:
        if step < self.warmup_iter:
            return self.warmup_lr + (base - self.warmup_lr) * step / self.warmup_iter
        return _cosine(step - self.warmup_iter, base, [self.total_iter - self.warmup_iter], [1.0], [self.eta_min])


@dataclass(frozen=True)
class WarmupPoly:
    """A line from ``warmup_factor`` times the base rate to it over ``warmup_iter`` steps, then ``PolyLR``: UPerNet's schedule."""

    total_iter: int
    warmup_iter: int = 0
    warmup_factor: float = 0.0
    power: float = 1.0
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        _warm(self.total_iter, self.warmup_iter, self.warmup_factor)

    def __call__(self, step: int, base: float) -> float:
        if step < self.warmup_iter:
            return base * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_iter)
        left = self.total_iter - self.warmup_iter
        return Poly(left, self.power, self.eta_min)(step - self.warmup_iter, base)


def _warm(total: int, warmup: int, start: float) -> None:
    _positive(total, "total_iter")
    if not 0 <= warmup < total:
        raise ValueError(f"warmup_iter must lie in [0, total_iter), found {warmup}")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"warm-up must start from a finite rate of at least 0, found {start}")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "Constant": Constant,
    "MultiStepLR": MultiStep,
    "MultiStepRestartLR": MultiStep,
    "CosineAnnealingRestartLR": CosineRestart,
    "CosineAnnealingRestartCyclicLR": CosineRestartCyclic,
    "LinearLR": Linear,
    "PolyLR": Poly,
    "WarmupCosineLR": WarmupCosine,
    "WarmupPolyLR": WarmupPoly,
}


def find_schedule(name: str) -> Callable[..., Schedule]:
    """The class that a schedule's ``type`` names.

    Raises:
        UserError: there is none; the nearest name is told.
    """
    if name not in SCHEDULES:
        raise UserError(f"unknown schedule {name!r}{nearest(name, SCHEDULES)}")
    return SCHEDULES[name]


def warmup(step: int, warmup_iter: int) -> float:
    """Factor of the rate at a step: rises to 1, which it reaches with step number ``warmup_iter`` (counted from 1)."""
    return 1.0 if warmup_iter <= 0 else min((step + 1) / warmup_iter, 1.0)
