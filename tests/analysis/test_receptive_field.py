"""Effective receptive fields on networks whose answer is known."""

import pytest
import torch
from torch import nn

from eqmambair.analysis.receptive_field import centred_squares, effective_receptive_field
from eqmambair.errors import UserError


def convolution(weight, scale=1):
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    network.weight.data = torch.tensor(weight).view(1, 1, 3, 3)
    return nn.Sequential(nn.Upsample(scale_factor=scale), network) if scale > 1 else network


WEIGHT = [[1.0, 0.0, -2.0], [0.0, 5.0, 0.0], [3.0, 0.0, -1.0]]


def test_field_of_a_convolution_is_its_filter_around_the_centre():
    images = [torch.rand(1, 1, 8, 10) for _ in range(2)]
    field, used, left_out = effective_receptive_field(convolution(WEIGHT), images)
    assert (used, left_out) == (2, 0)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    torch.testing.assert_close(field[3:6, 4:7], weight.clamp(min=0))
    assert field.sum() == weight.clamp(min=0).sum()
    absolute, _, _ = effective_receptive_field(convolution(WEIGHT), images, sign="absolute")
    torch.testing.assert_close(absolute[3:6, 4:7], weight.abs())


def test_centre_of_an_enlarged_output_is_the_centre_of_the_input():
    field, _, _ = effective_receptive_field(nn.Upsample(scale_factor=3), [torch.rand(1, 3, 7, 9)])
    assert field.nonzero().tolist() == [[3, 4]]
    assert field.sum() == 3  # channels


def test_squares_hold_their_shares():
    field = torch.zeros(12, 20)
    field[6, 10] = 50
    field[5:8, 9:12] += 40 / 9
    field[:, :] += 10 / field.numel()
    squares = centred_squares(field, (0.5, 0.9, 1.0))
    assert [square.side for square in squares] == [1, 3, 21]
    assert squares[0].area_ratio == 1 / 240
    assert squares[1].area_ratio == 9 / 240
    assert (squares[2].area_ratio, squares[2].side_ratio) == (1, 1)
    assert squares[1].side_ratio == 3 / 12


def test_uniform_field_needs_the_area_that_it_is_asked_for():
    (half,) = centred_squares(torch.ones(101, 101), (0.5,))
    assert half.area_ratio == pytest.approx(0.5, abs=0.03)  # a ring more is 2.8% of the area


class NoNumber(nn.Module):
    """Its gradient is no number for pictures that hold a one."""

    def forward(self, x):
        return (1 - x).sqrt() * 0 if float(x.detach().max()) == 1 else x


def test_pictures_without_numbers_are_left_out():
    good, bad = torch.rand(1, 1, 4, 4) * 0.9, torch.ones(1, 1, 4, 4)
    field, used, left_out = effective_receptive_field(NoNumber(), [good, bad])
    assert (used, left_out) == (1, 1)
    assert torch.isfinite(field).all()
    with pytest.raises(UserError, match="that are numbers"):
        effective_receptive_field(NoNumber(), [bad])


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match="no picture"):
        effective_receptive_field(nn.Identity(), [])
    with pytest.raises(UserError, match="one size"):
        effective_receptive_field(nn.Identity(), [torch.rand(1, 1, 4, 4), torch.rand(1, 1, 5, 4)])
    with pytest.raises(UserError, match="needs pixels"):
        effective_receptive_field(nn.Flatten(), [torch.rand(1, 1, 4, 4)])
    with pytest.raises(UserError, match="depends on no"):
        centred_squares(torch.zeros(4, 4))
    with pytest.raises(UserError, match="between 0 and 1"):
        centred_squares(torch.ones(4, 4), (1.5,))
