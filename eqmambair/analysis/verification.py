"""Equivariance of several networks side by side, as the paper's verification table shows it: untrained, with working scans, trained.

Source: Rotation Equivariant Mamba for Vision Tasks (arXiv 2603.09138), section IV-E.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.groups import GroupName
from eqmambair.layers.convolution import DepthwiseGroupConv2d
from eqmambair.layers.scan2d import CrossScan2d, GroupScan2d

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Row:
    """What was measured on one network and one input.

    Attributes:
        network: its name.
        state: initial, warmed or trained.
        input: name of the input.
        errors: normalised mean squared error of each group element but the identity, by the element's name.
        max_abs: largest difference over all elements.
        largest: largest absolute value of the output.
    """

    network: str
    state: str
    input: str
    errors: dict[str, float]
    max_abs: float
    largest: float


@torch.no_grad()
def warmed(network: Network) -> Network:
    """The network with what feeds its selective scans drawn anew, in place, so that the recurrence carries a good part of the output.

    Freshly initialised networks hardly use their scans (the state's share is about 1e-6 of the skip's in EQ-VMamba), so that an error
    measured on them proves little. Depthwise filters get a standard deviation of 0.4, generators 2 / sqrt(inputs), step paths
    0.8 / sqrt(rank); step biases N(-0.7, 0.8), log-decays N(-0.3, 0.6), skips N(0.5, 0.5).
    """
    for module in network.modules():
        if isinstance(module, (CrossScan2d, GroupScan2d)):
            conv: Any = module.conv
            turns = conv.group.order if isinstance(conv, DepthwiseGroupConv2d) else 1
            # group layers hold sqrt(turns) times their filter, and a linear one reads turns * fields channels
            conv.weight.normal_(std=0.4 * turns**0.5)
            module.x_proj.weight.normal_(std=2 / (turns * module.D.shape[-1]) ** 0.5)
            step = module.dt_proj if isinstance(module, CrossScan2d) else module.dt_proj.weight
            step.normal_(std=0.8 / (turns * module.rank) ** 0.5)
            module.delta_bias.normal_(-0.7, 0.8)
            module.A_log.normal_(-0.3, 0.6)
            module.D.normal_(0.5, 0.5)
    return network


@torch.no_grad()
def measured(name: str, state: str, network: nn.Module, inputs: Mapping[str, Tensor], group: GroupName) -> Iterator[Row]:
    """One row an input.

    Args:
        name: of the network.
        state: initial, warmed or trained.
        network: images to images, maps or logits; see `equivariance_error`.
        inputs: images (b, c, h, w) by name.
        group: what it should commute with.
    """
    for title, x in inputs.items():
        found: dict[str, Any] = equivariance_error(network, x, group)
        errors = {element: error["nmse"] for element, error in found["elements"].items()}
        yield Row(name, state, title, errors, found["max_abs"], float(network.eval()(x).abs().max()))


def verification_table(rows: list[Row]) -> list[str]:
    """A line a row: errors of every element, and the largest difference over the largest output."""
    widths = [max(len(getattr(row, key)) for row in rows) for key in ("network", "state", "input")]
    elements = list(rows[0].errors)
    head = [f"{word:<{width}}" for word, width in zip(("network", "weights", "input"), widths, strict=True)]
    lines = ["  ".join([*head, *(f"{element:>15}" for element in elements), f"{'max |diff| / max':>16}"])]
    for row in rows:
        cells = [f"{value:<{width}}" for value, width in zip((row.network, row.state, row.input), widths, strict=True)]
        errors = [f"{row.errors[element]:>15.1e}" for element in elements]
        lines.append("  ".join([*cells, *errors, f"{row.max_abs / max(row.largest, 1e-30):>16.1e}"]))
    return lines
