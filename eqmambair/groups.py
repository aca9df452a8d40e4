"""Finite groups acting on the pixel grid. Both conventions stand here and nowhere else: which way a turn goes, which way a path walks.

A group element is a quarter turn ``r`` taken ``turns`` times after an optional mirror image ``m``: ``g = r^turns m^mirror``. It acts on the
last two axes of a tensor by a permutation of the pixels, so the action is exact. ``r`` is counter-clockwise on screen (row 0 on top),
``torch.rot90(x, 1, (-2, -1))``; ``m`` exchanges left and right.

Feature maps carry the regular representation: (b, t*c, h, w) with the orientation slowest (channel = t*c_fields + c), on which g moves the
pixels and permutes the blocks, ``(g.x)_t = g . x_{g^-1 t}``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GroupName = Literal["c1", "c2", "c4", "d4"]

#: (turns, mirror) of every element, the identity first.
_ELEMENTS: dict[str, tuple[tuple[int, bool], ...]] = {
    "c1": ((0, False),),
    "c2": ((0, False), (2, False)),
    "c4": tuple((turns, False) for turns in range(4)),
    "d4": tuple((turns, mirror) for mirror in (False, True) for turns in range(4)),
}


@dataclass(frozen=True)
class Group:
    """A finite group of turns and mirror images, as its elements' names; every table follows from them.

    Args:
        name: ``c1`` (trivial), ``c2`` (half turns), ``c4`` (quarter turns) or ``d4`` (quarter turns and mirror images).

    Raises:
        ValueError: for any other name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _ELEMENTS:
            raise ValueError(f"group: {self.name!r} is not known; choose one of {', '.join(_ELEMENTS)}")

    @property
    def order(self) -> int:
        """The number of elements, T."""
        return len(_ELEMENTS[self.name])

    @property
    def elements(self) -> range:
        """The elements, by number; 0 is the identity."""
        return range(self.order)

    @property
    def cayley(self) -> Tensor:
        """The multiplication table, (t, t), int64: ``cayley[a, b]`` is the number of the element ab (b acts first)."""
        return torch.tensor([[self.product(a, b) for b in self.elements] for a in self.elements])

    def product(self, a: int, b: int) -> int:
        """The element ab, which acts as b does and then as a does."""
        (turns_a, mirror_a), (turns_b, mirror_b) = _ELEMENTS[self.name][a], _ELEMENTS[self.name][b]
        turns = (turns_a - turns_b if mirror_a else turns_a + turns_b) % 4  # m r = r^-1 m
        return _ELEMENTS[self.name].index((turns, mirror_a != mirror_b))

    def inverse(self, g: int) -> int:
        """The element that undoes g."""
        return next(a for a in self.elements if self.product(g, a) == 0)

    @property
    def relative(self) -> Tensor:
        """``relative[t, s]`` is t^-1 s, (t, t), int64: orientation s as orientation t sees it, which is all that a filter may depend on."""
        return torch.tensor([[self.product(self.inverse(t), s) for s in self.elements] for t in self.elements])

    @property
    def representations(self) -> tuple[int, ...]:
        """Rows that each real irreducible representation has in `characters`: 1, 2 (the turns of the plane) or 4 (with mirror images)."""
        return {"c1": (1,), "c2": (1, 1), "c4": (1, 1, 2), "d4": (1, 1, 1, 1, 4)}[self.name]

    @property
    def characters(self) -> Tensor:
        """The real Fourier transform on the group, (t, t): the entries, by rows, of each irreducible representation's matrices.

        First the one-dimensional ones, then how an element moves the plane: for c4 one row of its matrix, which tells the other, for d4
        both.
        """
        columns = []
        for turns, mirror in _ELEMENTS[self.name]:
            quarter, half, flip = (-1.0) ** turns, (-1.0) ** (turns // 2), (-1.0) ** mirror
            cosine, sine = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][turns]
            first, second = [cosine * flip, -sine], [sine * flip, cosine]
            columns.append(
                {
                    "c1": [1.0],
                    "c2": [1.0, half],
                    "c4": [1.0, quarter, *first],
                    "d4": [1.0, quarter, flip, quarter * flip, *first, *second],
                }[self.name]
            )
        return torch.tensor(columns).T.contiguous()

    def element_name(self, g: int) -> str:
        """What g does, for tables: ``rot90``, ``mirror``, ``rot90 mirror`` ..."""
        turns, mirror = _ELEMENTS[self.name][g]
        words = ([f"rot{90 * turns}"] if turns else []) + (["mirror"] if mirror else [])
        return " ".join(words) or "identity"

    def exchanges_sides(self, g: int) -> bool:
        """Whether g turns (h, w) into (w, h)."""
        return _ELEMENTS[self.name][g][0] % 2 == 1

    def corner(self, g: int) -> tuple[int, int]:
        """Where g takes the top left corner of a grid: (row, column), each 0 for the first and 1 for the last."""
        turns, mirror = _ELEMENTS[self.name][g]
        row, column = 0, int(mirror)
        for _ in range(turns):
            row, column = 1 - column, row
        return row, column

    def act(self, x: Tensor, g: int) -> Tensor:
        """Move the pixels of x by g.

        Args:
            x: an image or any stack of maps, (..., h, w).
            g: number of the element.

        Returns:
            (..., h, w), or (..., w, h) after an odd number of quarter turns.
        """
        turns, mirror = _ELEMENTS[self.name][g]
        return torch.rot90(x.flip(-1) if mirror else x, turns, (-2, -1))

    def act_field(self, x: Tensor, g: int) -> Tensor:
        """Transform a feature map by g: pixels move and orientations are permuted, ``(g.x)_t = g . x_{g^-1 t}``.

        Args:
            x: all fields, (b, t*c, h, w), orientation slowest.
            g: number of the element.

        Returns:
            The transformed feature map, (b, t*c, h, w) or (b, t*c, w, h).
        """
        source = [self.product(self.inverse(g), t) for t in self.elements]
        blocks = x.unflatten(1, (self.order, -1))[:, source]
        return self.act(blocks, g).flatten(1, 2)

    def scan_order(self, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
        """The scan path of every orientation: path t is the row-major walk over the map turned back by t.

        With these paths the sequence of orientation ``g t`` of a transformed map is the sequence of orientation ``t`` of the map, so scans
        with shared parameters commute with the group. Source: arXiv 2603.09138, EQ cross-scan.

        Args:
            height, width: size of the pixel grid.
            device: where the result lives.

        Returns:
            Token visited at each step, (t, h*w), int32; tokens are pixels by rows.
        """
        pixels = torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)
        return torch.stack([self.act(pixels, self.inverse(t)).reshape(-1) for t in self.elements])

    def orbit(self, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
        """One representative for every pixel's orbit under those elements that keep the grid's shape.

        Args:
            height, width: size of the pixel grid.
            device: where the result lives.

        Returns:
            (h, w), int64: pixels that some element exchanges hold the same token number, the smallest of their orbit.
        """
        pixels = torch.arange(height * width, device=device).view(height, width)
        images = [self.act(pixels, g) for g in self.elements]
        return torch.stack([image for image in images if image.shape == pixels.shape]).amin(0)


@functools.cache
def group(name: GroupName | Group) -> Group:
    """Look up a group: ``group('c4')`` is always the same object; a ``Group`` is passed through.

    Raises:
        ValueError: if the name is not ``c1``, ``c2``, ``c4`` or ``d4``.
    """
    return name if isinstance(name, Group) else Group(name)


#: (height, width, device) -> order (g, l): how a network asks for its scan paths.
ScanPaths = Callable[[int, int, torch.device], Tensor]


def cross_scan_order(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """The four paths of the plain cross-scan: rows, columns (each top to bottom), and both walked backwards.

    Closed under transposition and half turns, not under quarter turns. Source: VMamba (arXiv 2401.10166), section 4.2; MambaIR
    (arXiv 2402.15648), 2D-SSM.

    Args:
        height, width: size of the pixel grid.
        device: where the result lives.

    Returns:
        Token visited at each step, (4, h*w), int32.
    """
    pixels = torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)
    forwards = torch.stack([pixels.reshape(-1), pixels.t().reshape(-1)])
    return torch.cat([forwards, forwards.flip(-1)])
