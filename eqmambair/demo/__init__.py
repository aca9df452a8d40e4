"""A page on this machine to try the networks on: the standard library serves it, nothing is written to the disk, nothing goes out."""

from eqmambair.demo.server import DemoServer
from eqmambair.demo.work import Limits, Model, Workshop

__all__ = ["DemoServer", "Limits", "Model", "Workshop"]
