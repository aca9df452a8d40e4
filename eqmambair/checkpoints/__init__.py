"""Weights in files: ours and other people's, read as tensors only and checked key by key."""

from eqmambair.checkpoints.files import read_state, save_weights
from eqmambair.checkpoints.loading import LoadReport, infer_network, load_weights
from eqmambair.checkpoints.network import load_network
from eqmambair.checkpoints.systems import to_official

__all__ = ["LoadReport", "infer_network", "load_network", "load_weights", "read_state", "save_weights", "to_official"]
