"""Published weights of MambaIR, its U-shaped form and EQ-MambaIR give the published numbers, through the public functions."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from eqmambair import build_network, load_weights
from eqmambair.checkpoints.systems import find_layout
from tests.golden import GoldenCase, relative_error

FORMS = ["light_x2", "light_x3", "classic_x2", "classic_x4", "denoise_gray", "denoise_color_3conv_range255"]
CASES = [f"{system}/{name}" for system in ("eq_mambair", "mambair") for name in FORMS]
CASES += ["eq_mambair/tiled_light_x2", "mambair/tiled_denoise_gray", "mambair/unet_formula"]
TOLERANCE = 1e-4  # of the largest entry; measured 1e-6


def load_case(shared_dir, name) -> tuple[GoldenCase, nn.Module]:
    case = GoldenCase(shared_dir / "golden" / f"{name}.safetensors")
    network = build_network({"type": case.metadata["kind"].split()[0], **case.kwargs}).eval()
    report = load_weights(network, case.state)
    assert report.complete
    return case, network


@pytest.mark.parametrize("name", CASES)
def test_output_of_published_weights(shared_dir, name):
    case, network = load_case(shared_dir, name)
    expected = case.tensors.get("output/y_whole", case.tensors["output/y"])
    with torch.no_grad():
        assert relative_error(network(case.tensors["input/x"]), expected) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_count_of_trainable_parameters(shared_dir, name):
    case, network = load_case(shared_dir, name)
    assert sum(parameter.numel() for parameter in network.parameters()) == int(case.metadata["params"])


@pytest.mark.parametrize("name", ["eq_mambair/light_x2", "eq_mambair/classic_x2", "mambair/light_x2", "mambair/classic_x2"])
def test_gradients_for_every_published_parameter(shared_dir, name):
    case, network = load_case(shared_dir, name)
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    layout = find_layout(published)
    image = case.tensors["input/x"].clone().requires_grad_()
    functional_call(network, layout.to_ours(published), (image,)).square().mean().backward()
    assert relative_error(image.grad, case.tensors["grad/input/x"]) < TOLERANCE
    assert expected
    for key, gradient in expected.items():
        assert relative_error(published[key].grad, gradient) < TOLERANCE, key
