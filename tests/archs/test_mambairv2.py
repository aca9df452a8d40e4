"""MambaIRv2 as a whole network, plain and commuting with a group."""

import pytest
import torch
from torch import nn

from eqmambair import UserError, build_network, fold
from eqmambair.analysis.equivariance import equivariance_error
from eqmambair.groups import group
from eqmambair.layers.attentive_scan import PromptRouter
from eqmambair.layers.frames import Framing
from tests.archs.test_restorers import shaken

LIGHT = {"type": "MambaIRv2Light", "upsampler": "pixelshuffledirect"}
BASE = {"type": "MambaIRv2", "upsampler": "pixelshuffle"}
SMALL = BASE | {"embed_dim": 132, "depths": [4] * 6, "num_heads": [4] * 6}
LARGE = BASE | {"depths": [6] * 9, "num_heads": [6] * 9}
TINY = {"embed_dim": 16, "depths": [2, 1], "num_heads": [4, 4], "d_state": 4, "window_size": 4, "inner_rank": 3, "num_tokens": 5}
TINY |= {"mlp_ratio": 1.5}
HEADS = [("MambaIRv2Light", "pixelshuffledirect", 3), ("MambaIRv2", "pixelshuffle", 4), ("MambaIRv2", "nearest+conv", 4)]
HEADS += [("MambaIRv2", "", 1)]

#: Trainable parameters, counted on the published networks (specification, section d).
PUBLISHED_COUNTS = [
    (LIGHT | {"upscale": 2}, 774_092),
    (LIGHT | {"upscale": 3}, 780_587),
    (LIGHT | {"upscale": 4}, 789_680),
    (SMALL | {"upscale": 2}, 9_621_935),
    (SMALL | {"upscale": 3}, 9_806_575),
    (SMALL | {"upscale": 4}, 9_769_647),
    (BASE | {"upscale": 2}, 22_903_001),
    (BASE | {"upscale": 3}, 23_087_641),
    (BASE | {"upscale": 4}, 23_050_713),
    (LARGE | {"upscale": 2}, 34_090_523),
    (LARGE | {"upscale": 3}, 34_275_163),
    (LARGE | {"upscale": 4}, 34_238_235),
    (BASE | {"upsampler": "", "in_chans": 1}, 22_651_705),
    (BASE | {"upsampler": ""}, 22_657_971),
]


def tiny(kind="MambaIRv2Light", upsampler="pixelshuffledirect", upscale=2, **options) -> nn.Module:
    network = build_network({"type": kind, **TINY, "upsampler": upsampler, "upscale": upscale, **options})
    return shaken(network)


@pytest.mark.parametrize(("options", "count"), PUBLISHED_COUNTS)
def test_parameter_count_is_the_published_one(options, count):
    with torch.device("meta"):
        network = build_network(options)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("kind", "upsampler", "scale"), HEADS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (9, 14)])
def test_any_size_gives_scale_times_the_size(kind, upsampler, scale, size):
    network = tiny(kind, upsampler, scale)
    with torch.no_grad():
        y = network(torch.rand(2, 3, *size))
    assert y.shape == (2, 3, scale * size[0], scale * size[1])
    assert y.isfinite().all()


def test_the_border_is_mirrored_as_often_as_it_takes():
    """A picture of 2 x 3 pixels, and the same continued by hand to the 4 x 4 that the windows need."""
    network, x = tiny(), torch.rand(1, 3, 2, 3)
    rows, columns = [0, 1, 1, 0], [0, 1, 2, 2]
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x[:, :, rows][..., columns])[..., :4, :6], rtol=0, atol=0)
        narrow = torch.rand(1, 3, 4, 1)
        torch.testing.assert_close(network(narrow), network(narrow.expand(-1, -1, -1, 4))[..., :2], rtol=0, atol=0)


def test_samples_of_a_batch_do_not_see_each_other():
    network, x = tiny(), torch.rand(3, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(sample) for sample in x.split(1)]), rtol=1e-5, atol=1e-5)


def test_evaluation_repeats_itself_and_training_does_not():
    network, x = tiny(), torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("mode", ["train_routing", "eval_routing"])
def test_options_change_the_routing(mode):
    other = "gumbel" if mode == "eval_routing" else "argmax"
    network, x = tiny(**{mode: other}), torch.rand(1, 3, 9, 7)
    network.train(mode == "train_routing")
    with torch.no_grad():
        torch.manual_seed(1)
        first = network(x)
        assert torch.equal(network(x), first) == (other == "argmax")
        torch.manual_seed(1)
        assert torch.equal(network(x), first)


def test_scores_have_no_gradient_without_the_estimator():
    network = tiny()
    routers = [module for module in network.modules() if isinstance(module, PromptRouter)]
    for router in routers:
        router.straight_through = False
    network(torch.rand(1, 3, 5, 6)).square().mean().backward()
    assert all(router.scores.weight.grad is None for router in routers)
    assert all(router.prompts.grad.abs().max() > 0 for router in routers)


@pytest.mark.parametrize("name", ["c1", "c4"])
def test_checkpointing_changes_no_gradient(name):
    network, x = tiny(group=name).train(), torch.rand(1, 3, 7, 6)
    gradients = []
    for checkpointing in (False, True):
        for blocks in network.groups:
            blocks.checkpointing = checkpointing
        network.zero_grad()
        torch.manual_seed(3)  # the noise of the routing is drawn again, and must be the same
        network(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("kind", "upsampler", "scale"), HEADS)
def test_quarter_turns_of_the_input_turn_the_output_to_the_bit(kind, upsampler, scale):
    network = tiny(kind, upsampler, scale, group="c4", prompt_order="sorted" if upsampler else "raster")
    for size in ((8, 8), (9, 7), (5, 12), (1, 6), (1, 1)):
        error = equivariance_error(network, torch.rand(2, 3, *size), "c4")
        assert error["max_abs"] == 0, size


@pytest.mark.parametrize(("name", "options"), [("c2", {}), ("d4", {"embed_dim": 32, "num_heads": [8, 8]})])
def test_other_groups_too(name, options):
    network = tiny(group=name, **options)
    for size in ((8, 8), (5, 6)):
        assert equivariance_error(network, torch.rand(1, 3, *size), name)["max_abs"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"resi_connection": "3conv"}, {"in_chans": 1}, {"img_range": 255.0}, {"patch_norm": False}, {"qkv_bias": False},
        {"shift_single_window": False, "window_size": 7}, {"window_size": 1},
    ],
)  # fmt: skip
def test_every_option_keeps_the_guarantee(options):
    network = tiny(group="c4", **options)
    assert equivariance_error(network, torch.rand(1, network.in_chans, 6, 7), "c4")["max_abs"] == 0


def test_training_keeps_the_guarantee():
    network = tiny(group="c4").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.l1_loss(network(torch.rand(2, 3, 8, 8)), torch.rand(2, 3, 16, 16)).backward()
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert equivariance_error(network, torch.rand(1, 3, 9, 7), "c4")["max_abs"] == 0


def test_plain_network_does_not_commute():
    assert equivariance_error(tiny(), torch.rand(1, 3, 8, 8), "c4")["nmse"] > 1e-3


def test_quarter_turn_network_does_not_commute_with_mirror_images():
    error = equivariance_error(tiny(group="c4"), torch.rand(1, 3, 8, 8), "d4")
    assert error["elements"]["rot90"]["max_abs"] == 0
    assert error["elements"]["mirror"]["nmse"] > 1e-4


def test_orientations_see_each_other():
    """A change of one frame's map reaches the others: the network is no mean of four separate ones."""
    network = tiny(group="c4")
    block = network.groups[0].blocks[0]
    framing = Framing(group("c4"), 4, 8, 4, torch.device("cpu"))
    maps = tuple(torch.rand(1, 4, *framing.padded_size(g)) for g in range(4))
    changed = (maps[0], maps[1] + torch.rand_like(maps[1]), *maps[2:])
    with torch.no_grad():
        for before, after in zip(block(maps, framing), block(changed, framing), strict=True):
            assert (before - after).abs().max() > 1e-3


def test_a_block_without_branches_is_two_scales():
    block = tiny().groups[0].blocks[0]
    with torch.no_grad():
        for layer in (block.window.mixer.proj, block.state_space.mixer.out_proj, block.window.feed.squeeze, block.state_space.feed.squeeze):
            layer.weight.zero_()
            layer.bias.zero_()
        x = torch.rand(2, 16, 4, 8)
        (y,) = block((x,), Framing(group("c1"), 4, 8, 4, torch.device("cpu")))
        factor = (1 + block.window.scale.weight) * (1 + block.state_space.scale.weight)
        torch.testing.assert_close(y, x * factor.view(-1, 1, 1))


def test_folding_changes_nothing():
    network, x = tiny(group="c4"), torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        assert torch.equal(fold(network)(x), network(x))


@pytest.mark.parametrize("name", ["c1", "c4"])
def test_network_runs_in_float64_and_bfloat16(name):
    network, x = tiny(group=name), torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        reference = network.double()(x.double())
        assert reference.dtype == torch.float64
        network.float()
        torch.testing.assert_close(network(x).double(), reference, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert (network(x).double() - reference).abs().mean() < 0.1 * reference.abs().mean()
        assert network.bfloat16()(x.bfloat16()).isfinite().all()


def test_bfloat16_trains():
    network = tiny().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.rand(1, 3, 6, 5)).float().square().mean()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dims": 48}, "did you mean 'embed_dim'"),
        ({"num_heads": [5, 4]}, "window attention = 16: must be a multiple of 5"),
        ({"num_heads": [4]}, "one number each for every group"),
        ({"depths": [2, 0]}, "the smallest of depths = 0"),
        ({"upsampler": "bicubic"}, "'bicubic' is not known"),
        ({"upsampler": "nearest+conv", "upscale": 2}, "upscale = 2"),
        ({"upsampler": "", "upscale": 2}, "upscale = 2"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale = 5"),
        ({"resi_connection": "2conv"}, "'2conv' is not known"),
        ({"prompt_order": "random"}, "'random' is not known"),
        ({"eval_routing": "none"}, "eval_routing: 'none' is not known"),
        ({"group": "c3"}, "'c3' is not known"),
        ({"group": "c4", "embed_dim": 18, "num_heads": [2, 2]}, "embed_dim = 18: must be a multiple of 4"),
        ({"group": "c4", "num_heads": [2, 2]}, "num_heads = 2: must be a multiple of 4"),
        ({"group": "c4", "mlp_ratio": 1.1}, "= 17: must be a multiple of 4"),
        ({"mlp_ratio": 1.07}, "the gated feed-forward = 17: must be a multiple of 2"),
        ({"type": "MambaIRv2", "convffn_kernel_size": 4}, "kernel_size = 4: must be odd"),
        ({"ape": True}, "no absolute position embedding"),
        ({"patch_size": 2}, "patches of one pixel"),
        ({"window_size": 0}, "window_size = 0"),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        build_network({"type": "MambaIRv2Light", **TINY, **options})


def test_initial_prompts_are_tiny_and_blocks_nearly_plain():
    network = build_network({"type": "MambaIRv2Light", **TINY})
    half = network.groups[0].blocks[0].state_space
    assert torch.equal(half.scale.weight, torch.full((16,), 1e-4))
    assert (half.mixer.router.prompts @ half.mixer.router.basis).abs().max() <= 1 / 5
    assert half.mixer.out_proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert half.mixer.out_proj.bias.abs().max() == 0
    assert half.mixer.in_proj.weight.abs().max() <= 16**-0.5
