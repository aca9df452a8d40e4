"""Feature maps in frames: they hold what group-major maps hold, and ordinary layers over them are the group layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqmambair.groups import group
from eqmambair.layers.convolution import GroupConv2d
from eqmambair.layers.frames import Framing, each, mirrored
from eqmambair.layers.linear import GroupLinear
from eqmambair.layers.window_attention import WindowAttention

CPU = torch.device("cpu")


def framing(name: str, height: int, width: int, multiple: int = 1) -> Framing:
    return Framing(group(name), height, width, multiple, CPU)


def to_frames(name: str, x: Tensor) -> tuple[Tensor, ...]:
    """A group-major map (b, t*c, h, w), each orientation turned back into its frame."""
    g = group(name)
    return tuple(g.act(part, g.inverse(t)) for t, part in enumerate(x.chunk(g.order, dim=1)))


def from_frames(name: str, frames: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([group(name).act(frame, t) for t, frame in enumerate(frames)], dim=1)


@pytest.mark.parametrize("name", ["c1", "c2", "c4", "d4"])
def test_linear_and_convolution_over_all_that_is_seen_are_the_group_layers(name):
    order = group(name).order
    x = torch.rand(2, order * 3, 5, 7, dtype=torch.float64)
    seen = framing(name, 5, 7).seen(to_frames(name, x))
    linear = GroupLinear(group(name), 3, 2).double()
    weight = linear.weight.permute(0, 2, 1).flatten(1)  # (m, t*n)
    got = from_frames(name, each(lambda v: torch.einsum("bnhw,mn->bmhw", v, weight) + linear.bias.view(-1, 1, 1), seen))
    torch.testing.assert_close(got, linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    conv = GroupConv2d(group(name), 3, 2).double()
    filters = conv.base_filter().transpose(1, 2).flatten(1, 2)  # (m, t*n, k, k)
    got = from_frames(name, each(lambda v: torch.nn.functional.conv2d(v, filters, conv.bias, padding=1), seen))
    torch.testing.assert_close(got, conv(x))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["c1", "c2", "c4", "d4"]), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_an_element_permutes_the_frames_and_nothing_else(name, height, width, multiple, seed):
    g = group(name)
    x = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed))
    frames = framing(name, height, width, multiple).split(x)
    assert all(max(frame.shape[2] % multiple, frame.shape[3] % multiple) == 0 for frame in frames)
    seen = framing(name, height, width, multiple).seen(frames)
    for a in g.elements:
        moved = g.act(x, a)
        there = framing(name, moved.shape[2], moved.shape[3], multiple)
        moved_frames = there.split(moved)
        for t in g.elements:
            source = g.product(g.inverse(a), t)
            assert torch.equal(moved_frames[t], frames[source])
            assert torch.equal(there.seen(moved_frames)[t], seen[source])
        assert torch.equal(there.merge(moved_frames), g.act(framing(name, height, width, multiple).merge(frames), a))


def test_merging_undoes_splitting():
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(framing("d4", 5, 7, 4).merge(framing("d4", 5, 7, 4).split(x)), x)


def test_scaled_frames_merge_to_scaled_images():
    x = torch.rand(1, 2, 3, 5)
    enlarged = each(lambda v: torch.nn.functional.interpolate(v, scale_factor=2), framing("c4", 3, 5, 4).split(x))
    torch.testing.assert_close(framing("c4", 3, 5, 4).scaled(2).merge(enlarged), torch.nn.functional.interpolate(x, scale_factor=2))


@pytest.mark.parametrize(("length", "padded"), [(1, 5), (3, 3), (3, 8), (4, 9)])
def test_mirrored_places(length, padded):
    there_and_back = [*range(length), *reversed(range(length))] * padded
    assert mirrored(length, padded, CPU).tolist() == there_and_back[:padded]


def test_a_pixel_reaches_its_window_and_no_other():
    for shifted in (False, True):
        attention = WindowAttention(4, 4, 2, 4, shifted=shifted)
        x = torch.rand(1, 4, 8, 12)
        changed = x.clone()
        changed[0, :, 5, 6] += 1
        with torch.no_grad():
            reached = (attention(x) - attention(changed)).abs().amax((0, 1)) > 0
        rows, columns = (slice(2, 6), slice(6, 10)) if shifted else (slice(4, 8), slice(4, 8))
        expected = torch.zeros(8, 12, dtype=torch.bool)
        expected[rows, columns] = True
        assert torch.equal(reached, expected)
