"""What one measures on a network."""

from eqmambair.analysis.equivariance import equivariance_error

__all__ = ["equivariance_error"]
