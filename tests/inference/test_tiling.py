"""Tiles: no seams, no dependence on the grid beyond the overlap, equivariance kept, and the published program repeated."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import eqmambair
from eqmambair.errors import UserError
from eqmambair.inference.tiling import official_tiled, self_ensemble, tile_starts, tiled, window
from tests.golden import GoldenCase


class Blur(nn.Module):
    """Nearest-neighbour enlargement and a mean over the neighbours within `reach`: a network of known reach."""

    def __init__(self, scale=2, reach=3):
        super().__init__()
        self.scale, self.reach = scale, reach

    def forward(self, x):
        side = 2 * self.reach + 1
        x = F.avg_pool2d(x, side, 1, self.reach, count_include_pad=False)
        return F.interpolate(x, scale_factor=self.scale)


def enlarge(scale):
    return lambda x: x.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


sides = st.integers(1, 60)
tiles = st.integers(1, 40).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@given(length=sides, tile_and_overlap=tiles)
def test_tiles_cover_the_side_symmetrically(length, tile_and_overlap):
    tile, overlap = tile_and_overlap
    starts = tile_starts(length, tile, overlap)
    side = min(tile, length)
    assert starts[0] == 0
    assert starts[-1] + side == length
    assert starts == [length - side - start for start in reversed(starts)]
    for before, after in pairwise(starts):
        assert before < after
        assert before + tile - after >= overlap


@given(length=st.integers(1, 50), data=st.data())
def test_window_weights_are_positive_and_mirrored(length, data):
    before, after = data.draw(st.integers(0, length)), data.draw(st.integers(0, length))
    weights = window(length, before, after)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    torch.testing.assert_close(weights, window(length, after, before).flip(0), rtol=0, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, tile_and_overlap=tiles, scale=st.sampled_from([1, 2, 3]))
def test_a_network_without_neighbours_is_exact_to_the_last_bit(height, width, tile_and_overlap, scale):
    image = torch.rand(1, 3, height, width)
    assert torch.equal(tiled(enlarge(scale), image, scale, *tile_and_overlap), enlarge(scale)(image))


@pytest.mark.parametrize("overlap", [0, 1, 8, 15])
def test_a_constant_image_stays_constant(overlap):
    result = tiled(Blur(), torch.full((1, 3, 50, 37), 0.7), 2, 16, overlap)
    assert (result - 0.7).abs().max() < 1e-6


def test_with_an_overlap_beyond_the_reach_the_error_is_small_and_shrinks():
    torch.manual_seed(1)
    image = torch.rand(1, 3, 96, 96)
    whole = Blur(reach=2)(image)
    errors = [(tiled(Blur(reach=2), image, 2, 24, overlap) - whole).abs().max().item() for overlap in (0, 4, 8, 16)]
    assert errors[0] > 0.05  # the control: without overlap the borders of the tiles show
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.01


@pytest.mark.parametrize("size", [(50, 50), (41, 67), (17, 64)])
def test_tiling_keeps_an_equivariant_network_equivariant(size):
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    run = lambda x: tiled(Blur(), x, 2, 16, 5)  # noqa: E731
    for turns in range(4):
        torch.testing.assert_close(
            run(torch.rot90(image, turns, (-2, -1))), torch.rot90(run(image), turns, (-2, -1)), rtol=0, atol=1e-6
        )  # weights are float32
    torch.testing.assert_close(run(image.flip(-1)), run(image).flip(-1), rtol=0, atol=1e-6)


def test_the_tiled_equivariant_network_commutes_with_turns():
    network = eqmambair.build_network(
        {"type": "EQMambaIR", "embed_dim": 32, "depths": [1], "d_state": 2, "mlp_ratio": 1.0, "upsampler": "pixelshuffledirect"}
    ).eval()
    image = torch.rand(1, 3, 21, 34)
    with torch.inference_mode():
        one = tiled(network, torch.rot90(image, 1, (-2, -1)), 2, 16, 4)
        two = torch.rot90(tiled(network, image, 2, 16, 4), 1, (-2, -1))
    assert ((one - two) ** 2).sum() / (two**2).sum() < 1e-10


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-3, 0), (8, 8), (8, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="tile"):
        tiled(enlarge(2), torch.rand(1, 3, 20, 20), 2, tile, overlap)


def test_a_network_of_another_scale_is_noticed():
    with pytest.raises(ValueError, match="not 3 times larger"):
        tiled(enlarge(2), torch.rand(1, 3, 20, 20), 3, 8, 2)


LACKS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    MemoryError(),
]


def greedy(limit, calls, lack=LACKS[0]):
    """A network that has memory for tiles of `limit` pixels a side."""

    def run(x):
        calls.append(max(x.shape[-2:]))
        if max(x.shape[-2:]) > limit:
            raise lack
        return enlarge(2)(x)

    return run


@pytest.mark.parametrize("lack", LACKS, ids=["gpu", "allocator", "python"])
def test_lack_of_memory_halves_the_tile_and_begins_again(lack):
    image, calls, seen = torch.rand(1, 3, 130, 90), [], []
    result = tiled(greedy(40, calls, lack), image, 2, 128, 16, progress=seen.append)
    assert torch.equal(result, enlarge(2)(image))
    assert calls[:2] == [128, 64]
    assert max(calls[2:]) <= 40
    assert seen[-1].tile == 32
    assert seen[-1].done == seen[-1].total


def test_a_torch_without_a_memory_error_of_its_own_will_do():
    """Older ones have it in torch.cuda only."""
    code = """
import torch
if hasattr(torch, "OutOfMemoryError"):
    del torch.OutOfMemoryError
from eqmambair.inference.tiling import is_out_of_memory
assert is_out_of_memory(torch.cuda.OutOfMemoryError("x"))
assert not is_out_of_memory(RuntimeError("x"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lack_of_memory_that_halving_does_not_mend_is_an_error():
    with pytest.raises(UserError, match="not enough memory"):
        tiled(greedy(1, []), torch.rand(1, 3, 100, 100), 2, 64, 8)


def test_other_errors_of_the_network_come_through():
    def broken(x):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        tiled(broken, torch.rand(1, 3, 20, 20), 2, 8, 2)


@pytest.mark.parametrize("system", ["eq_mambair/tiled_light_x2", "mambair/tiled_denoise_gray"])
def test_the_published_program_is_repeated(shared_dir, system):
    case = GoldenCase(shared_dir / "golden" / f"{system}.safetensors")
    network = eqmambair.build_network({"type": case.metadata["kind"].split()[0], **case.kwargs}).eval()
    eqmambair.load_weights(network, case.state)
    x = case.tensors["input/x"]
    with torch.inference_mode():
        whole, cut = network(x), official_tiled(network, x, network.upscale)
    for found, wanted in ((whole, case.tensors["output/y_whole"]), (cut, case.tensors["output/y"])):
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert (whole - cut).abs().max() > 1e-3 * whole.abs().max()  # the two differ, so the driver is really tested


@pytest.mark.parametrize("size", [(1, 1), (30, 199), (200, 10), (401, 205)])
def test_the_published_grid_is_exact_for_a_network_without_neighbours(size):
    image = torch.rand(1, 1, *size)
    assert torch.equal(official_tiled(enlarge(2), image, 2), enlarge(2)(image))


def test_self_ensemble_makes_any_network_equivariant():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    network = lambda x: F.pixel_shuffle(conv(x), 2)  # noqa: E731
    image = torch.rand(1, 1, 9, 13)
    turned = torch.rot90(image, 1, (-2, -1))
    with torch.inference_mode():
        assert (network(turned) - torch.rot90(network(image), 1, (-2, -1))).abs().max() > 1e-2
        ensemble = self_ensemble(network)
        torch.testing.assert_close(ensemble(turned), torch.rot90(ensemble(image), 1, (-2, -1)))
        torch.testing.assert_close(ensemble(image.flip(-1)), ensemble(image).flip(-1))
