"""Whole networks under torch.compile and torch.export, with free batch, height and width."""

import pytest
import torch

from eqmambair import build_network

SMALL = {"embed_dim": 32, "depths": [1], "d_state": 3, "mlp_ratio": 1.25, "upsampler": "pixelshuffledirect", "upscale": 2}
SHAPES = [(2, 3, 12, 10), (3, 3, 9, 7), (1, 3, 5, 16)]


@pytest.mark.parametrize("kind", ["EQMambaIR", "MambaIR"])
def test_one_graph_serves_every_size(kind):
    network = build_network({"type": kind, **SMALL}).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in SHAPES:
            image = torch.rand(shape)
            torch.testing.assert_close(compiled(image), network(image))


@pytest.mark.parametrize("kind", ["EQMambaIR", "MambaIR"])
def test_exported_program_serves_every_size(kind):
    network = build_network({"type": kind, **SMALL}).eval()
    sizes = {0: torch.export.Dim("b", max=64), 2: torch.export.Dim("h", max=4096), 3: torch.export.Dim("w", max=4096)}
    program = torch.export.export(network, (torch.rand(SHAPES[0]),), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for shape in SHAPES:
            image = torch.rand(shape)
            torch.testing.assert_close(program(image), network(image))
