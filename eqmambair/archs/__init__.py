"""Whole networks, one system a file, registered in basicsr's ARCH_REGISTRY."""

from eqmambair.archs.building import build_backbone, build_network, input_channels, nearest
from eqmambair.archs.classifier import Classifier
from eqmambair.archs.eq_mambair_arch import EQMambaIR
from eqmambair.archs.eq_vmamba_arch import EQVMamba
from eqmambair.archs.groupmamba_arch import GroupMamba
from eqmambair.archs.mambair_arch import MambaIR
from eqmambair.archs.mambair_unet_arch import MambaIRUNet
from eqmambair.archs.vmamba_arch import VMamba

__all__ = [
    "Classifier",
    "EQMambaIR",
    "EQVMamba",
    "GroupMamba",
    "MambaIR",
    "MambaIRUNet",
    "VMamba",
    "build_backbone",
    "build_network",
    "input_channels",
    "nearest",
]
