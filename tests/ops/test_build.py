"""How the kernels come to be: built at first use, shared by processes, or not to be had and plain torch instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eqmambair.ops import build

ROOT = Path(__file__).resolve().parents[2]
SCAN = (
    "import sys, warnings; warnings.simplefilter('always')\n"
    "from eqmambair.ops import backend, selective_scan\n"
    "import torch\n"
    "selective_scan(torch.ones(1, 3, 1, 2), torch.ones(1, 3, 1, 2), -torch.ones(1, 2, 2), *[torch.ones(1, 3, 1, 2)] * 2)\n"
    "print(backend('cpu'))\n"
)


def start(code: str = SCAN, **environment: str) -> subprocess.Popen:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("EQMAMBAIR_")}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables | environment, cwd=ROOT
    )


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out.strip(), err


@pytest.fixture
def elsewhere(tmp_path) -> str:
    """A copy of the package without libraries built ahead of time, as the module path of a fresh process."""
    target = tmp_path / "copy"
    target.mkdir()
    for name in ("eqmambair", "csrc"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(target / name)], check=True)
    for library in (target / "eqmambair" / "ops").glob("*.so"):
        library.unlink()
    (target / "eqmambair" / "__init__.py").write_text("")  # eqmambair.ops needs torch alone
    return str(target)


@pytest.mark.slow
def test_two_processes_that_start_at_once_build_once(compiled, elsewhere, tmp_path) -> None:
    code = f"import sys; sys.path.insert(0, {elsewhere!r})\n" + SCAN
    cache = tmp_path / "fresh" / "cache"
    results = [outcome(p) for p in [start(code, EQMAMBAIR_CACHE=str(cache)) for _ in range(2)]]
    assert [(rc, out) for rc, out, _ in results] == [(0, "cpu"), (0, "cpu")], results
    assert sum(err.count("compiling the selective scan for cpu") for _, _, err in results) == 1
    assert [path.name for path in cache.glob("*.so")] == [build.library_name("cpu")]
    # The next process finds it and says nothing.
    rc, out, err = outcome(start(code, EQMAMBAIR_CACHE=str(cache)))
    assert (rc, out, err.count("compiling")) == (0, "cpu", 0)


def test_without_a_compiler_plain_torch_runs_and_one_warning_says_so(elsewhere, tmp_path) -> None:
    code = f"import sys; sys.path.insert(0, {elsewhere!r})\n" + SCAN
    rc, out, err = outcome(start(code, EQMAMBAIR_CACHE=str(tmp_path), CXX="/no/such/compiler"))
    assert (rc, out) == (0, "torch"), err
    assert err.count("runs in plain torch") == 1
    assert "no C++ compiler found" in err


def test_a_compiler_that_fails_is_asked_once(elsewhere, tmp_path) -> None:
    compiler = tmp_path / "broken"
    calls = tmp_path / "calls"
    compiler.write_text(f"#!/bin/sh\necho called >> {calls}\necho it is broken >&2\nexit 1\n")
    compiler.chmod(0o755)
    code = f"import sys; sys.path.insert(0, {elsewhere!r})\n" + SCAN
    rc, out, err = outcome(start(code, EQMAMBAIR_CACHE=str(tmp_path), CXX=str(compiler)))
    assert (rc, out) == (0, "torch")
    assert "broken failed on" in err
    before = calls.read_text()
    rc, out, err = outcome(start(code, EQMAMBAIR_CACHE=str(tmp_path), CXX=str(compiler)))
    assert (rc, out) == (0, "torch")
    assert "to try again" in err
    assert calls.read_text() == before


def test_plain_torch_can_be_forced() -> None:
    rc, out, err = outcome(start(EQMAMBAIR_BACKEND="torch"))
    assert (rc, out) == (0, "torch"), err
    assert "compiling" not in err


def test_a_backend_that_is_forced_and_cannot_be_had_is_an_error(elsewhere, tmp_path) -> None:
    code = f"import sys; sys.path.insert(0, {elsewhere!r})\n" + SCAN
    rc, _, err = outcome(start(code, EQMAMBAIR_BACKEND="cpu", EQMAMBAIR_CACHE=str(tmp_path), EQMAMBAIR_JIT="0"))
    assert rc != 0
    assert "EQMAMBAIR_BACKEND=cpu" in err
    rc, _, err = outcome(start(EQMAMBAIR_BACKEND="fast"))
    assert rc != 0
    assert "must be torch, cpu or cuda" in err


def test_library_name_tells_torch_and_sources() -> None:
    name = build.library_name("cpu")
    assert torch.__version__ in name
    assert name == build.library_name("cpu")
    assert name != build.library_name("cuda")


def test_environment_report_names_what_runs() -> None:
    rc, out, _ = outcome(
        subprocess.Popen([sys.executable, "-m", "eqmambair.env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    )
    assert rc == 0
    lines = dict(line.split(None, 1) for line in out.splitlines() if not line.startswith("scan"))
    assert lines["torch"] == torch.__version__
    assert "scan on cpu" in out
    assert "scan on cuda" in out
