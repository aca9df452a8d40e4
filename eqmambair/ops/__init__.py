"""Functions on plain tensors, one Python front per operator. Needs torch alone."""

from eqmambair.ops.backends import backend
from eqmambair.ops.scan import selective_scan

__all__ = ["backend", "selective_scan"]
