"""What inference does with a network: whole pictures of any kind, in tiles of any size."""

from eqmambair.inference.networks import Trained, bundled_models, find_model, load_trained
from eqmambair.inference.restore import Restorer, find_device
from eqmambair.inference.tiling import official_tiled, self_ensemble, tiled

__all__ = ["Restorer", "Trained", "bundled_models", "find_device", "find_model", "load_trained", "official_tiled", "self_ensemble", "tiled"]
