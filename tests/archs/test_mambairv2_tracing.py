"""MambaIRv2 under torch.compile and torch.export: decisions, windows and frames without a break in the graph."""

import pytest
import torch

from eqmambair import build_network

TINY = {"embed_dim": 8, "depths": [1], "num_heads": [4], "d_state": 2, "window_size": 4, "inner_rank": 2, "num_tokens": 3, "mlp_ratio": 1}


def tiny(name):
    return build_network({"type": "MambaIRv2Light", **TINY, "group": name, "upscale": 2}).eval()


@pytest.mark.parametrize(("name", "dynamic", "shapes"), [("c1", True, [(2, 3, 12, 10), (3, 3, 9, 7)]), ("c4", False, [(2, 3, 6, 5)])])
def test_compiles_in_one_graph(name, dynamic, shapes):
    network = tiny(name)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=dynamic)
    with torch.no_grad():
        for shape in shapes:
            image = torch.rand(shape)
            torch.testing.assert_close(compiled(image), network(image))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c1", "c4"])
def test_exported_program_serves_every_size_above_a_window(name):
    network = tiny(name)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(network, (torch.rand(2, 3, 12, 10),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    with torch.no_grad():
        for shape in [(2, 3, 12, 10), (3, 3, 9, 7), (1, 3, 5, 16), (1, 3, 12, 12)]:
            image = torch.rand(shape)
            torch.testing.assert_close(program(image), network(image))
