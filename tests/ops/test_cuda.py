"""The CUDA kernels: their arithmetic emulated on the CPU, their compiling where there is an nvcc, their results where there is a GPU."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from eqmambair.ops import build, selective_scan
from eqmambair.ops.scan import CHUNK
from tests.ops.cases import Case, plain_scan, value_and_gradients

CASES = {
    "one": Case(1, 1, 1, 1, 1),
    "part of a chunk": Case(2, CHUNK - 3, 2, 5, 3, order="each"),
    "several segments": Case(2, 6 * CHUNK + 9, 2, 37, 4, order="each"),
    "one u": Case(1, 3 * CHUNK, 3, 70, 8, shared_u=True),
    "more states than at once": Case(1, 2 * CHUNK + 1, 1, 33, 37, order="none"),
}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    compiler = build.compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    library = tmp_path_factory.mktemp("emulated") / "walks.so"
    source = Path(__file__).with_name("cuda_walks.cpp")
    command = [compiler, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{build.sources()}", str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(library)).scan


def emulate(scan, case: Case, arguments, grad, segment_chunks: int, softplus: bool):
    """What the kernels would give: y and the gradients of the seven inputs."""
    b, length, g, d, n = case.batch, case.length, case.groups, case.channels, case.states
    segments = -(-length // (segment_chunks * CHUNK))
    warps = -(-d // 32)

    def new(*shape):
        return torch.full(shape, torch.nan)

    y, kept = new(b, length, g, d), new(b, -(-length // CHUNK), g, n, d)
    du, ddelta, dB, dC = new(b, length, g, d), new(b, length, g, d), new(warps, b, length, g, n), new(warps, b, length, g, n)
    dA, dD, dbias = new(b * segments, g, n, d), new(b * segments, g, d), new(b * segments, g, d)
    scratch = [new(b, segments, g, n, d), new(b, segments, g, d), new(2, b, length, g, d)]
    order = arguments[7]
    tensors = [*arguments[:7], None if order is None else order.int(), grad, y, kept, du, ddelta, dB, dC, dA, dD, dbias, *scratch]
    pointers = (ctypes.c_void_p * len(tensors))(*[None if x is None else x.data_ptr() for x in tensors])
    sizes = [b, length, g, d, n, segment_chunks * CHUNK, int(case.order == "each"), int(softplus), int(case.shared_u)]
    for backwards in (0, 1):
        scan((ctypes.c_int64 * len(sizes))(*sizes), pointers, backwards)
    du = du.sum(2, keepdim=True) if case.shared_u else du
    return [y, du, ddelta, dA.sum(0).transpose(1, 2), dB.sum(0), dC.sum(0), dD.sum(0), dbias.sum(0)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("segment_chunks", [1, 2, 100])
@pytest.mark.parametrize("softplus", [True, False])
def test_walks_of_warps_give_the_plain_result_and_gradients(emulated, case, segment_chunks, softplus) -> None:
    arguments = case.make()
    if not softplus:
        arguments[1], arguments[6] = arguments[1].abs(), arguments[6].abs()
    exact = [x.double() if x is not None and x.is_floating_point() else x for x in arguments]
    expected = value_and_gradients(plain_scan, exact, softplus)
    grad = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).float()
    names = ["y", "u", "delta", "A", "B", "C", "D", "delta_bias"]
    for name, got, wanted in zip(names, emulate(emulated, case, arguments, grad, segment_chunks, softplus), expected, strict=True):
        torch.testing.assert_close(got, wanted.float(), rtol=1e-4, atol=3e-5 * float(wanted.abs().max()), msg=lambda m, n=name: f"{n}: {m}")


def test_an_order_that_reaches_outside_is_kept_inside(emulated) -> None:
    case = Case(1, 70, 1, 5, 3)
    arguments = case.make()
    arguments[7] = arguments[7] * 1000 - 7000
    y = emulate(emulated, case, arguments, torch.ones(1, 70, 1, 5), 1, True)[0]
    assert bool(y[:, [0, -1]].isfinite().all())  # the ends, where the steps outside were sent; what no step visits is not written


@pytest.mark.slow
def test_kernels_compile_for_every_capability(tmp_path) -> None:
    nvcc = build.nvcc()
    if nvcc is None:
        pytest.skip("no nvcc here")
    known = set(build.nvcc_capabilities(nvcc))
    wanted = [c for c in build.CAPABILITIES if c in known]
    assert wanted, f"nvcc knows {sorted(known)}"
    codes = [flag for c in wanted for flag in ("-gencode", f"arch=compute_{c},code=sm_{c}")]
    for source in ("scan_forward", "scan_backward"):
        command = [nvcc, "-std=c++17", "-O1", "-c", "--threads", "0", *codes, str(build.sources() / "cuda" / f"{source}.cu")]
        done = subprocess.run([*command, "-o", str(tmp_path / f"{source}.o")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr


def on(device: str, arguments):
    return [None if x is None else x.to(device) for x in arguments]


@pytest.mark.cuda
@pytest.mark.parametrize("case", [*CASES.values(), Case(1, 5000, 4, 72, 16, order="each"), Case(1, 9, 1, 3, 256)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_gpu_gives_the_plain_result_and_gradients(case, dtype, bound) -> None:
    arguments = case.make(dtype)
    got = value_and_gradients(selective_scan, on("cuda", arguments))
    for a, wanted in zip(got, value_and_gradients(plain_scan, arguments), strict=True):
        assert float((a.cpu().float() - wanted.float()).abs().max()) <= bound * float(wanted.float().abs().max())


@pytest.mark.cuda
def test_gpu_gives_the_same_bits_twice() -> None:
    arguments = on("cuda", Case(2, 1000, 4, 72, 10).make())
    for a, b in zip(value_and_gradients(selective_scan, arguments), value_and_gradients(selective_scan, arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
