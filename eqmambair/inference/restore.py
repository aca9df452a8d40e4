"""Restore pictures as arrays: gray, colour, alpha, 8 and 16 bit, any size."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from eqmambair.data.io import Image, to_float
from eqmambair.data.prepare import enlarged, upscale
from eqmambair.errors import UserError
from eqmambair.export import OnnxNetwork
from eqmambair.inference.networks import Trained
from eqmambair.inference.tiling import MEMORY_ERRORS, Network, Progress, is_out_of_memory, official_tiled, self_ensemble, tiled
from eqmambair.layers.fold import fold
from eqmambair.layers.linear import GroupLinear
from eqmambair.ops import backend

Precision = Literal["fp32", "bf16", "fp16"]
TileMode = Literal["blend", "official"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TILE_MODES: tuple[TileMode, ...] = get_args(TileMode)

AUTOMATIC_TILE = 256  # pixels a side; an image of no more pixels than such a tile is restored whole
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Return the device of a name such as ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` is a GPU where there is one.

    Raises:
        UserError: the name is unknown, this machine or this torch has no such device, or it holds no values (``meta``).
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"device {name!r} cannot be used: {reason}") from error
    return device


class Restorer:
    """Restore pictures with a trained network.

    Equivariant convolutions and norms are folded into plain ones first. Gray goes through a colour network as three equal channels, and
    comes back as their mean. Of colour a gray network gets the luma (Y of YCrCb, 0.299 R + 0.587 G + 0.114 B); the chroma is kept, and
    enlarged with MATLAB's bicubic. Alpha is enlarged so by itself, and is left alone at scale 1. The result has the dtype of the picture;
    float32 pictures are in [0, 1], but may go beyond (noise that was not clipped).

    Args:
        trained: the network.
        device: where it runs.
        precision: "bf16" and "fp16" run what torch's autocast allows in half precision; an .onnx file has its own.
        tile: side of a tile in input pixels; 0 = the whole image at once; None = whole up to 256x256 pixels, tiles of 256 above.
        tile_overlap: input pixels that neighbouring tiles share at least; None = an eighth of the tile.
        tile_mode: "blend" has no seams; "official" repeats the published test program, with a grid of its own.
        ensemble: mean over the eight turned and mirrored forms of the picture; eight times slower.

    Raises:
        UserError: the tile or overlap is impossible, or another precision is asked of an .onnx file.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        tile: int | None = None,
        tile_overlap: int | None = None,
        tile_mode: TileMode = "blend",
        ensemble: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if tile_mode not in TILE_MODES:
            raise ValueError(f"tile_mode must be one of {', '.join(TILE_MODES)}, not {tile_mode!r}")
        if precision != "fp32" and isinstance(trained.network, OnnxNetwork):
            raise UserError("an .onnx file has the precision that it was exported in; leave --precision out")
        if tile is not None and tile < 0:
            raise UserError(f"a tile has at least 1 pixel a side (0 = no tiles), not {tile}")
        if tile_overlap is not None and not 0 <= tile_overlap < (tile or AUTOMATIC_TILE):
            raise UserError(f"tiles of {tile or AUTOMATIC_TILE} pixels cannot overlap by {tile_overlap}")
        self.scale, self.channels = trained.scale, trained.channels
        self.device = torch.device(device)
        self.tile, self.overlap, self.tile_mode = tile, tile_overlap, tile_mode
        self._dtype = _DTYPES.get(precision)
        # The compiled kernels multiply group linear layers faster than the matrices that they fold to.
        in_fourier_basis = self.device.type == "cpu" and self._dtype is None and backend("cpu") == "cpu"
        self._folded = fold(trained.network, keep=(GroupLinear,) if in_fourier_basis else ()).to(self.device)
        self._network: Network = self_ensemble(self._run) if ensemble else self._run

    def __call__(self, image: Image, progress: Callable[[Progress], None] | None = None) -> Image:
        """Return the restored picture, (scale*h, scale*w, c), of the dtype of ``image`` (h, w, c), c = 1, 3 or 4.

        Args:
            image: uint8, uint16, or float32 without alpha, whose result is clamped to [0, 1].
            progress: called after each tile.

        Raises:
            UserError: the network gives values that are no numbers, or memory runs out even with small tiles.
        """
        channels = image.shape[2]
        if channels not in (1, 3, 4):
            raise ValueError(f"a picture has 1, 3 or 4 channels, not {channels}")
        if image.dtype == np.float32 and channels == 4:
            raise ValueError("float32 pictures have 1 or 3 channels, not 4")
        pixels = image[:, :, : min(channels, 3)]
        colours = torch.from_numpy(pixels if image.dtype == np.float32 else to_float(pixels)).permute(2, 0, 1)
        if self.channels == 1:
            batch = _luma(colours)[None]
        elif self.channels == 3:
            batch = colours.expand(3, -1, -1)[None]
        else:
            raise UserError(f"the network takes {self.channels} channels; pictures have 1 or 3")
        restored = self.restore_tensor(batch, progress)[0]
        if colours.shape[0] == 1:
            restored = restored.mean(0, keepdim=True)
        elif self.channels == 1:
            chroma = (colours - _luma(colours)).permute(1, 2, 0).numpy()  # differences to the luma, whose own luma is 0
            restored = restored + torch.from_numpy(enlarged(chroma, self.scale) if self.scale > 1 else chroma).permute(2, 0, 1)
        clamped = restored.clamp(0, 1).permute(1, 2, 0)
        if image.dtype == np.float32:
            return clamped.numpy()
        pixels = (clamped * np.iinfo(image.dtype).max).round().numpy().astype(image.dtype)
        if channels == 4:
            alpha = image[:, :, 3:]
            pixels = np.concatenate([pixels, upscale(alpha, self.scale) if self.scale > 1 else alpha], axis=2)
        return pixels

    @torch.inference_mode()
    def restore_tensor(self, batch: Tensor, progress: Callable[[Progress], None] | None = None) -> Tensor:
        """Return the restored batch (b, c, scale*h, scale*w) on the CPU, float32, not clamped; ``batch`` is (b, c, h, w) in [0, 1]."""
        longest = max(batch.shape[-2:])
        if self.tile_mode == "official":
            try:
                restored = official_tiled(self._network, batch, self.scale, device=self.device, progress=progress)
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError("not enough memory for the tiles of the published program; use --tile_mode blend") from error
        else:
            tile = self.tile
            if tile is None:
                tile = longest if batch.shape[-2] * batch.shape[-1] <= AUTOMATIC_TILE**2 else AUTOMATIC_TILE
            tile = tile or longest
            overlap = tile // 8 if self.overlap is None else min(self.overlap, tile - 1)
            restored = tiled(self._network, batch, self.scale, tile, overlap, device=self.device, progress=progress)
        if not torch.isfinite(restored).all():
            raise UserError("the network gave values that are no numbers; its weights may be damaged, or need --precision fp32")
        return restored

    def _run(self, batch: Tensor) -> Tensor:
        if self._dtype is None:
            return self._folded(batch)
        with torch.autocast(self.device.type, self._dtype):
            return self._folded(batch).float()


def _luma(colours: Tensor) -> Tensor:
    """(1 or 3, h, w) -> (1, h, w); gray is its own."""
    if colours.shape[0] == 1:
        return colours
    return (colours * colours.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
