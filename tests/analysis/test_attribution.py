"""Local attribution maps on networks whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from eqmambair import build_network
from eqmambair.analysis.attribution import Box, blurred, gini, local_attribution
from eqmambair.errors import UserError
from eqmambair.layers.attentive_scan import PromptRouter


class Shift(nn.Module):
    """Moves the picture five pixels to the right."""

    def forward(self, x):
        return torch.roll(x, 5, -1)


def picture(height=24, width=28, channels=3):
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_identity_owes_a_square_to_itself():
    found = local_attribution(nn.Identity(), picture(), Box(8, 10, 6), steps=5)
    assert found.map.shape == (24, 28)
    inside = torch.zeros(24, 28, dtype=torch.bool)
    inside[8:14, 10:16] = True
    assert found.map[~inside].max() == 0
    assert found.map[inside].max() > 0


def test_map_follows_what_the_network_moves():
    found = local_attribution(Shift(), picture(), Box(8, 10, 6), steps=5)
    rows, columns = found.map.nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (8, 13)
    assert (columns.min(), columns.max()) == (5, 10)


def test_attributions_add_up_to_the_change_of_the_detector():
    errors = []
    for steps in (10, 80):
        found = local_attribution(nn.Upsample(scale_factor=2, mode="bilinear"), picture(), Box(16, 20, 16), steps=steps)
        errors.append(abs(found.total - found.expected) / abs(found.expected))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02


def test_diffusion_index_grows_with_the_field_of_view():
    network = nn.Conv2d(1, 1, 9, padding=4, bias=False)
    nn.init.constant_(network.weight, 1 / 81)
    image = picture(channels=1)
    narrow = local_attribution(nn.Identity(), image, Box(10, 10, 2), steps=5)
    wide = local_attribution(network, image, Box(10, 10, 2), steps=5)
    assert narrow.diffusion_index < wide.diffusion_index < 100


def test_gini_of_one_pixel_and_of_equal_ones():
    one = torch.zeros(10, 10)
    one[3, 4] = 7
    assert gini(one) == pytest.approx(1 - 1 / 100, abs=1e-4)
    assert gini(torch.full((10, 10), 3.0)) == pytest.approx(0)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    by_pairs = sum(abs(a - b) for a in values for b in values) / (2 * 4 * values.sum())  # the definition
    assert gini(values) == pytest.approx(float(by_pairs), abs=1e-6)
    assert gini(torch.zeros(3)) == 0


def test_blur_is_normalised_mirrored_and_nothing_at_the_end():
    image = picture(9, 11)
    torch.testing.assert_close(blurred(torch.full((1, 3, 9, 9), 0.3), 9, 1.2), torch.full((1, 3, 9, 9), 0.3))
    torch.testing.assert_close(blurred(image, 9, 0.0), image)
    padded = np.pad(image[0, 0].double().numpy(), 4, mode="reflect")
    at = np.arange(-4, 5)
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * (1.2 + 1e-5) ** 2))
    by_hand = sum(weights[i, j] * padded[i : i + 9, j : j + 11] for i in range(9) for j in range(9)) / weights.sum()
    np.testing.assert_allclose(blurred(image, 9, 1.2)[0, 0].numpy(), by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("box", "options", "said"),
    [
        (Box(20, 0, 6), {}, "does not lie in the output of 28x24"),
        (Box(0, 0, 1), {}, "a square of 1 pixels has no gradients"),
        (Box(0, 0, 4), {"sigma": float("inf")}, "sigma positive and finite"),
        (Box(0, 0, 4), {"kernel_size": 1}, "no pixel counts"),
        (Box(0, 0, 4), {"kernel_size": 8}, "kernel is odd"),
        (Box(0, 0, 4), {"kernel_size": 99}, "too small for a blur"),
    ],
)
def test_what_cannot_be_measured_is_said(box, options, said):
    with pytest.raises(UserError, match=said):
        local_attribution(nn.Identity(), picture(), box, **options)


def test_networks_that_give_no_numbers_are_named():
    class Root(nn.Module):
        def forward(self, x):
            return (x - 1).sqrt()

    with pytest.raises(UserError, match="no numbers"):
        local_attribution(Root(), picture(), Box(0, 0, 4), steps=2)


def attentive(**options):
    torch.manual_seed(0)
    kind = {"type": "MambaIRv2Light", "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4, "num_tokens": 4, "upscale": 1}
    network = build_network({**kind, "upsampler": "", **options})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def test_routers_pass_the_gradient_of_training_or_none():
    """``none`` is what is left with scores that have no gradient, which a network of constant categories has by itself."""
    network, image = attentive(), picture(8, 8)
    trained = local_attribution(network, image, Box(2, 2, 4), steps=3)
    true = local_attribution(network, image, Box(2, 2, 4), steps=3, router_gradient="none")
    assert (trained.map - true.map).abs().max() > 1e-3 * true.map.max()
    assert trained.expected == true.expected
    assert trained.category_changes == true.category_changes
    for router in (module for module in network.modules() if isinstance(module, PromptRouter)):
        assert router.straight_through
        nn.init.zeros_(router.scores.weight)
    fixed = [local_attribution(network, image, Box(2, 2, 4), steps=3, router_gradient=each) for each in ("straight_through", "none")]
    torch.testing.assert_close(fixed[0].map, fixed[1].map)
    assert fixed[0].category_changes == 0
    with pytest.raises(UserError, match="'half' is not known"):
        local_attribution(network, image, Box(2, 2, 4), router_gradient="half")


@pytest.mark.parametrize("recomputed", [False, True])
def test_routing_has_no_noise_along_the_path_and_its_changes_are_counted(recomputed):
    quiet = local_attribution(attentive(), picture(8, 8), Box(2, 2, 4), steps=4)
    noisy = attentive(eval_routing="gumbel", use_checkpoint=recomputed)
    found = local_attribution(noisy, picture(8, 8), Box(2, 2, 4), steps=4)
    torch.testing.assert_close(found.map, quiet.map)
    assert 0 < found.category_changes < 1
    assert found.category_changes == quiet.category_changes
    assert all(module.eval_routing == "gumbel" for module in noisy.modules() if isinstance(module, PromptRouter))
    assert local_attribution(nn.Identity(), picture(), Box(8, 10, 6), steps=2).category_changes is None
