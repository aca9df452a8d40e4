"""Group axioms, and that every table describes the same action."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqmambair.groups import Group, cross_scan_order, group

NAMES = ["c1", "c2", "c4", "d4"]
names = st.sampled_from(NAMES)
sizes = st.integers(1, 6)


def numbered(height: int, width: int) -> torch.Tensor:
    return torch.arange(height * width).view(height, width)


@given(names, sizes, sizes)
def test_acting_twice_is_acting_with_the_product(name, height, width):
    g, x = group(name), numbered(height, width)
    for a in g.elements:
        for b in g.elements:
            assert torch.equal(g.act(g.act(x, b), a), g.act(x, g.cayley[a, b]))


@given(names, sizes, sizes)
def test_the_inverse_undoes_the_action(name, height, width):
    g, x = group(name), numbered(height, width)
    for a in g.elements:
        assert torch.equal(g.act(g.act(x, a), g.inverse(a)), x)


def test_elements_of_a_group_act_differently():
    x = numbered(2, 3)
    for name in NAMES:
        g = group(name)
        assert len({tuple(map(tuple, g.act(x, a).tolist())) for a in g.elements}) == g.order


@given(names, sizes, sizes)
def test_the_action_on_fields_is_a_representation(name, height, width):
    g = group(name)
    x = torch.arange(2 * g.order * height * width).view(1, 2 * g.order, height, width)
    for a in g.elements:
        for b in g.elements:
            assert torch.equal(g.act_field(g.act_field(x, b), a), g.act_field(x, g.cayley[a, b]))


def test_turn_one_is_counter_clockwise_and_raises_the_orientation():
    c4 = group("c4")
    x = torch.randn(1, 8, 3, 5)  # two fields, orientation slowest
    turned = c4.act_field(x, 1).view(1, 4, 2, 5, 3)
    assert torch.equal(turned[:, 1], torch.rot90(x.view(1, 4, 2, 3, 5)[:, 0], 1, (-2, -1)))
    assert torch.equal(c4.act(numbered(2, 2), 1), torch.tensor([[1, 3], [0, 2]]))


@given(names, sizes, sizes)
def test_scan_paths_are_permutations_that_move_with_the_group(name, height, width):
    g = group(name)
    order = g.scan_order(height, width)
    tokens = torch.arange(height * width, dtype=order.dtype)
    assert torch.equal(order.sort(dim=1).values, tokens.expand(g.order, -1))
    x = torch.randn(g.order, height, width).unsqueeze(0)  # one field
    sequences = x.flatten(2)[0].gather(1, order.long())
    for a in g.elements:
        moved = g.act_field(x, a)
        moved_order = g.scan_order(*moved.shape[-2:])
        moved_sequences = moved.flatten(2)[0].gather(1, moved_order.long())
        for t in g.elements:
            assert torch.equal(moved_sequences[g.product(a, t)], sequences[t])


def test_plain_cross_scan_does_not_move_with_quarter_turns():
    x = torch.randn(4, 5)
    paths = {tuple(sequence.tolist()) for sequence in x.flatten()[cross_scan_order(4, 5).long()]}
    turned = {tuple(sequence.tolist()) for sequence in torch.rot90(x).flatten()[cross_scan_order(5, 4).long()]}
    assert paths != turned


@given(sizes, sizes)
def test_plain_cross_scan_walks_rows_and_columns_both_ways(height, width):
    order, grid = cross_scan_order(height, width), numbered(height, width)
    assert order[0].tolist() == grid.flatten().tolist()
    assert order[1].tolist() == grid.t().flatten().tolist()
    assert torch.equal(order[2:], order[:2].flip(-1))


@given(names, sizes, sizes)
def test_orbits_hold_one_representative(name, height, width):
    g = group(name)
    orbit = g.orbit(height, width)
    for a in g.elements:
        moved = g.act(orbit, a)
        if moved.shape == orbit.shape:
            assert torch.equal(moved, orbit)


def test_unknown_groups_are_refused_by_name():
    with pytest.raises(ValueError, match="c3"):
        Group("c3")
