"""Functions on plain tensors, one Python front per operator. Needs torch alone."""

from eqmambair.ops.backends import backend
from eqmambair.ops.depthwise import depthwise_conv2d
from eqmambair.ops.group_linear import fused_linear, group_linear, takes_group_linear
from eqmambair.ops.scan import selective_scan

__all__ = ["backend", "depthwise_conv2d", "fused_linear", "group_linear", "selective_scan", "takes_group_linear"]
