"""The CPU kernels for ARM, cross-compiled and run in an emulator where there are both: no such processor is needed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from eqmambair.ops import build
from tests.ops.cases import Case, plain_scan, value_and_gradients

_COMPILER, _EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
_MISSING = [name for name in (_COMPILER, _EMULATOR) if shutil.which(name) is None]

pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"no {' and no '.join(_MISSING)} here")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("aarch64") / "scan"
    folder = build.sources()
    sources = [Path(__file__).with_name("scan_main.cpp"), folder / "cpu" / "scan_forward.cpp", folder / "cpu" / "scan_backward.cpp"]
    command = [_COMPILER, *build.OPTIMISE, "-std=c++17", "-static", f"-I{folder}", *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("case", [Case(1, 131, 2, 21, 11), Case(1, 70, 1, 97, 4), Case(1, 1, 1, 1, 1)], ids=str)
def test_scan_and_gradient_equal_plain_torch(program: Path, case: Case) -> None:
    arguments = case.make()
    expected = value_and_gradients(plain_scan, arguments)
    weights = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).float()
    *tensors, order = arguments
    sizes = np.array([case.length, case.groups, case.channels, case.states], np.int64)
    given = [sizes, *(x.numpy() for x in tensors), weights.numpy(), order.int().numpy()]
    # In the order in which the program reads them: the gradient of the result stands in front of the paths.
    done = subprocess.run([_EMULATOR, str(program)], input=b"".join(x.tobytes() for x in given), capture_output=True, check=True)
    y, du, ddelta, dA, dB, dC, dD, dbias = expected
    blocks = (len(done.stdout) // 4 - sum(x.numel() for x in (y, du, ddelta, dA, dD, dbias))) // (2 * dB.numel())
    got = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())
    shapes = [
        y.shape,
        du.shape,
        ddelta.shape,
        (1, *dA.transpose(1, 2).shape),
        (blocks, *dB.shape),
        (blocks, *dC.shape),
        dD.shape,
        dbias.shape,
    ]
    parts = [part.view(shape) for part, shape in zip(got.split([int(np.prod(s)) for s in shapes]), shapes, strict=True)]
    parts[3], parts[4], parts[5] = parts[3].sum(0).transpose(1, 2), parts[4].sum(0), parts[5].sum(0)
    for mine, theirs in zip(parts, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()) + 1e-12)  # as of the other sets
