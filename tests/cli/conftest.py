"""Small untrained networks in weight files, for commands that need one."""

import pytest
import torch

import eqmambair
from eqmambair.checkpoints import save_weights

_SMALL = {"embed_dim": 32, "depths": [1], "d_state": 2, "mlp_ratio": 1.0}


def _saved(folder, name, **options):
    torch.manual_seed(0)
    options = {**_SMALL, **options}
    network = eqmambair.build_network(options)
    path = folder / f"{name}.safetensors"
    save_weights(path, network.state_dict(), options)
    return path


@pytest.fixture(scope="session")
def weights_x2(tmp_path_factory):
    """Colour, x2, equivariant."""
    return _saved(tmp_path_factory.mktemp("w"), "x2", type="EQMambaIR", upsampler="pixelshuffledirect", upscale=2)


@pytest.fixture(scope="session")
def weights_x3(tmp_path_factory):
    """Colour, x3, not equivariant."""
    return _saved(tmp_path_factory.mktemp("w"), "x3", type="MambaIR", upsampler="pixelshuffledirect", upscale=3)


@pytest.fixture(scope="session")
def weights_gray(tmp_path_factory):
    """One channel, same size."""
    return _saved(tmp_path_factory.mktemp("w"), "gray", type="MambaIR", upsampler="", in_chans=1)


@pytest.fixture(scope="session")
def weights_gray_x3(tmp_path_factory):
    """One channel, x3."""
    return _saved(tmp_path_factory.mktemp("w"), "gray_x3", type="MambaIR", upsampler="pixelshuffledirect", upscale=3, in_chans=1)
