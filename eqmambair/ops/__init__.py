"""Functions on plain tensors, one Python front per operator. Needs torch alone."""

from eqmambair.ops.backends import backend
from eqmambair.ops.depthwise import depthwise_conv2d
from eqmambair.ops.group_linear import fused_linear, group_linear, takes_group_linear
from eqmambair.ops.low_rank_scan import low_rank_scan, takes_low_rank
from eqmambair.ops.scan import selective_scan

__all__ = [
    "backend", "depthwise_conv2d", "fused_linear", "group_linear", "low_rank_scan", "selective_scan", "takes_group_linear",
    "takes_low_rank",
]  # fmt: skip
