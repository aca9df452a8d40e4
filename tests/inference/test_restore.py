"""The restorer as a Python object: what the command cannot show."""

import numpy as np
import pytest
import torch
from torch import nn

from eqmambair.errors import UserError
from eqmambair.inference import Restorer, Trained, find_device
from eqmambair.inference import restore as module


class Enlarge(nn.Module):
    """Nearest neighbours; counts its calls and the largest side it saw."""

    def __init__(self, scale=2, limit=None):
        super().__init__()
        self.scale, self.limit, self.sides = scale, limit, []

    def __deepcopy__(self, memo):  # folding copies networks; the test wants to see the calls of the copy
        return self

    def forward(self, x):
        self.sides.append(max(x.shape[-2:]))
        if self.limit is not None and max(x.shape[-2:]) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


def trained(network, channels=3):
    return Trained(network, network.scale, channels, {"type": "Enlarge"})


def picture(height, width, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_through_unchanged(dtype, channels):
    image = picture(20, 30, channels, dtype)
    np.testing.assert_array_equal(Restorer(trained(Enlarge()), tile=8)(image), image.repeat(2, 0).repeat(2, 1))


def test_large_pictures_are_tiled_by_themselves_and_small_ones_are_not():
    network = Enlarge()
    restore = Restorer(trained(network))
    restore(picture(256, 256))
    assert network.sides == [256]
    network.sides.clear()
    restore(picture(100, 600))  # fewer pixels than a tile
    assert network.sides == [600]
    network.sides.clear()
    restore(picture(300, 500))
    assert len(network.sides) > 1
    assert max(network.sides) <= module.AUTOMATIC_TILE


def test_lack_of_memory_makes_tiles_of_a_whole_picture():
    network = Enlarge(limit=64)
    image = picture(200, 150)
    np.testing.assert_array_equal(Restorer(trained(network), tile=0)(image), image.repeat(2, 0).repeat(2, 1))
    assert network.sides[0] == 200


@pytest.mark.parametrize("mode", ["blend", "official"])
def test_lack_of_memory_without_remedy_is_a_user_error(mode):
    with pytest.raises(UserError, match="not enough memory"):
        Restorer(trained(Enlarge(limit=2)), tile_mode=mode)(picture(40, 40))


def test_values_that_are_no_numbers_are_refused():
    class Broken(Enlarge):
        def forward(self, x):
            return super().forward(x) * float("nan")

    with pytest.raises(UserError, match="no numbers"):
        Restorer(trained(Broken()))(picture(4, 4))


def test_values_outside_the_range_are_clamped():
    class Strong(Enlarge):
        def forward(self, x):
            return super().forward(x) * 4 - 1

    found = Restorer(trained(Strong()))(picture(8, 8))
    wanted = np.clip(np.rint(picture(8, 8).astype(np.float64) * 4 - 255), 0, 255)
    np.testing.assert_array_equal(found[::2, ::2], wanted)


def test_a_network_for_other_channels_is_refused():
    with pytest.raises(UserError, match="6 channels"):
        Restorer(trained(Enlarge(), channels=6))(picture(4, 4))


def test_wrong_words_are_programming_errors():
    with pytest.raises(ValueError, match="precision"):
        Restorer(trained(Enlarge()), precision="fp8")
    with pytest.raises(ValueError, match="tile_mode"):
        Restorer(trained(Enlarge()), tile_mode="sharp")


def test_devices_are_found_or_refused_by_name():
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda")
    for name in ("toaster", "cuda:99", "meta", "hpu"):
        with pytest.raises(UserError, match=name):
            find_device(name)
    with pytest.raises(UserError, match="cannot be used"):
        find_device("")


@pytest.mark.cuda
def test_the_gpu_gives_what_the_cpu_gives():
    image = picture(40, 30)
    on_cpu = Restorer(trained(Enlarge()), tile=16)(image)
    np.testing.assert_array_equal(Restorer(trained(Enlarge()), device="cuda", tile=16)(image), on_cpu)
