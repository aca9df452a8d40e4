"""Run a network over an image in tiles, so that memory depends on the tile and not on the image.

Two drivers: `tiled` blends overlapping tiles and has no seams; `official_tiled` repeats the published test program, whose numbers are in
the papers, seams included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from eqmambair.errors import UserError

Network = Callable[[Tensor], Tensor]

_GPU_MEMORY_ERROR: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # the first is new in torch 2.5
MEMORY_ERRORS = (RuntimeError, MemoryError)  # what lack of memory may be raised as; `is_out_of_memory` tells it from other errors
SMALLEST_TILE = 16  # pixels a side; below it the halving on lack of memory gives up
OFFICIAL_SIDE = 200  # pixels; the published program cuts a side into side // 200 + 1 parts


@dataclass(frozen=True)
class Progress:
    """How far a run is: tile ``done`` of ``total``, each of ``tile`` pixels a side (smaller than asked after lack of memory)."""

    done: int
    total: int
    tile: int


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where the tiles of a side begin: evenly spread, at least ``overlap`` pixels shared, mirror-symmetric about the centre.

    Symmetry keeps an equivariant network equivariant when tiled: the tiles of the turned image are the turned tiles. Where the smallest
    sufficient number of tiles cannot be placed so on whole pixels, more are used.
    """
    if length <= tile:
        return [0]
    room = length - tile
    for count in range(math.ceil((length - overlap) / (tile - overlap)), room + 2):
        half = [(2 * index * room + count - 1) // (2 * count - 2) for index in range(count // 2)]  # rounded
        middle = [room // 2] if count % 2 else []
        starts = [*half, *middle, *(room - start for start in reversed(half))]
        if count % 2 and room % 2:
            continue
        if all(0 < after - before <= tile - overlap for before, after in pairwise(starts)):
            return starts
    raise AssertionError("a tile at every pixel is always possible")


def window(length: int, before: int, after: int) -> Tensor:
    """Return the weights of a tile's pixels along one side: 1, falling towards the neighbours' sides, above 0 everywhere.

    Args:
        length: pixels of the tile.
        before: pixels shared with the tile before it; 0 at the border of the image.
        after: pixels shared with the tile behind it.
    """
    weights = torch.ones(length, dtype=torch.float64)
    weights[:before] *= _rise(before)
    weights[length - after :] *= _rise(after).flip(0)
    return weights


def _rise(length: int) -> Tensor:
    """Return ``length`` values that rise smoothly between 0 and 1, both left out."""
    return torch.sin(math.pi / 2 * (torch.arange(length, dtype=torch.float64) + 0.5) / max(length, 1)) ** 2


def tiled(
    network: Network,
    image: Tensor,
    scale: int,
    tile: int,
    overlap: int,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Return ``network(image)`` computed in square tiles and blended where they overlap.

    A pixel is the mean of the tiles that cover it, weighted by `window`. The mean is kept by lerping, so that tiles that agree give their
    value to the last bit: a constant stays constant, and a network that looks at no neighbours gives what it gives untiled. When memory
    runs out, the tile is halved and the image begun again.

    Args:
        network: (b, c, h, w) to (b, c', scale*h, scale*w) for any h, w >= 1.
        image: (b, c, h, w).
        scale: output pixels per input pixel and side.
        tile: side of a tile in input pixels; a side of the image that is shorter is not cut.
        overlap: input pixels that neighbours share at least; less than ``tile``.
        device: where the network runs; the image and the result stay where the image is. None: the image's.
        progress: called after each tile.

    Raises:
        ValueError: for a tile below 1, an overlap below 0 or not below the tile, or a network whose output is not ``scale`` times larger.
        UserError: memory runs out even with small tiles.
    """
    if tile < 1:
        raise ValueError(f"tile must be at least 1 pixel, not {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap must be at least 0 and less than the tile of {tile} pixels, not {overlap}")
    tile = min(tile, max(image.shape[-2:]))
    overlap = min(overlap, tile - 1)
    while True:
        try:
            return _blend(network, image, scale, tile, overlap, device, progress)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if tile // 2 < SMALLEST_TILE:
                raise UserError(f"not enough memory, even for tiles of {tile} pixels") from error
        # outside the handler, where the error no longer holds on to the tensors of the failed attempt
        tile, overlap = tile // 2, overlap // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the CPU."""
    said = ("can't allocate memory", "Insufficient memory")  # torch on a CPU, OpenCV
    return isinstance(error, (_GPU_MEMORY_ERROR, MemoryError)) or any(each in str(error) for each in said)


def _blend(
    network: Network,
    image: Tensor,
    scale: int,
    tile: int,
    overlap: int,
    device: torch.device | str | None,
    progress: Callable[[Progress], None] | None,
) -> Tensor:
    height, width = image.shape[-2:]
    tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    rows, columns = _windows(tops, min(tile, height), scale), _windows(lefts, min(tile, width), scale)
    mean: Tensor | None = None
    total = torch.zeros(height * scale, width * scale, dtype=torch.float32, device=image.device)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            piece = image[..., top : top + tile, left : left + tile]
            wanted = (piece.shape[-2] * scale, piece.shape[-1] * scale)
            result = network(piece.to(device)).to(image.device)
            if result.shape[-2:] != wanted:
                raise ValueError(
                    f"the network made {tuple(result.shape[-2:])} of {tuple(piece.shape[-2:])}, which is not {scale} times larger"
                )
            if mean is None:
                mean = result.new_zeros(*result.shape[:-2], height * scale, width * scale)
            place = (..., slice(top * scale, top * scale + wanted[0]), slice(left * scale, left * scale + wanted[1]))
            weight = (rows[row][:, None] * columns[column]).to(total)
            total[place] += weight
            mean[place] += (weight / total[place]).to(mean) * (result - mean[place])
            if progress is not None:
                progress(Progress(row * len(lefts) + column + 1, len(tops) * len(lefts), tile))
    assert mean is not None  # there is at least one tile
    return mean


def _windows(starts: list[int], tile: int, scale: int) -> list[Tensor]:
    """Return each tile's weights along one side, in output pixels."""
    shared = [before + tile - after for before, after in pairwise(starts)]
    return [window(tile * scale, before * scale, after * scale) for before, after in zip([0, *shared], [*shared, 0], strict=True)]


def official_tiled(
    network: Network,
    image: Tensor,
    scale: int,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Return ``network(image)`` as the published test program computes it: tiles of about 200 pixels put side by side.

    The image is padded by reflection below and at the right to a multiple of the number of tiles; each tile is enlarged by a tenth at its
    inner sides, and what the enlargement gives is thrown away. Not equivariant where padding is needed, and with faint seams.
    Source: EQ-MambaIR and MambaIR, official test programs.
    """
    height, width = image.shape[-2:]
    count_h, count_w = height // OFFICIAL_SIDE + 1, width // OFFICIAL_SIDE + 1
    padded = F.pad(image, (0, -width % count_w, 0, -height % count_h), mode="reflect")
    tile_h, tile_w = padded.shape[-2] // count_h, padded.shape[-1] // count_w
    more_h, more_w = tile_h // 10, tile_w // 10
    rows = []
    for row in range(count_h):
        top, above = row * tile_h, more_h if row else 0
        below = more_h if row < count_h - 1 else 0
        pieces = []
        for column in range(count_w):
            left, before = column * tile_w, more_w if column else 0
            after = more_w if column < count_w - 1 else 0
            piece = padded[..., top - above : top + tile_h + below, left - before : left + tile_w + after]
            result = network(piece.to(device)).to(image.device)
            pieces.append(result[..., above * scale : (above + tile_h) * scale, before * scale : (before + tile_w) * scale])
            if progress is not None:
                progress(Progress(row * count_w + column + 1, count_h * count_w, max(piece.shape[-2:])))
        rows.append(torch.cat(pieces, -1))
    return torch.cat(rows, -2)[..., : height * scale, : width * scale]


def self_ensemble(network: Network) -> Network:
    """Return the mean of a network over the eight turned and mirrored forms of its input, each turned back."""

    def ensemble(image: Tensor) -> Tensor:
        total: Tensor | None = None
        for turns in range(4):
            for mirrored in (False, True):
                form = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
                result = torch.rot90(network(form.contiguous()), -turns, (-2, -1))
                result = result.flip(-1) if mirrored else result
                total = result if total is None else total + result
        assert total is not None
        return total / 8

    return ensemble
