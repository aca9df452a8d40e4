"""The scan as an operator of torch: registration, tracing, export, autocast, and what it says to wrong inputs."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from eqmambair.ops import selective_scan
from tests.ops.cases import Case

op = torch.ops.eqmambair


def arguments_with_gradients(case: Case | None = None) -> list[Tensor | None]:
    arguments = (case or Case()).make()
    return [*(x.requires_grad_() for x in arguments[:7]), arguments[7]]


@pytest.mark.parametrize("order", ["none", "shared", "each"])
def test_opcheck(order) -> None:
    arguments = arguments_with_gradients(Case(order=order))
    torch.library.opcheck(op.selective_scan, arguments)
    torch.library.opcheck(op.selective_scan_forward, (*arguments, True, 64, True))
    plain = [x.detach() if x is not None else None for x in arguments]
    y, states = op.selective_scan_forward(*plain, True, 64, True)
    torch.library.opcheck(op.selective_scan_backward, (torch.ones_like(y), *plain, states, True, 64))


def test_compiled_graph_gives_the_same_result_and_gradients() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: selective_scan(*x).sin(), fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (70, 33):
        arguments = arguments_with_gradients(Case(length=length))
        got = torch.autograd.grad(compiled(*arguments).sum(), arguments[:7])
        wanted = torch.autograd.grad(selective_scan(*arguments).sin().sum(), arguments[:7])
        for g, w in zip(got, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)


class Scan(nn.Module):
    def forward(self, u, delta, A, B, C, order):
        return selective_scan(u, delta, A, B, C, order=order)


def test_export_with_any_length() -> None:
    arguments = Case(length=40).make()
    length = torch.export.Dim("length", min=1, max=10_000)
    tokens = {1: length}
    program = torch.export.export(
        Scan(), (*arguments[:5], arguments[7]), dynamic_shapes=(tokens, tokens, None, tokens, tokens, {1: length})
    )
    for decomposed in (program, program.run_decompositions()):
        for size in (1, 40, 129):
            other = Case(length=size).make()
            given = (*other[:5], other[7])
            torch.testing.assert_close(decomposed.module()(*given), Scan()(*given), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_takes_half_inputs_and_keeps_float32_parameters(dtype) -> None:
    arguments = arguments_with_gradients(Case(length=130))
    with torch.autocast("cpu", dtype):
        y = selective_scan(*arguments)
    half = [x.detach().to(dtype) if i in (0, 1, 3, 4) else x for i, x in enumerate(arguments)]
    assert y.dtype == dtype
    torch.testing.assert_close(y, selective_scan(*half), rtol=0, atol=0)
    y.float().sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in arguments[:7])


def test_parameters_in_half_types_are_widened() -> None:
    arguments = [x.to(torch.bfloat16) if x is not None and x.is_floating_point() else x for x in Case().make()]
    wide = [x.float() if i in (2, 5, 6) else x for i, x in enumerate(arguments)]
    torch.testing.assert_close(selective_scan(*arguments), selective_scan(*wide), rtol=0, atol=0)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    arguments = Case().make()
    arguments[2].requires_grad_()
    selective_scan(*arguments).sum().backward()
    assert arguments[2].grad is not None
    assert arguments[0].grad is None


def test_second_derivative_is_refused() -> None:
    arguments = arguments_with_gradients()
    (grad,) = torch.autograd.grad(selective_scan(*arguments).sum(), arguments[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        grad.sum().backward()


def test_deep_copy_and_inference_mode() -> None:
    arguments = Case().make()
    with torch.inference_mode():
        y = selective_scan(*copy.deepcopy(arguments))
    torch.testing.assert_close(y.clone(), selective_scan(*arguments), rtol=0, atol=0)


def change(index, new):
    def apply(arguments):
        arguments[index] = new(arguments[index])

    return apply


WRONG = {
    "delta of three dimensions": (change(1, lambda x: x[0]), ValueError, "delta must be (b, l, g, d)"),
    "A of two dimensions": (change(2, lambda x: x[0]), ValueError, "A must be (g, d, n)"),
    "u too short": (change(0, lambda x: x[:, 1:]), ValueError, "u must be (b, l, g, d)"),
    "u of another number of groups": (change(0, lambda x: x.repeat(1, 1, 2, 1)), ValueError, "u must be"),
    "B without groups": (change(3, lambda x: x[:, :, 0]), ValueError, "B must be (b, l, g, n)"),
    "C of other states": (change(4, lambda x: x[..., 1:]), ValueError, "C must be (b, l, g, n)"),
    "D flat": (change(5, lambda x: x.flatten()), ValueError, "D must be (g, d)"),
    "bias of one group": (change(6, lambda x: x[:1]), ValueError, "delta_bias must be (g, d)"),
    "order too short": (change(7, lambda x: x[:, 1:]), ValueError, "order must be"),
    "order of one dimension": (change(7, lambda x: x[0]), ValueError, "order must be"),
    "order of reals": (change(7, lambda x: x.float()), TypeError, "order must be int32 or int64"),
    "order beyond the end": (change(7, lambda x: x + 1), ValueError, "no permutation"),
    "order below zero": (change(7, lambda x: x - 1), ValueError, "no permutation"),
    "order with a repetition": (change(7, lambda x: torch.cat([x[:, :-1], x[:, :1]], 1)), ValueError, "no permutation"),
    "integer u": (change(0, lambda x: x.long()), TypeError, "u must be float32"),
    "delta of another type": (change(1, lambda x: x.double()), TypeError, "delta must be typed as u"),
    "integer A": (change(2, lambda x: x.long()), TypeError, "A must be of a real type"),
    "another device": (change(3, lambda x: x.to("meta")), ValueError, "B is on meta"),
}


@pytest.mark.parametrize(("wrong", "error", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_inputs_are_named(wrong, error, says) -> None:
    arguments = Case().make()
    wrong(arguments)
    with pytest.raises(error, match=re.escape(says)):
        selective_scan(*arguments)


@pytest.mark.parametrize("name", ["batch", "length", "groups", "channels", "states"])
def test_sizes_of_zero_are_refused(name) -> None:
    arguments = Case(**{name: 0, "order": "none"}).make()
    with pytest.raises(ValueError, match=f"{name} is 0"):
        selective_scan(*arguments)
