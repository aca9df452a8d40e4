"""What one measures on a network."""

from eqmambair.analysis.attribution import local_attribution
from eqmambair.analysis.equivariance import equivariance_error, equivariance_maps
from eqmambair.analysis.receptive_field import centred_squares, effective_receptive_field

__all__ = ["centred_squares", "effective_receptive_field", "equivariance_error", "equivariance_maps", "local_attribution"]
