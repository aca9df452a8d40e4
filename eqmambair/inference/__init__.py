"""What inference does with a network: whole pictures of any kind, in tiles of any size."""

from eqmambair.inference.networks import Trained, load_trained
from eqmambair.inference.restore import Restorer, find_device
from eqmambair.inference.tiling import official_tiled, self_ensemble, tiled

__all__ = ["Restorer", "Trained", "find_device", "load_trained", "official_tiled", "self_ensemble", "tiled"]
