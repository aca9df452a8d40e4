"""The scan of every backend against the oracle, and the laws that any backend keeps."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from eqmambair.ops import backends, selective_scan
from eqmambair.ops.scan import CHUNK
from tests.golden import GoldenCase
from tests.ops.cases import Case, plain_scan, value_and_gradients
from tests.oracles import scan as oracle

BACKENDS = {"plain": plain_scan, "compiled": selective_scan}

CASES = {
    "one": Case(1, 1, 1, 1, 1),
    "chunk - 1": Case(2, CHUNK - 1, 2, 5, 3, order="each"),
    "chunk": Case(2, CHUNK, 1, 17, 4, order="none"),
    "chunk + 1": Case(1, CHUNK + 1, 2, 40, 10, shared_u=True),
    "several chunks": Case(2, 3 * CHUNK + 5, 4, 16, 16, order="each"),
    "many states": Case(1, 9, 1, 3, 256),
    "odd states": Case(1, 2 * CHUNK, 3, 33, 31, shared_u=True, order="each"),
    "many channels": Case(1, CHUNK + 3, 1, 210, 5),
}


@pytest.fixture(params=BACKENDS)
def scan(request: pytest.FixtureRequest):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    return BACKENDS[request.param]


def numpy(arguments):
    return [None if x is None else x.numpy() if x.dtype != torch.bfloat16 else x.double().numpy() for x in arguments]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("softplus", [True, False])
def test_result_is_the_oracles(scan, case, softplus) -> None:
    arguments = case.make()
    if not softplus:
        arguments[1] = arguments[1].abs()
        arguments[6] = arguments[6].abs()
    y = scan(*arguments, delta_softplus=softplus)
    expected = oracle.selective_scan(*numpy(arguments), delta_softplus=softplus)
    # Float32 sums of up to 256 states, each with the rounding of a product of decays.
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()), check_dtype=False)


def test_plain_backend_in_float64_is_the_oracle_to_the_last_digits() -> None:
    for case in CASES.values():
        arguments = case.make(torch.float64)
        expected = torch.from_numpy(oracle.selective_scan(*numpy(arguments)))
        torch.testing.assert_close(plain_scan(*arguments), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", ["none", "shared", "each"])
@pytest.mark.parametrize("shared_u", [False, True])
def test_plain_gradients_are_those_of_finite_differences(order, shared_u, monkeypatch) -> None:
    # Short chunks and segments, so that several of each are walked.
    monkeypatch.setattr("eqmambair.ops.scan.CHUNK", 4)
    monkeypatch.setattr("eqmambair.ops.plain._MOST_CHUNKS", 2)
    *inputs, order = Case(2, 11, 2, 2, 3, shared_u=shared_u, order=order).make(torch.float64)
    for softplus in (True, False):
        if not softplus:
            inputs = [x.abs() + 0.1 if i in (1, 6) else x for i, x in enumerate(inputs)]
        inputs = [x.detach().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(lambda *x, s=softplus: selective_scan(*x, order, s), inputs)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("softplus", [True, False])
def test_gradients_are_those_in_float64(scan, case, softplus) -> None:
    arguments = case.make()
    if not softplus:
        arguments[1] = arguments[1].abs()
        arguments[6] = arguments[6].abs()
    exact = [x.double() if x is not None and x.is_floating_point() else x for x in arguments]
    names = ["y", "u", "delta", "A", "B", "C", "D", "delta_bias"]
    expected = value_and_gradients(plain_scan, exact, softplus)
    for name, got, wanted in zip(names, value_and_gradients(scan, arguments, softplus), expected, strict=True):
        torch.testing.assert_close(
            got, wanted, rtol=1e-4, atol=3e-5 * float(wanted.abs().max()), check_dtype=False, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_differ_from_float32_by_their_rounding_alone(scan, dtype) -> None:
    half = Case(2, 2 * CHUNK + 3, 3, 19, 7, order="each").make(dtype)
    whole = [x.float() if x is not None and x.is_floating_point() else x for x in half]
    for got, wanted in zip(value_and_gradients(scan, half), value_and_gradients(scan, whole), strict=True):
        # The result is rounded once; its weights were rounded for the half type, which moves every gradient about as much.
        error = (got.float() - wanted).abs().max() / wanted.abs().max()
        assert error < 4 * torch.finfo(dtype).eps
    assert scan(*half).dtype == dtype


def test_optional_inputs_may_be_left_out(scan) -> None:
    arguments = Case().make()
    y = scan(*arguments[:5])
    expected = oracle.selective_scan(*numpy(arguments[:5]))
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=1e-5, atol=1e-5, check_dtype=False)
    for got, wanted in zip(value_and_gradients(scan, arguments[:5]), value_and_gradients(plain_scan, arguments[:5]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_strided_inputs_give_what_dense_ones_give(scan) -> None:
    arguments = Case(2, CHUNK + 9, 3, 18, 4, order="each").make()
    strided = []
    for i, x in enumerate(arguments):
        if x is None or x.ndim < 3 or i == 7:
            strided.append(x)
        elif i == 2:
            strided.append(x.transpose(0, 2).contiguous().transpose(0, 2))
        elif i % 2:  # groups before tokens in memory, rows dense; then rows apart
            strided.append(x.transpose(1, 2).contiguous().transpose(1, 2))
        else:
            strided.append(torch.stack([x, x], dim=-1)[..., 0])
    assert not any(x.is_contiguous() for i, x in enumerate(strided) if i < 5)
    for got, wanted in zip(value_and_gradients(scan, strided), value_and_gradients(scan, arguments), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_strided_gradient_of_the_result(compiled) -> None:
    arguments = Case().make()
    inputs = [x.requires_grad_() for x in arguments[:7]]
    y = selective_scan(*inputs, arguments[7])
    expanded = torch.autograd.grad(y.sum(), inputs)
    dense = torch.autograd.grad(selective_scan(*inputs, arguments[7]), inputs, torch.ones_like(y))
    for got, wanted in zip(expanded, dense, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_step_of_zero_leaves_the_state_as_it_is(scan) -> None:
    u, _, A, B, C, _, _, _ = Case(1, 3 * CHUNK, 2, 9, 4).make()
    delta = torch.zeros(1, 3 * CHUNK, 2, 9)
    delta[:, 0] = 1.0
    y = scan(u, delta, A, B, C[:, :1].expand_as(C), delta_softplus=False)
    torch.testing.assert_close(y, y[:, :1].expand_as(y), rtol=0, atol=0)


@pytest.mark.parametrize("size", [50.0, 1e4, 1e20])
def test_very_large_steps_forget_everything(scan, size) -> None:
    u, _, A, B, C, _, _, order = Case(1, 2 * CHUNK + 1, 2, 9, 4).make()
    delta = torch.full((1, 2 * CHUNK + 1, 2, 9), size)
    A = torch.full_like(A, -2.0)
    y = scan(u, delta, A, B, C, order=order)
    torch.testing.assert_close(y, size * u * (B * C).sum(-1, keepdim=True), rtol=1e-5, atol=1e-5 * size)


def test_scan_of_two_halves_equals_scan_of_the_whole(scan) -> None:
    # A whole sequence whose second half starts with a step that forgets everything is two sequences.
    length = CHUNK + 7
    u, delta, A, B, C, D, _, _ = Case(1, 2 * length, 2, 9, 4, order="none").make()
    delta[:, length] = 1e4
    A = -torch.ones_like(A)
    halves = [scan(*(x[:, part] for x in (u, delta)), A, *(x[:, part] for x in (B, C)), D) for part in (slice(length), slice(length, None))]
    torch.testing.assert_close(scan(u, delta, A, B, C, D), torch.cat(halves, dim=1), rtol=1e-4, atol=1e-3)


def test_an_order_is_a_permutation_before_and_its_inverse_after(scan) -> None:
    u, delta, A, B, C, D, bias, order = Case(2, 90, 3, 6, 4, order="each").make()
    index = order.transpose(1, 2)[..., None]

    def along(x):
        return x.gather(1, index.expand(-1, -1, -1, x.shape[-1]))

    moved = scan(along(u), along(delta), A, along(B), along(C), D, bias)
    y = scan(u, delta, A, B, C, D, bias, order)
    torch.testing.assert_close(along(y), moved, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scan(u, delta, A, B, C, D, bias, order.int()), y, rtol=0, atol=0)
    # The control: the same path in another direction gives something else.
    assert not torch.allclose(scan(u, delta, A, B, C, D, bias, order.flip(-1)), y, atol=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 3, 4])
def test_what_is_not_finite_stays_where_it_reaches(scan, bad, which) -> None:
    arguments = Case(1, CHUNK + 2, 1, 6, 3, order="none").make()
    arguments[which][0, 5, 0, 1] = bad
    y = scan(*arguments)
    expected = torch.from_numpy(oracle.selective_scan(*numpy(arguments)))
    assert bool((y.isfinite() | ~expected.isfinite()).all() | (bad != -float("inf")))
    assert bool((~y.isfinite())[~expected.isfinite()].all())
    before = y[:, :5]
    assert bool(before.isfinite().all())


def test_result_does_not_depend_on_the_number_of_threads(compiled) -> None:
    arguments = Case(2, 3 * CHUNK, 4, 210, 6, order="each").make()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(selective_scan, arguments))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for got, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)


GOLDEN = {"eq_mambair/module_recurrence": (4, 6), "vmamba/mod_selective_scan": (4, 3)}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_case(scan, shared_dir, name) -> None:
    groups, channels = GOLDEN[name]
    case = GoldenCase(shared_dir / "golden" / f"{name}.safetensors")
    given = {key: x.requires_grad_() for key, x in case.part("input").items()}

    def tokens(x):  # (b, g*d, l) to (b, l, g, d)
        return x.unflatten(1, (groups, channels)).permute(0, 3, 1, 2)

    y = scan(
        tokens(given["u"]),
        tokens(given["delta"]),
        given["A"].unflatten(0, (groups, channels)),
        given["B"].permute(0, 3, 1, 2),
        given["C"].permute(0, 3, 1, 2),
        given["D"].view(groups, channels),
        given["delta_bias"].view(groups, channels),
    )
    expected = case.tensors["output/y"]
    y = y.permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.pow(2).mean().backward()
    for key, grad in case.part("grad/input").items():
        torch.testing.assert_close(given[key].grad, grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()), msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("level", ["avx512", "avx2", "baseline"])
def test_kernels_of_every_instruction_set_agree_with_plain_torch(compiled, level) -> None:
    script = (
        "import torch\n"
        "from eqmambair.ops import selective_scan\n"
        "from tests.ops.cases import Case, plain_scan, value_and_gradients\n"
        "try: assert torch.ops.eqmambair.simd_level() if not selective_scan(*Case().make()) is None else 0\n"
        "except ValueError as error: print('cannot', error); raise SystemExit\n"
        "print(torch.ops.eqmambair.simd_level())\n"
        "for dtype, bound in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):\n"
        "    arguments = Case(2, 131, 2, 21, 11, order='each').make(dtype)\n"
        "    pairs = zip(value_and_gradients(selective_scan, arguments), value_and_gradients(plain_scan, arguments))\n"
        "    for a, b in pairs:\n"
        "        error = float((a.float() - b.float()).abs().max() / b.float().abs().max())\n"
        "        assert error < bound, (dtype, error)\n"
    )
    environment = os.environ | {"EQMAMBAIR_SIMD": level, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    if done.stdout.startswith("cannot"):
        pytest.skip(f"this processor does not run {level}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == level


def test_exponential_is_right_to_two_and_a_half_units_in_the_last_place(compiled) -> None:
    # A state of 1 (first token) decays by one step: y at the second token is 2^(step * log2(e) * A). With A = -ln 2 rounded so that
    # A log2(e) rounds to -1, the factor is 2^-step but for that rounding, which grows with the exponent and is taken out.
    steps = torch.cat([torch.linspace(0, 20, 4001), torch.linspace(20, 120, 1001)])
    d = steps.numel()
    delta = torch.stack([torch.ones(d), steps])[None, :, None]
    u = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 1, d).contiguous()
    A = torch.full((1, d, 1), -0.6931471805599453)
    one = torch.ones(1, 2, 1, 1)
    y = selective_scan(u, delta, A, one, one, delta_softplus=False)[0, 1, 0].double()
    rate = float(torch.tensor(1.4426950408889634) * A[0, 0, 0])
    expected = torch.exp2(steps.double() * rate)
    ulp = torch.exp2(torch.floor(torch.log2(expected)) - 23)
    assert float(((y - expected).abs() / ulp).max()) <= 2.5


def test_softplus_is_right_to_three_units_in_the_last_place(compiled) -> None:
    x = torch.cat([torch.linspace(-60, 60, 12001), torch.linspace(-1, 1, 4001), torch.tensor([1e4, 3e38])])
    d = x.numel()
    one = torch.ones(1, 1, 1, 1)
    y = selective_scan(torch.ones(1, 1, 1, d), x.view(1, 1, 1, d), -torch.ones(1, d, 1), one, one)[0, 0, 0].double()
    exact = x.double()
    expected = torch.clamp(exact, min=0) + torch.log1p(torch.exp(-exact.abs()))
    ulp = torch.exp2(torch.floor(torch.log2(expected)) - 23)
    assert float(((y - expected).abs() / ulp).max()) <= 3.0


@pytest.mark.parametrize("channels", [64, 63])
def test_results_too_large_for_the_caches(compiled, channels) -> None:
    # Above 4 MiB results are written past the caches, where their rows are whole vectors.
    arguments = Case(1, 4201, 4, channels, 1).make()
    names = ["y", "u", "delta", "A", "B", "C", "D", "delta_bias"]
    pairs = zip(value_and_gradients(selective_scan, arguments), value_and_gradients(plain_scan, arguments), strict=True)
    for name, (got, wanted) in zip(names, pairs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=3e-5 * float(wanted.abs().max()), msg=lambda m, n=name: f"{n}: {m}")


def test_memory_of_training_is_one_state_a_chunk() -> None:
    arguments = Case(1, 3 * CHUNK + 1, 2, 8, 16).make()
    _, states = torch.ops.eqmambair.selective_scan_forward(*arguments, True, CHUNK, True)
    assert states.shape == (1, 4, 2, 16, 8)
    _, states = torch.ops.eqmambair.selective_scan_forward(*arguments, True, CHUNK, False)
    assert states.numel() == 0


def test_backend_has_a_name() -> None:
    assert backends.backend("cpu") in ("cpu", "torch")
    assert backends.backend("meta") == "torch"
