"""Figures of what was measured, drawn by matplotlib and returned as the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from eqmambair.analysis.attribution import Attribution, Box
from eqmambair.analysis.receptive_field import Square, centred_squares

_DPI = 120
_PANEL = 3.6  # inches a side


def attribution_picture(title: str, image: Tensor, output: Tensor, box: Box, found: Attribution) -> bytes:
    """The output with the square, the map over its largest value, and the map laid over the input.

    Args:
        title: of the figure.
        image: input, (1, c, h, w).
        output: of the network, (1, c, s*h, s*w).
        box: the square.
        found: what `local_attribution` returned.
    """
    shown = (found.map / found.map.max().clamp(min=1e-30)).numpy()
    figure, axes = _panels(title, 3, image.shape[-2] / image.shape[-1])
    _show(axes[0], output, f"output, square of {box.side} pixels")
    axes[0].add_patch(Rectangle((box.left - 0.5, box.top - 0.5), box.side, box.side, fill=False, edgecolor="red", linewidth=1.5))
    drawn = axes[1].imshow(shown**0.5, cmap="magma", vmin=0, vmax=1)
    _title(axes[1], f"attribution (square root), DI {found.diffusion_index:.2f}")
    _colorbar(figure, drawn, axes[1])
    _show(axes[2], image, "over the input")
    axes[2].imshow(np.dstack([np.ones_like(shown), np.zeros_like(shown), np.zeros_like(shown), shown**0.5]))  # red, as opaque as it counts
    scale = output.shape[-1] / image.shape[-1]
    corner = (box.left / scale - 0.5, box.top / scale - 0.5)
    axes[2].add_patch(Rectangle(corner, box.side / scale, box.side / scale, fill=False, edgecolor="cyan", linewidth=1.2))
    return _png(figure)


def receptive_field_picture(title: str, field: Tensor, squares: Sequence[Square]) -> bytes:
    """The fourth root of the map with the squares that hold the shares, and the share that squares of every size hold.

    Args:
        title: of the figure.
        field: (h, w).
        squares: from `centred_squares`.
    """
    shown = (field / field.max()).numpy() ** 0.25
    figure, axes = _panels(title, 2, field.shape[0] / field.shape[1])
    drawn = axes[0].imshow(shown, cmap="viridis", vmin=0, vmax=1)
    _colorbar(figure, drawn, axes[0])
    _title(axes[0], "gradient of the central pixel (fourth root)")
    row, column = field.shape[0] // 2, field.shape[1] // 2
    for square in squares:
        corner = (column - square.side / 2, row - square.side / 2)
        axes[0].add_patch(Rectangle(corner, square.side, square.side, fill=False, edgecolor="red", linewidth=1))
    axes[0].set_xlim(-0.5, field.shape[1] - 0.5)
    axes[0].set_ylim(field.shape[0] - 0.5, -0.5)
    shares = np.linspace(0.02, 1, 50)
    axes[1].plot([square.area_ratio for square in centred_squares(field, shares)], shares, color="black")
    for square in squares:
        axes[1].plot(square.area_ratio, square.share, "o", color="red")
        text = f"{square.share:.0%} in {square.area_ratio:.2%}"
        axes[1].annotate(text, (square.area_ratio, square.share), (-6, -10), textcoords="offset points", ha="right", fontsize=7)
    axes[1].set_xscale("log")
    axes[1].set_xlim(0.01 / field.numel(), 2)
    axes[1].set_ylim(0, 1.04)
    axes[1].set_xlabel("area of the square / area of the picture", fontsize=7)
    axes[1].grid(alpha=0.3)
    axes[1].set_box_aspect(1)
    _title(axes[1], "share of the gradient in centred squares")
    return _png(figure)


def equivariance_picture(title: str, output: Tensor, maps: Mapping[str, Tensor], errors: Mapping[str, Mapping[str, float]]) -> bytes:
    """The output, and a map of differences for each element, all in one colour scale of 8-bit steps.

    Args:
        title: of the figure.
        output: f(x), (1, c, h, w).
        maps: from `equivariance_maps`.
        errors: the entry ``elements`` of `equivariance_error`.
    """
    figure, axes = _panels(title, 1 + len(maps), output.shape[-2] / output.shape[-1])
    _show(axes[0], output, "f(x)")
    largest = max(float(each.max()) for each in maps.values()) * 255
    for axis, (name, values) in zip(axes[1:], maps.items(), strict=True):
        drawn = axis.imshow(values.cpu().numpy() * 255, cmap="magma", vmin=0, vmax=largest or 1)
        _title(axis, f"{name}: NMSE {errors[name]['nmse']:.1e}")
    _colorbar(figure, drawn, list(axes[1:]), 0.046 / len(maps), "difference, 8-bit steps")
    return _png(figure)


def _panels(title: str, count: int, aspect: float) -> tuple[Figure, Any]:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(_PANEL * columns, _PANEL * rows * max(min(aspect, 2), 0.5) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _show(axis: Any, image: Tensor, title: str) -> None:
    pixels: NDArray[Any] = image[0].detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    axis.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
    _title(axis, title)


def _colorbar(figure: Figure, drawn: Any, axes: Any, fraction: float = 0.046, label: str = "") -> None:
    bar = figure.colorbar(drawn, ax=axes, fraction=fraction)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7)


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, fontsize=8)
    axis.tick_params(labelsize=7)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
