"""Functions on plain tensors, one Python front per operator. Needs torch alone."""

from eqmambair.ops.backends import backend
from eqmambair.ops.depthwise import depthwise_conv2d
from eqmambair.ops.scan import selective_scan

__all__ = ["backend", "depthwise_conv2d", "selective_scan"]
