"""Pictures that an analysis is made on, as tensors."""

from pathlib import Path

import torch
from torch import Tensor

from eqmambair.data.degraded import one_channel
from eqmambair.data.io import Image, list_images, read_image, to_float
from eqmambair.errors import UserError


def read_tensor(path: str | Path, channels: int) -> Tensor:
    """A picture as (1, c, h, w) in [0, 1]: gray is repeated for a colour network, colour turned gray for a network of one channel.

    Raises:
        UserError: it cannot be read, has alpha, or the network takes another number of channels.
    """
    return as_tensor(read_image(path), channels, str(path))


def as_tensor(image: Image, channels: int, name: str) -> Tensor:
    """As `read_tensor`, from pixels; ``name`` is what errors call them."""
    if image.shape[2] == 4:
        raise UserError(f"{name}: has alpha; give it a background first")
    if channels not in (1, 3):
        raise UserError(f"the network takes {channels} channels; pictures have 1 or 3")
    if channels == 1 and image.shape[2] == 3:
        image = one_channel(image, "gray")
    tensor = torch.from_numpy(to_float(image)).permute(2, 0, 1)[None]
    return tensor.expand(1, channels, -1, -1).contiguous()


def listed_pictures(paths: list[Path]) -> list[Path]:
    """Pictures and the pictures in folders, in order.

    Raises:
        UserError: a folder holds none, or a path is not there.
    """
    found: list[Path] = []
    for path in paths:
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no picture here")
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        found += inside
    return found
