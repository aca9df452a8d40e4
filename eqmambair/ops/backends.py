"""Which code runs the operators on a device."""

import os


def backend(device: str = "cpu") -> str:
    """The name of what runs on ``device``: 'cuda', 'cpu' (compiled kernels) or 'torch' (plain torch)."""
    return device if load(device) else "torch"


def load(device: str) -> bool:
    """Whether compiled kernels for ``device`` are registered, after trying to."""
    return False


def debugging() -> bool:
    """Whether costly checks of the inputs were asked for with EQMAMBAIR_DEBUG=1."""
    return os.environ.get("EQMAMBAIR_DEBUG", "0") not in ("", "0")
