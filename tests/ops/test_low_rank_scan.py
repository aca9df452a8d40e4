"""The scan that makes its own steps: the same as the scan of these, in every layout that callers have, and refused where nothing fits."""

import pytest
import torch
from torch import Tensor

from eqmambair.ops import low_rank_scan, selective_scan, takes_low_rank
from eqmambair.ops.scan import CHUNK
from tests.ops.cases import Case

pytestmark = pytest.mark.usefixtures("compiled")


def given(case: Case, rank: int, own: bool) -> tuple[list[Tensor | None], Tensor]:
    """Arguments of `low_rank_scan`, and the steps that it makes."""
    u, _, *rest = case.make()
    g = torch.Generator().manual_seed(11)
    mixed = torch.rand(case.batch, case.length, case.groups if own else 1, rank + 3, generator=g)
    low_rank = mixed[..., :rank]  # rows that are not dense, as a network has them
    weight = 0.1 * torch.rand(case.groups, case.channels, rank, generator=g).mT
    delta = torch.einsum("blgk,gkd->blgd", low_rank.expand(-1, -1, case.groups, -1), weight)
    return [u, low_rank, weight, *rest], delta


@pytest.mark.parametrize("own", [True, False], ids=["numbers of each group", "numbers for all groups"])
@pytest.mark.parametrize(
    ("channels", "length", "rank", "shared_u"), [(5, 70, 3, False), (72, 33, 16, False), (37, 17, 32, True), (16, 1, 1, True)]
)
def test_equals_the_scan_of_the_product(own, channels, length, rank, shared_u) -> None:
    case = Case(channels=channels, length=length, shared_u=shared_u, groups=3)
    arguments, delta = given(case, rank, own)
    u, _, _, *rest = arguments
    expected = selective_scan(u, delta, *rest)
    torch.testing.assert_close(low_rank_scan(*arguments), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("order", ["none", "shared", "each"])
@pytest.mark.parametrize("softplus", [True, False])
def test_without_skip_and_bias_and_on_paths_of_each_kind(order, softplus) -> None:
    arguments, delta = given(Case(order=order), rank=4, own=True)
    u, low_rank, weight, A, B, C, _, _, path = arguments
    expected = selective_scan(u, delta, A, B, C, order=path, delta_softplus=softplus)
    y = low_rank_scan(u, low_rank, weight, A, B, C, order=path, delta_softplus=softplus)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_same_bits_whatever_the_number_of_threads() -> None:
    arguments, _ = given(Case(batch=1, channels=80, length=200, groups=1), rank=16, own=False)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(low_rank_scan(*arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, results[0]) for y in results)


def test_opcheck_and_no_gradient() -> None:
    arguments, _ = given(Case(), rank=4, own=False)
    torch.library.opcheck(torch.ops.eqmambair.low_rank_scan, (*arguments, True, CHUNK), test_utils=("test_schema", "test_faketensor"))
    y = low_rank_scan(arguments[0].requires_grad_(), *arguments[1:])
    with pytest.raises(NotImplementedError, match="low_rank_scan has no gradient; selective_scan has"):
        y.sum().backward()


def test_is_taken_in_inference_alone_and_for_few_numbers() -> None:
    tokens = torch.rand(1, 4, 2, 3)
    assert not takes_low_rank(tokens, 4)
    with torch.no_grad():
        assert takes_low_rank(tokens, 4)
        assert not takes_low_rank(tokens, 33)
        assert not takes_low_rank(tokens.double(), 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not takes_low_rank(tokens, 4)


def test_what_does_not_fit_is_refused() -> None:
    arguments, _ = given(Case(), rank=4, own=True)
    u, low_rank, weight, *rest = arguments
    with pytest.raises(ValueError, match=r"low_rank_scan: low_rank \(b, l, g or 1, k\) and weight \(g, k, d\) do not fit"):
        low_rank_scan(u, low_rank[..., :3], weight, *rest)
    with pytest.raises(ValueError, match="k is 0"):
        low_rank_scan(u, low_rank[..., :0], weight[:, :0], *rest)
    with pytest.raises(ValueError, match=r"u must be \(b, l, g, d\)"):
        low_rank_scan(u, low_rank[:, :5], weight, *rest)
    with pytest.raises(TypeError, match="u and weight must be float32"):
        low_rank_scan(u, low_rank, weight.double(), *rest)
    with pytest.raises(ValueError, match="weight is on meta, u on cpu"):
        low_rank_scan(u, low_rank, weight.to("meta"), *rest)
    with pytest.raises(ValueError, match="order is no permutation"):
        low_rank_scan(u, low_rank, weight, *rest[:-1], torch.zeros_like(rest[-1]))
