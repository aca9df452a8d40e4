"""GroupMamba: published numbers, sizes, and what holds of its layers."""

import pytest
import torch
from torch.func import functional_call

from eqmambair import build_network, load_weights
from eqmambair.archs.groupmamba_arch import DistilledLogits, GroupMamba
from eqmambair.checkpoints import infer_network, to_official
from eqmambair.checkpoints.systems import find_layout
from eqmambair.checkpoints.systems.groupmamba import LAYOUT
from eqmambair.groups import cross_scan_order
from eqmambair.layers.channel_groups import GroupedScan2d, ModulatedGroupMamba
from eqmambair.layers.views import to_pixels, to_tokens
from tests.archs.forms import check_forms
from tests.golden import GoldenCase, relative_error

TOLERANCE = 1e-4
SMALL = {"stem_hidden_dim": 8, "embed_dims": [16, 32, 48, 64], "mlp_ratios": [2, 2, 2, 2], "depths": [1, 1, 2, 1], "num_classes": 5}
PUBLISHED = {  # parameters: with both heads, with one, and of the stages with the norm of the class vector
    "tiny": ({}, (23_361_917, 22_912_917, 20_462_224)),
    "small": (
        {"stem_hidden_dim": 64, "embed_dims": [64, 128, 348, 512], "depths": [3, 4, 16, 3]},
        (34_781_555, 34_268_555, 31_143_298),
    ),
    "base": (
        {"stem_hidden_dim": 64, "embed_dims": [96, 192, 424, 512], "depths": [3, 6, 21, 3]},
        (57_150_838, 56_637_838, 53_512_581),
    ),
}


def small(**changes) -> GroupMamba:
    """A small network whose scans matter: their parameters are drawn larger than at the start of a training."""
    network = build_network({"type": "GroupMamba", **SMALL, **changes}).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".scan." in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def golden(shared_dir, name) -> GoldenCase:
    return GoldenCase(shared_dir / "golden" / "groupmamba" / f"{name}.safetensors")


def load(module: torch.nn.Module, state: dict[str, torch.Tensor], official: str, ours: str) -> torch.nn.Module:
    """Fill a part of the network from a published state of that part; prefixes tell where it stands in the whole."""
    converted = LAYOUT.to_ours({f"{official}.{key}": value for key, value in state.items()})
    module.load_state_dict({key.removeprefix(f"{ours}."): value for key, value in converted.items()})
    return module.eval()


def compare_gradients(parameters: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Every gradient, relative to its largest entry; what is a sum that nearly vanishes is held to a hundredth of the largest of all."""
    largest = max(gradient.abs().max() for gradient in expected.values())
    for key, gradient in expected.items():
        scale = max(gradient.abs().max(), largest / 100)
        assert (parameters[key].grad - gradient).abs().max() / scale < TOLERANCE, key


@pytest.mark.parametrize("name", ["model_sq64", "model_rect64x96"])
def test_outputs_of_published_weights(shared_dir, name):
    case = golden(shared_dir, name)
    network = build_network({"type": "GroupMamba", **case.kwargs}).eval()
    assert load_weights(network, case.state).complete
    assert sum(parameter.numel() for parameter in network.parameters()) == int(case.metadata["params"])
    image = case.tensors["input/image"]
    with torch.no_grad():
        maps = network.features(image)
        for i, x in enumerate(maps):
            normed = network.norms[i](x) if i < 3 else x
            assert relative_error(normed, case.tensors[f"output/stage{i + 1}"]) < TOLERANCE
        assert relative_error(network(image), case.tensors["output/logits"]) < TOLERANCE
        pooled = network.class_norm(network.class_block(maps[-1].mean((2, 3)), network._order(1, 1, "cpu")))
        assert relative_error(pooled, case.tensors["output/pooled"]) < TOLERANCE
        for head in ("head", "dist_head") if "output/dist_head" in case.tensors else ("head",):
            assert relative_error(getattr(network, head)(pooled), case.tensors[f"output/{head}"]) < TOLERANCE


def test_gradients_for_every_published_parameter(shared_dir):
    case = golden(shared_dir, "model_sq64")
    network = build_network({"type": "GroupMamba", **case.kwargs}).eval()
    expected = case.part("grad/param")
    published = {key: value.clone().requires_grad_(key in expected) for key, value in case.state.items()}
    image = case.tensors["input/image"].clone().requires_grad_()
    functional_call(network, LAYOUT.to_ours(published), (image,)).square().mean().backward()
    assert relative_error(image.grad, case.tensors["grad/input/image"]) < TOLERANCE
    assert expected
    compare_gradients(published, expected)


@pytest.mark.parametrize("gradients", [False, True])
def test_grouped_layer(shared_dir, gradients):
    case = golden(shared_dir, "grouped_layer_grad_rect" if gradients else "grouped_layer")
    h, w, channels = case.kwargs["H"], case.kwargs["W"], case.kwargs["input_dim"]
    layer = ModulatedGroupMamba(channels)
    order = cross_scan_order(h, w)
    published = {f"block1.0.attn.{key}": value.clone().requires_grad_() for key, value in case.state.items()}
    ours = {key.removeprefix("stages.0.0.mixer."): value for key, value in LAYOUT.to_ours(published).items()}
    tokens = case.tensors["input/x"].clone().requires_grad_()
    y = functional_call(layer, ours, (to_pixels(tokens, h, w), order))
    assert relative_error(to_tokens(y), case.tensors["output/y"]) < TOLERANCE
    if gradients:
        y.square().mean().backward()
        assert relative_error(tokens.grad, case.tensors["grad/input/x"]) < TOLERANCE
        compare_gradients(published, {f"block1.0.attn.{key}": gradient for key, gradient in case.part("grad/param").items()})
    else:
        layer.load_state_dict({key: value.detach() for key, value in ours.items()})
        with torch.no_grad():
            normed = layer.norm(tokens).unflatten(1, (h, w))
            assert relative_error(normed.flatten(1, 2), case.tensors["output/normed"]) < TOLERANCE
            assert relative_error(layer.affinity(normed)[:, 0, 0], case.tensors["output/affinity"]) < TOLERANCE
            assert relative_error(layer.scan(normed, order), case.tensors["output/groups"]) < TOLERANCE


def test_one_operator_in_every_direction(shared_dir):
    case = golden(shared_dir, "vsss_op")
    x = case.tensors["input/x"]
    h, w, c = x.shape[1:]
    order = cross_scan_order(h, w)
    four = {f"block1.0.attn.mamba_g{g}.{key}": value for key, value in case.state.items() for g in range(1, 5)}
    converted = {key.removeprefix("stages.0.0.mixer.scan."): value for key, value in LAYOUT.to_ours(four).items()}
    operator = GroupedScan2d(4 * c)
    operator.load_state_dict(converted)
    with torch.no_grad():
        y = operator(x.repeat(1, 1, 1, 4), order)
    for g in range(4):
        assert torch.equal(order[g].long(), case.tensors[f"output/scan_order{g + 1}"])
        assert relative_error(y[..., g * c : (g + 1) * c], case.tensors[f"output/direction{g + 1}"]) < TOLERANCE


def test_block_stem_downsampling_and_class_block(shared_dir):
    case = golden(shared_dir, "block")
    network = small(embed_dims=[16, 32, 48, 48], mlp_ratios=[2, 2, 2, 3])
    block = load(network.stages[3][0], case.state, "block4.0", "stages.3.0")
    h, w = case.kwargs["H"], case.kwargs["W"]
    x = to_pixels(case.tensors["input/x"], h, w)
    with torch.no_grad():
        assert relative_error(to_tokens(x + block.mixer(x, cross_scan_order(h, w))), case.tensors["output/after_mixer"]) < TOLERANCE
        assert relative_error(to_tokens(block(x, cross_scan_order(h, w))), case.tensors["output/y"]) < TOLERANCE

    case = golden(shared_dir, "stem_down_class")
    network = small(stem_hidden_dim=8, embed_dims=[20, 28, 48, 32])
    load(network.embeds[0], {key[5:]: value for key, value in case.state.items() if key.startswith("stem.")}, "patch_embed1", "embeds.0")
    load(network.embeds[1], {key[5:]: value for key, value in case.state.items() if key.startswith("down.")}, "patch_embed2", "embeds.1")
    part = {key[4:]: value for key, value in case.state.items() if key.startswith("cls.")}
    load(network.class_block, part, "post_network.0", "class_block")
    with torch.no_grad():
        mapped = network.embeds[0](case.tensors["input/image"])
        assert relative_error(mapped, case.tensors["output/stem_map"]) < TOLERANCE
        assert relative_error(network.embeds[1](mapped), case.tensors["output/down_map"]) < TOLERANCE
        vector = network.class_block(case.tensors["input/tokens"].mean(1), network._order(1, 1, "cpu"))
        assert relative_error(vector, case.tensors["output/class_vector"]) < TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    options, expected = PUBLISHED[name]
    with torch.device("meta"):
        networks = [GroupMamba(**options), GroupMamba(**options, distillation=False), GroupMamba(**options, num_classes=0)]
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    counts[2] += 2 * networks[2].feature_channels[3]  # a backbone has no norm for the class vector
    assert tuple(counts) == expected


def test_a_published_file_has_as_many_entries_as_the_official_code_writes():
    with torch.device("meta"):
        state = GroupMamba().state_dict()
    assert len(to_official(state)) == 1266


def test_weights_go_to_the_published_layout_and_back():
    network = small()
    published = to_official(network.state_dict())
    assert find_layout(published) is LAYOUT
    assert infer_network(published) == infer_network(network.state_dict())
    other = build_network(infer_network(published)).eval()
    assert load_weights(other, {"model": {}, "model_ema": published}).complete
    image = torch.rand(1, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(other(image), network(image))


def test_training_names_both_heads_and_evaluation_takes_their_mean():
    network = small()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = network.features(image)[-1]
        logits = network(image)
        both = network.train().classify(features)
    assert isinstance(both, DistilledLogits)
    torch.testing.assert_close((both.head + both.dist_head) / 2, logits)
    assert small(distillation=False).train()(image).shape == (2, 5)


def test_the_class_block_has_no_memory():
    network = small()
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert network.class_block.mixer.scan.A_log.grad.abs().max() == 0
    assert network.stages[0][0].mixer.scan.A_log.grad.abs().max() > 0


def test_a_sample_does_not_depend_on_its_batch():
    network = small()
    images = torch.rand(3, 3, 37, 50)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 64)])
def test_any_size(shape):
    network = small()
    with torch.no_grad():
        maps = network.features(torch.rand(1, 3, *shape))
        assert network(torch.rand(1, 3, *shape)).isfinite().all()
    for i, x in enumerate(maps):
        assert x.shape == (1, network.feature_channels[i], *(-(-side // 2 ** (i + 2)) for side in shape))


def test_reverse_groups_read_a_half_turned_map():
    layer = GroupedScan2d(32)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    turned = GroupedScan2d(32)
    turned.load_state_dict({key: value.roll(2, 0) if value.shape[0] == 4 else value for key, value in layer.state_dict().items()})
    turned.conv.weight.data = layer.conv.weight.data.roll(16, 0).flip(-1, -2)
    turned.conv.bias.data = layer.conv.bias.data.roll(16, 0)
    x, order = torch.randn(1, 5, 7, 32), cross_scan_order(5, 7)
    expected = layer(x, order)
    found = turned(x.roll(16, -1).flip(1, 2), order).flip(1, 2).roll(-16, -1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(layer(x.roll(16, -1).flip(1, 2), order).flip(1, 2).roll(-16, -1), expected, atol=1e-3)


def test_gradient_of_a_rectangular_map_is_the_difference_quotient():
    layer = ModulatedGroupMamba(16).double()
    order = cross_scan_order(2, 3)
    assert torch.autograd.gradcheck(lambda x: layer(x, order), torch.randn(1, 16, 2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("cam", [True, False])
def test_ablations(directions, cam):
    network = small(num_directions=directions, cam=cam)
    order = network._order(3, 5, "cpu")
    assert len(order.unique(dim=0)) == directions
    network.train()(torch.rand(2, 3, 32, 32)).head.sum().backward()
    assert infer_network(network.state_dict())["cam"] is cam
    full = sum(parameter.numel() for parameter in small(cam=True).parameters())
    assert (sum(parameter.numel() for parameter in network.parameters()) == full) is cam


@pytest.mark.parametrize(
    ("argument", "value"), [("embed_dims", [16, 32, 48]), ("num_directions", 3), ("embed_dims", [16, 32, 48, 66]), ("num_classes", -1)]
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match="multiple of 4" if value == [16, 32, 48, 66] else argument):
        GroupMamba(**{**SMALL, argument: value})


@pytest.mark.slow
def test_compiles_exports_folds_and_runs_in_half_precision():
    network = small(depths=[1, 1, 1, 1])
    check_forms(network, [torch.rand(2, 3, 40, 37), torch.rand(3, 3, 33, 64)])
