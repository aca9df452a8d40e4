"""Converters: one file a system, between the published key layout and ours, and from shapes to options."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from eqmambair.checkpoints.systems import (
    eq_mambair,
    eq_vmamba,
    groupmamba,
    mambair,
    mambair_unet,
    mambairv2,
    spectral_vmamba,
    upernet,
    v2m,
    vmamba,
)
from eqmambair.checkpoints.systems.layout import Layout, System
from eqmambair.errors import UserError

SYSTEMS: tuple[System, ...] = (
    mambair.SYSTEM,
    mambair_unet.SYSTEM,
    eq_mambair.SYSTEM,
    groupmamba.SYSTEM,
    mambairv2.SYSTEM,
    v2m.SYSTEM,
    v2m.PYRAMID,
    spectral_vmamba.SYSTEM,
    vmamba.SYSTEM,
    eq_vmamba.SYSTEM,
    *upernet.SYSTEMS,
)


def find_layout(state: Mapping[str, Tensor]) -> Layout | None:
    """The published layout that a state dict stands in, or None."""
    return next((layout for system in SYSTEMS if (layout := system.published(state))), None)


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours in the published layout of its system.

    Raises:
        UserError: if the network has no published layout.
    """
    return _system(state).layout(state).to_published(state)


def infer_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` options behind a state dict in our layout.

    Raises:
        UserError: if no known network has such keys.
    """
    return _system(state).infer(state)


def _system(state: Mapping[str, Tensor]) -> System:
    for system in SYSTEMS:
        if system.owns(state):
            return system
    raise UserError("these weights belong to no network that the toolbox knows; name the network in an option file")
