"""MambaIR, EQ-MambaIR and the U-shaped form as whole networks."""

import pytest
import torch
from torch import nn

from eqmambair import UserError, build_network, fold
from eqmambair.analysis.complexity import complexity
from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.groups import group
from eqmambair.layers import fused as fused_layers
from eqmambair.layers import scan2d
from eqmambair.ops import backend, fused_linear, low_rank_scan

LIGHT = {"embed_dim": 60, "depths": [6] * 4, "d_state": 10, "mlp_ratio": 1.2, "upsampler": "pixelshuffledirect"}
CLASSIC = {"embed_dim": 180, "depths": [6] * 6, "d_state": 16, "mlp_ratio": 2, "upsampler": "pixelshuffle"}
SAME_SIZE = {"embed_dim": 180, "depths": [6] * 6, "d_state": 16, "mlp_ratio": 1.2, "upsampler": "", "upscale": 1}
SMALL = {"embed_dim": 32, "depths": [2, 1], "d_state": 4, "mlp_ratio": 1.25}
HEADS = [("pixelshuffledirect", 2), ("pixelshuffledirect", 3), ("pixelshuffledirect", 4), ("pixelshuffle", 2), ("pixelshuffle", 3)]
HEADS += [("pixelshuffle", 4), ("pixelshuffle", 8), ("", 1)]

#: Trainable parameters, counted on the published networks (section 6 of each specification).
PUBLISHED_COUNTS = [
    ("EQMambaIR", LIGHT | {"upscale": 2}, 519_027),
    ("EQMambaIR", LIGHT | {"upscale": 3}, 527_142),
    ("EQMambaIR", LIGHT | {"upscale": 4}, 538_503),
    ("EQMambaIR", CLASSIC | {"upscale": 2}, 12_123_470),
    ("EQMambaIR", CLASSIC | {"upscale": 3}, 12_169_630),
    ("EQMambaIR", CLASSIC | {"upscale": 4}, 12_160_398),
    ("EQMambaIR", SAME_SIZE, 7_058_829),
    ("EQMambaIR", SAME_SIZE | {"in_chans": 1}, 7_057_207),
    ("EQMambaIR", SAME_SIZE | {"resi_connection": "3conv"}, 6_801_551),
    ("MambaIR", LIGHT | {"upscale": 2}, 905_016),
    ("MambaIR", LIGHT | {"upscale": 3}, 913_131),
    ("MambaIR", LIGHT | {"upscale": 4}, 924_492),
    ("MambaIR", CLASSIC | {"upscale": 2}, 20_421_863),
    ("MambaIR", CLASSIC | {"upscale": 3}, 20_606_503),
    ("MambaIR", CLASSIC | {"upscale": 4}, 20_569_575),
    ("MambaIR", SAME_SIZE, 15_777_507),
    ("MambaIR", SAME_SIZE | {"in_chans": 1}, 15_771_025),
    ("MambaIR", SAME_SIZE | {"resi_connection": "3conv"}, 14_771_712),
    ("MambaIR", SAME_SIZE | {"resi_connection": "3conv", "in_chans": 1}, 14_765_230),
    ("MambaIRUNet", {"mlp_ratio": 1.5}, 26_779_480),
    ("MambaIRUNet", {"mlp_ratio": 2.0}, 30_750_424),
    ("MambaIRUNet", {"mlp_ratio": 1.5, "inp_channels": 6, "dual_pixel_task": True}, 26_785_384),
]


def shaken(network: nn.Module, amount: float = 0.1) -> nn.Module:
    """Move every parameter off its initial value, so that ones and zeros hide nothing."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * amount)
    return network.eval()


@pytest.mark.parametrize(("kind", "options", "count"), PUBLISHED_COUNTS)
def test_parameter_count_is_the_published_one(kind, options, count):
    with torch.device("meta"):
        network = build_network({"type": kind, **options})
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("group_name", ["c2", "c4", "d4"])
@pytest.mark.parametrize(("upsampler", "scale"), HEADS)
def test_output_moves_with_the_input(group_name, upsampler, scale):
    network = shaken(build_network({"type": "EQMambaIR", "group": group_name, **SMALL, "upsampler": upsampler, "upscale": scale}))
    for size in ((8, 8), (9, 7), (5, 12), (1, 6), (1, 1)):
        error = equivariance_error(network, torch.rand(2, 3, *size), group_name)
        assert len(error["elements"]) == group(group_name).order - 1
        assert error["nmse"] <= 1e-10


@pytest.mark.parametrize(
    "options", [{"resi_connection": "3conv", "embed_dim": 64}, {"in_chans": 1}, {"img_range": 255.0}, {"patch_norm": False}]
)
def test_every_option_keeps_the_guarantee(options):
    network = shaken(build_network({"type": "EQMambaIR", **SMALL, "upsampler": "pixelshuffle", "upscale": 2, **options}))
    assert equivariance_error(network, torch.rand(1, network.in_chans, 7, 10), "c4")["nmse"] <= 1e-10


def test_published_light_network_commutes_untrained():
    network = build_network({"type": "EQMambaIR", **LIGHT, "upscale": 2})
    assert equivariance_error(network, torch.rand(1, 3, 13, 9), "c4")["nmse"] <= 1e-10


def test_training_keeps_the_guarantee():
    network = build_network({"type": "EQMambaIR", **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.l1_loss(network(torch.rand(2, 3, 8, 8)), torch.rand(2, 3, 16, 16)).backward()
        optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # an attention's few hidden units may all be off
    assert equivariance_error(network, torch.rand(1, 3, 9, 7), "c4")["nmse"] <= 1e-10


def test_plain_network_does_not_commute():
    network = shaken(build_network({"type": "MambaIR", **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2}))
    assert equivariance_error(network, torch.rand(1, 3, 16, 16), "c4")["nmse"] > 1e-3


def test_quarter_turn_network_does_not_commute_with_mirror_images():
    network = shaken(build_network({"type": "EQMambaIR", **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2}))
    assert equivariance_error(network, torch.rand(1, 3, 12, 12), "d4")["elements"]["mirror"]["nmse"] > 1e-4


@pytest.mark.parametrize("kind", ["MambaIR", "EQMambaIR"])
@pytest.mark.parametrize(("upsampler", "scale"), HEADS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (7, 9)])
def test_any_size_gives_scale_times_the_size(kind, upsampler, scale, size):
    network = build_network({"type": kind, **SMALL, "upsampler": upsampler, "upscale": scale}).eval()
    with torch.no_grad():
        y = network(torch.rand(2, 3, *size))
    assert y.shape == (2, 3, scale * size[0], scale * size[1])
    assert y.isfinite().all()


def test_unet_takes_any_size_and_keeps_it():
    network = build_network({"type": "MambaIRUNet", "dim": 32, "num_blocks": [1] * 4, "num_refinement_blocks": 1}).eval()
    with torch.no_grad():
        for size in ((8, 16), (5, 3), (9, 23), (1, 1)):
            assert network(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_transposed_input_gives_transposed_output_of_the_transposed_network():
    """The plain paths are closed under transposition: swap paths 0-1 and 2-3, transpose all filters."""
    network = shaken(build_network({"type": "MambaIR", **SMALL, "upsampler": "", "upscale": 1})).double()
    twin = build_network({"type": "MambaIR", **SMALL, "upsampler": "", "upscale": 1}).double().eval()
    state = {}
    for key, value in network.state_dict().items():
        if value.dim() == 4:
            value = value.transpose(-1, -2)
        elif key.endswith(("scan.A_log", "scan.D", "scan.dt_proj", "scan.delta_bias")):
            value = value[[1, 0, 3, 2]]
        elif key.endswith("scan.x_proj.weight"):
            value = value.unflatten(0, (4, -1))[[1, 0, 3, 2]].flatten(0, 1)
        state[key] = value
    twin.load_state_dict(state)
    x = torch.rand(1, 3, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(twin(x.mT), network(x).mT, rtol=1e-9, atol=1e-10)
    network_swapped = network(x.mT)
    assert (network_swapped - network(x).mT).abs().max() > 1e-3


@pytest.mark.parametrize("group_name", ["c4", "d4"])
@pytest.mark.parametrize(("upsampler", "scale"), [("pixelshuffledirect", 3), ("pixelshuffle", 4), ("", 1)])
def test_folded_network_gives_the_same_output_with_plain_layers(group_name, upsampler, scale):
    network = shaken(build_network({"type": "EQMambaIR", "group": group_name, **SMALL, "upsampler": upsampler, "upscale": scale}))
    folded = fold(network)
    x = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)  # float32 rounding
    equivariant_modules = {"eqmambair.layers.convolution", "eqmambair.layers.linear", "eqmambair.layers.shuffle"}
    assert not {type(module).__module__ for module in folded.modules()} & equivariant_modules


@pytest.mark.parametrize("kind", ["EQMambaIR", "MambaIR"])
def test_inference_fuses_group_layers_without_changing_the_output(kind, monkeypatch):
    calls, scans = [], []
    monkeypatch.setattr(scan2d, "low_rank_scan", lambda *args: scans.append(args) or low_rank_scan(*args))
    monkeypatch.setattr(fused_layers, "fused_linear", lambda *args, **around: calls.append(around) or fused_linear(*args, **around))
    network = shaken(build_network({"type": kind, **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2}))
    image = torch.rand(2, 3, 9, 12)
    layer_by_layer = network(image)
    assert layer_by_layer.requires_grad
    assert not calls
    assert not scans
    with torch.no_grad():
        fused = network(image)
    assert bool(calls) == (kind == "EQMambaIR" and backend("cpu") == "cpu")
    assert bool(scans) == (backend("cpu") == "cpu")
    torch.testing.assert_close(fused, layer_by_layer.detach(), rtol=1e-5, atol=1e-5)


def test_fold_leaves_the_network_as_it_was():
    network = build_network({"type": "EQMambaIR", **SMALL, "upsampler": "pixelshuffle", "upscale": 2}).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not fold(network).training
    assert network.training
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("kind", ["MambaIR", "EQMambaIR"])
def test_recomputing_blocks_gives_the_same_gradients(kind):
    options = {"type": kind, **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2, "drop_path_rate": 0.5}
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(3)
        network = build_network(options | {"use_checkpoint": use_checkpoint}).train()
        image = torch.rand(4, 3, 6, 5)
        network(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_published_initialisation_repeats_the_constant_step_weights():
    published = build_network({"type": "EQMambaIR", **SMALL, "init": "published"}).groups[0].blocks[0].scan
    ours = build_network({"type": "EQMambaIR", **SMALL}).groups[0].blocks[0].scan
    bound = published.rank**-0.5
    assert published.dt_proj.weight.unique().tolist() == pytest.approx([bound])
    assert ours.dt_proj.weight.min() < -0.5 * bound
    assert ours.dt_proj.weight.abs().max() <= bound


def test_filters_start_in_the_range_of_an_ordinary_convolution_and_with_published_initialisation_in_a_smaller_one():
    widest = {}
    for init in ("mamba", "published"):
        network = build_network({"type": "EQMambaIR", **SMALL, "init": init})
        depthwise = network.groups[0].blocks[0].scan.conv
        layers = {"lift": network.lift, "conv": network.conv_after, "depthwise": depthwise, "project": network.head}
        widest[init] = {name: layer.base_filter().abs().max().item() for name, layer in layers.items()}
    channels = network.conv_after.weight.shape[1] * 4
    ranges = {"lift": (3 * 9) ** -0.5, "conv": (channels * 9) ** -0.5, "depthwise": 9**-0.5, "project": (channels * 9) ** -0.5}
    assert widest["mamba"] == pytest.approx(ranges, rel=0.05)
    smaller = {"lift": 0.5, "conv": 0.5, "depthwise": 0.5 * depthwise.weight.shape[0] ** -0.5, "project": 1}
    assert widest["published"] == pytest.approx({name: ranges[name] * factor for name, factor in smaller.items()}, rel=0.05)


def test_initial_steps_lie_in_the_range_of_mamba():
    scan = build_network({"type": "MambaIR", **SMALL}).groups[0].blocks[0].scan
    step = nn.functional.softplus(scan.delta_bias)
    assert step.min() >= 1e-3 * 0.99
    assert step.max() <= 0.1 * 1.01


def test_changing_a_parameter_in_evaluation_mode_changes_the_output():
    network = shaken(build_network({"type": "EQMambaIR", **SMALL, "upsampler": "pixelshuffledirect", "upscale": 2}))
    x = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        before = network(x)
        network.groups[0].blocks[0].scan.conv.weight.mul_(2)
        assert (network(x) - before).abs().max() > 1e-4


def test_element_drop_trains_on_oblong_crops():
    network = build_network(
        {"type": "EQMambaIR", **SMALL, "drop_form": "element", "drop_path_rate": 0.3, "upscale": 2, "upsampler": "pixelshuffle"}
    )
    network.train()(torch.rand(2, 3, 6, 9)).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_dense_work_is_what_the_published_networks_do():
    for kind, giga in (("EQMambaIR", 7.92), ("MambaIR", 3.26)):
        network = build_network({"type": kind, **LIGHT, "upscale": 2})
        assert complexity(network, torch.rand(1, 3, 64, 64)).dense_macs / 1e9 == pytest.approx(giga, abs=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "EQMambair"}, "did you mean 'EQMambaIR'"),
        ({"type": "EQMambaIR", "embed_dims": 60}, "did you mean 'embed_dim'"),
        ({"type": "EQMambaIR", "embed_dim": 62}, "embed_dim = 62: must be a multiple of 4"),
        ({"type": "EQMambaIR", "embed_dim": 28}, "embed_dim // 30"),
        ({"type": "EQMambaIR", "embed_dim": 180, "mlp_ratio": 1.4}, "int\\(1.4 \\* 180\\) = 251: must be a multiple of 4"),
        ({"type": "EQMambaIR", "upsampler": "nearest"}, "'nearest' is not known"),
        ({"type": "EQMambaIR", "upsampler": "pixelshuffle", "upscale": 6}, "upscale = 6"),
        ({"type": "EQMambaIR", "upscale": 4}, "upscale = 4"),
        ({"type": "EQMambaIR", "group": "c3"}, "'c3' is not known"),
        ({"type": "EQMambaIR", "resi_connection": "2conv"}, "'2conv' is not known"),
        ({"type": "EQMambaIR", "drop_rate": 0.1}, "drop_rate = 0.1"),
        ({"type": "EQMambaIR", "embed_dim": -4}, "embed_dim = -4"),
        ({"type": "MambaIR", "d_state": 0}, "d_state = 0"),
        ({"type": "MambaIR", "depths": []}, "depths = "),
        ({"type": "MambaIR", "depths": [2, 0]}, "depths = "),
        ({"type": "MambaIR", "drop_path_rate": 1.5}, "drop_path_rate = 1.5"),
        ({"type": "EQMambaIR", "init": "kaiming"}, "'kaiming' is not known"),
        ({"type": "MambaIRUNet", "inp_channels": 6}, "they must agree"),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        build_network(options)


@pytest.mark.parametrize("kind", ["MambaIR", "EQMambaIR"])
def test_network_runs_in_float64(kind):
    network = build_network({"type": kind, **SMALL, "upscale": 2, "upsampler": "pixelshuffledirect"}).double()
    assert network(torch.rand(1, 3, 4, 5, dtype=torch.float64)).dtype == torch.float64
