"""What the measures measure, on networks whose answer is known."""

import pytest
import torch
from torch import nn

from eqmambair.analysis.complexity import SCAN_MACS_PER_STATE, complexity
from eqmambair.analysis.equivariance import equivariance_error, equivariance_maps
from eqmambair.errors import UserError
from eqmambair.ops import selective_scan


class Shift(nn.Module):
    """Moves the picture one pixel to the right: turns do not commute with it."""

    def forward(self, x):
        return torch.roll(x, 1, -1)


class Logits(nn.Module):
    """One number an image: the mean, or a corner pixel."""

    def __init__(self, corner):
        super().__init__()
        self.corner = corner

    def forward(self, x):
        return x[:, :, 0, 0] if self.corner else x.mean((2, 3))


class Scan(nn.Module):
    """A bare scan with 3 states."""

    def forward(self, x):
        u = x.flatten(2).transpose(1, 2)[:, :, None]
        B = torch.ones(*u.shape[:3], 3)
        return selective_scan(u, u, -torch.ones(1, u.shape[-1], 3), B, B)


def test_identity_commutes_with_everything():
    error = equivariance_error(nn.Identity(), torch.rand(2, 3, 5, 7), "d4")
    assert error["nmse"] == error["max_abs"] == 0
    assert list(error["elements"]) == ["rot90", "rot180", "rot270", "mirror", "rot90 mirror", "rot180 mirror", "rot270 mirror"]


def test_error_is_the_squared_difference_over_the_energy():
    x = torch.rand(1, 1, 4, 4)
    expected = (Shift()(x.rot90(2, (2, 3))) - Shift()(x).rot90(2, (2, 3))).square().sum() / x.square().sum()
    assert equivariance_error(Shift(), x, "c2")["nmse"] == pytest.approx(expected.item(), rel=1e-6)


def test_outputs_without_pixels_must_not_change():
    x = torch.rand(2, 3, 6, 6)
    assert equivariance_error(Logits(corner=False), x, "c4")["nmse"] < 1e-12
    assert equivariance_error(Logits(corner=True), x, "c4")["nmse"] > 1e-3


def test_mode_is_restored():
    network = nn.Dropout(0.5).train()
    assert equivariance_error(network, torch.rand(1, 1, 4, 4), "c4")["nmse"] == 0
    assert network.training


def test_dense_and_scan_work_are_counted():
    conv = complexity(nn.Conv2d(3, 8, 3, padding=1), torch.rand(1, 3, 10, 12))
    assert (conv.parameters, conv.dense_macs, conv.activations) == (8 * 27 + 8, 10 * 12 * 8 * 27, 10 * 12 * 8)
    linear = complexity(nn.Linear(6, 5), torch.rand(1, 7, 6))
    assert (linear.dense_macs, linear.activations) == (7 * 30, 35)
    scan = complexity(Scan(), torch.rand(2, 4, 3, 5))
    assert (scan.dense_macs, scan.scan_macs) == (0, SCAN_MACS_PER_STATE * 2 * 15 * 4 * 3)


def test_maps_show_where_turns_do_not_commute():
    """A network that brightens the upper left pixel: every turn brightens another corner, and the maps are upright."""

    class Corner(nn.Module):
        def forward(self, x):
            y = x.clone()
            y[:, :, 0, 0] += 1
            return y

    x = torch.rand(1, 3, 5, 5)
    output, maps = equivariance_maps(Corner(), x, "c4")
    assert output[0, 0, 0, 0] == x[0, 0, 0, 0] + 1
    corners = {"rot90": (0, 4), "rot180": (4, 4), "rot270": (4, 0)}
    for name, corner in corners.items():
        expected = torch.zeros(5, 5, dtype=torch.float64)
        expected[0, 0] = expected[corner] = 1
        torch.testing.assert_close(maps[name], expected, atol=1e-6, rtol=0)


def test_maps_and_errors_agree():
    x = torch.rand(1, 2, 4, 6)
    y, maps = equivariance_maps(Shift(), x, "d4")
    for name, error in equivariance_error(Shift(), x, "d4")["elements"].items():
        assert (maps[name].square().sum() * 2 / y.double().square().sum()).item() == pytest.approx(error["nmse"], rel=1e-6)


def test_maps_need_pixels():
    with pytest.raises(UserError, match="gives no picture, its output has shape"):
        equivariance_maps(Logits(corner=True), torch.rand(1, 3, 4, 4))
