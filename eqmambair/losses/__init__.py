"""Losses that basicsr lacks, registered in its LOSS_REGISTRY."""

from eqmambair.losses.distillation import DistillationLoss

__all__ = ["DistillationLoss"]
