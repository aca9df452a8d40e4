"""Whole networks, one system a file, registered in basicsr's ARCH_REGISTRY."""

from eqmambair.archs.building import build_backbone, build_network, input_channels, nearest
from eqmambair.archs.classifier import Classifier
from eqmambair.archs.eq_mambair_arch import EQMambaIR
from eqmambair.archs.eq_vmamba_arch import EQVMamba
from eqmambair.archs.groupmamba_arch import GroupMamba
from eqmambair.archs.mambair_arch import MambaIR
from eqmambair.archs.mambair_unet_arch import MambaIRUNet
from eqmambair.archs.mambairv2_arch import MambaIRv2, MambaIRv2Light
from eqmambair.archs.mask_rcnn_arch import MaskRCNN
from eqmambair.archs.spectral_vmamba_arch import SpectralVMamba
from eqmambair.archs.upernet_arch import EQUPerNet, UPerNet
from eqmambair.archs.v2m_arch import V2M, V2MPyramid
from eqmambair.archs.vmamba_arch import VMamba

__all__ = [
    "V2M",
    "Classifier",
    "EQMambaIR",
    "EQUPerNet",
    "EQVMamba",
    "GroupMamba",
    "MambaIR",
    "MambaIRUNet",
    "MambaIRv2",
    "MambaIRv2Light",
    "MaskRCNN",
    "SpectralVMamba",
    "UPerNet",
    "V2MPyramid",
    "VMamba",
    "build_backbone",
    "build_network",
    "input_channels",
    "nearest",
]
