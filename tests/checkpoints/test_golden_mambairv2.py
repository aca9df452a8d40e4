"""Published weights of MambaIRv2 give the published numbers, through the public functions; and find their way back."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from eqmambair import build_network, load_weights
from eqmambair.checkpoints import infer_network, to_official
from eqmambair.checkpoints.systems import find_layout
from eqmambair.inference import official_tiled
from eqmambair.layers.attentive_scan import PromptRouter, semantic_order
from tests.golden import GoldenCase, relative_error

MODELS = [
    "light_x2",
    "light_x2_noise",
    "light_x2_grad",
    "classic_x2",
    "classic_x3",
    "classic_x4",
    "car_gray",
    "dn_color",
    "nearest_conv_x4",
]
TOLERANCE = 1e-4  # absolute; measured 3e-6


def read(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / "mambairv2" / f"{name}.safetensors")


def load(case: GoldenCase, **options) -> nn.Module:
    network = build_network({"type": case.metadata.get("class", "MambaIRv2Light"), **case.kwargs, **options}).eval()
    assert load_weights(network, case.state).complete
    for index, router in enumerate(routers(network)):
        router.given_noise = case.tensors.get(f"input/gumbel_{index:02d}")
    return network


def routers(network: nn.Module) -> list[PromptRouter]:
    """In the order in which they run."""
    return [module for module in network.modules() if isinstance(module, PromptRouter)]


def test_all_whole_models_are_tested(shared_dir):
    stored = {path.stem for path in (shared_dir / "golden" / "mambairv2").glob("*.safetensors")}
    assert {name for name in stored if not name.startswith("mod_")} == {*MODELS, "tiled_light_x2"}


@pytest.mark.parametrize("name", MODELS)
def test_output_and_decisions_of_published_weights(shared_dir, name):
    case = read(shared_dir, name)
    network = load(case)
    assert sum(parameter.numel() for parameter in network.parameters()) == int(case.metadata["params"])
    categories = []
    for router in routers(network):
        router.register_forward_hook(lambda _, __, output: categories.append(output[1]))
    with torch.no_grad():
        y = network(case.tensors["input/x"])
    torch.testing.assert_close(y, case.tensors["output/y"], rtol=0, atol=TOLERANCE)
    assert len(categories) == sum(key.startswith("category") for key in case.part("output"))
    for index, category in enumerate(categories):
        assert torch.equal(category, case.tensors[f"output/category_{index:02d}"].long())
        assert torch.equal(semantic_order(category), case.tensors[f"output/order_{index:02d}"].long())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "classic_x3"])
def test_sorted_prompts_are_the_corrected_variant(shared_dir, name):
    case = read(shared_dir, name)
    with torch.no_grad():
        y = load(case, prompt_order="sorted")(case.tensors["input/x"])
    torch.testing.assert_close(y, case.tensors["output/y_prompt_sorted"], rtol=0, atol=TOLERANCE)
    assert (y - case.tensors["output/y"]).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_for_every_published_parameter(shared_dir, checkpointing):
    case = read(shared_dir, "light_x2_grad")
    network = load(case, use_checkpoint=checkpointing)
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    image = case.tensors["input/x"].clone().requires_grad_()
    functional_call(network, find_layout(published).to_ours(published), (image,)).square().mean().backward()
    assert relative_error(image.grad, case.tensors["grad/input"]) < TOLERANCE
    assert set(expected) == {key for key in published if published[key].is_floating_point()}
    for key, gradient in expected.items():
        assert relative_error(published[key].grad, gradient) < TOLERANCE, key


def test_published_tiles(shared_dir):
    case = read(shared_dir, "tiled_light_x2")
    network, image = load(case), case.tensors["input/x"]
    with torch.no_grad():
        torch.testing.assert_close(network(image), case.tensors["output/y_whole"], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(official_tiled(network, image, 2), case.tensors["output/y"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [*MODELS, "tiled_light_x2"])
def test_shapes_tell_the_network_and_the_way_back_loses_nothing(shared_dir, name):
    case = read(shared_dir, name)
    network = load(case)
    options = infer_network(case.state)
    used = {key: value for key, value in case.kwargs.items() if key not in ("img_size", "img_range")}
    if options["type"] == "MambaIRv2Light":
        del used["convffn_kernel_size"]
    assert {key: options[key] for key in used} == used
    assert infer_network(network.state_dict()) == options
    official = to_official(network.state_dict())
    assert set(official) == set(case.state)
    for key, value in case.state.items():
        assert torch.equal(official[key], value), key
