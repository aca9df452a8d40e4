"""The attentive scan: decisions, orders, and what a token can see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eqmambair.layers.attentive_scan import AttentiveScan2d, PromptRouter, inverse_order, semantic_order
from tests.archs.test_restorers import shaken


def module(categories=5, prompt_order="raster") -> AttentiveScan2d:
    router = PromptRouter(8, categories, 3, 2)
    return shaken(AttentiveScan2d(router, 8, 6, 4, 3, 2, prompt_order))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6))
def test_order_sorts_by_category_and_keeps_rows_within_one(length, categories, seed):
    category = torch.randint(categories, (2, length), generator=torch.Generator().manual_seed(seed))
    order = semantic_order(category)
    for path, labels in zip(order.tolist(), category.tolist(), strict=True):
        assert path == sorted(range(length), key=lambda token: (labels[token], token))
    steps = torch.arange(length).expand(2, -1)
    assert torch.equal(order.gather(1, inverse_order(order)), steps)
    assert torch.equal(inverse_order(order).gather(1, order), steps)


def test_with_one_category_both_prompt_orders_are_one():
    raster, own = module(1), module(1, "sorted")
    own.load_state_dict(raster.state_dict())
    x = torch.rand(2, 8, 5, 4)
    with torch.no_grad():
        assert torch.equal(raster(x), own(x))


@pytest.mark.parametrize("prompt_order", ["raster", "sorted"])
def test_prompts_of_zero_leave_a_plain_scan_of_the_sorted_pixels(prompt_order):
    layer = module(prompt_order=prompt_order)
    x = torch.rand(1, 8, 5, 4)
    with torch.no_grad():
        before = layer(x)
        layer.router.basis.zero_()
        plain = layer(x)
    assert (before - plain).abs().max() > 1e-4
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert layer.router.scores.weight.grad.abs().max() == 0  # the mixture of equal prompts does not depend on the scores


def test_a_token_sees_only_what_was_visited_before():
    layer = module(prompt_order="sorted")
    torch.nn.init.zeros_(layer.position.weight)  # so that neighbours do not meet in the gate
    x = torch.rand(1, 8, 4, 4, requires_grad=True)
    order = semantic_order(layer.router(x.flatten(2).mT)[1])[0]
    step = 9
    (gradient,) = torch.autograd.grad(layer(x).flatten(2)[0, :, order[step]].sum(), x)
    reached = gradient.flatten(2)[0].abs().amax(0)[order] > 0
    assert reached.tolist() == [place <= step for place in range(16)]


def test_moving_pixels_moves_the_result_while_those_of_a_category_keep_their_order():
    """Without neighbours in the gate the module sees a sequence, and the semantic order is all that it sees of places."""
    layer = module(prompt_order="sorted")
    torch.nn.init.zeros_(layer.position.weight)
    x = torch.rand(1, 8, 4, 5)
    with torch.no_grad():
        order = semantic_order(layer.router(x.flatten(2).mT)[1])[0]
        y, moved = layer(x).flatten(2), layer(x.flatten(2)[:, :, order].view_as(x)).flatten(2)
        torch.testing.assert_close(moved, y[:, :, order])
        flipped = layer(x.flip(2, 3)).flip(2, 3).flatten(2)
    assert (flipped - y).abs().max() > 1e-3


def test_noise_is_gumbel():
    router = PromptRouter(8, 4, 3, 2, eval_routing="gumbel").eval()
    torch.nn.init.zeros_(router.scores.weight)
    with torch.no_grad():
        router.scores.bias.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
        _, category = router(torch.rand(1, 20000, 8))
    share = torch.bincount(category[0], minlength=4) / 20000
    torch.testing.assert_close(share, router.scores.bias.softmax(0).detach(), atol=0.015, rtol=0)  # 4 standard deviations


def test_scores_are_float32_under_autocast():
    router, x = PromptRouter(8, 4, 3, 2).eval(), torch.rand(1, 50, 8)
    prompts, category = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        low_prompts, low_category = router(x)
    assert torch.equal(category, low_category)
    assert torch.equal(prompts, low_prompts)
