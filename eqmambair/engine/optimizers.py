"""Optimisers by name: torch's own, and a schedule-free AdamW."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from eqmambair.engine.schedule_free import AdamWScheduleFree
from eqmambair.errors import UserError
from eqmambair.models.specs import nearest

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": torch.optim.RMSprop,
    "SGD": torch.optim.SGD,
    "AdamWScheduleFree": AdamWScheduleFree,
}


def find_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The class that an optimiser's ``type`` names.

    Raises:
        UserError: there is none; the nearest name is told.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZERS)}")
    return OPTIMIZERS[name]


def build_optimizer(spec: dict[str, Any], parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimiser of a checked mapping; each parameter group remembers its base rate under ``base_lr``."""
    arguments = {key: tuple(value) if key == "betas" else value for key, value in spec.items() if key != "type"}
    optimizer = find_optimizer(spec["type"])(parameters, **arguments)
    for group in optimizer.param_groups:
        group.setdefault("base_lr", float(group["lr"]))
    return optimizer
