"""The recipe that turns csrc/ into a library that torch can load: used by setup.py ahead of time and by backends.py just in time.

It needs a C++ compiler that knows GCC's command line and nothing else; nvcc for the CUDA library. No module of this package is imported,
so that setup.py can run this file alone. The name of a library tells the torch version and the sources it was made from, so a library
that fits nothing any more is never loaded: it is just not found.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_HERE = Path(__file__).resolve().parent
OPTIMISE = ["-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"]
# The kernels are compiled once for each of these and chosen when the library is loaded.
_X86_SETS = {
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mprfchw"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "baseline": [],
}
_CPU_KERNELS = ["cpu/scan_forward.cpp", "cpu/scan_backward.cpp", "cpu/depthwise.cpp", "cpu/group_linear.cpp"]
_CPU_ONCE = ["cpu/dispatch.cpp"]
_CPU_BINDINGS = ["bindings_cpu.cpp", "bindings_layers_cpu.cpp"]
_CUDA_KERNELS = ["cuda/scan_forward.cu", "cuda/scan_backward.cu"]
# Compute capabilities that a library for any GPU is built for, those that nvcc does not know left out.
CAPABILITIES = ["70", "75", "80", "86", "89", "90", "100", "120"]


class BuildError(Exception):
    """Why there is no library, in one line; what the compiler said is in ``log``."""

    def __init__(self, why: str, log: str = "") -> None:
        super().__init__(why)
        self.log = log


def sources() -> Path:
    """The folder csrc/: of the checkout, or the copy that an installed package carries."""
    for folder in (_HERE.parents[1] / "csrc", _HERE.parent / "_csrc"):
        if (folder / "cpu" / "scan.h").is_file():
            return folder
    raise BuildError("the C++ sources are not there")


def library_name(device: str) -> str:
    """The file name of the library for ``device`` made from these sources for the torch that is installed."""
    import torch

    digest = hashlib.sha256(Path(__file__).read_bytes())
    folder = sources()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"_scan_{device}-torch{torch.__version__}-{platform.machine()}-{digest.hexdigest()[:12]}.so"


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of c++, g++, clang++ on the path."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    return None


def nvcc() -> str | None:
    """The CUDA compiler: in $CUDA_HOME, else on the path."""
    home = os.environ.get("CUDA_HOME")
    if home and (found := shutil.which("nvcc", path=str(Path(home) / "bin"))):
        return found
    return shutil.which("nvcc")


def nvcc_capabilities(nvcc_path: str) -> list[str]:
    """The compute capabilities that this nvcc compiles for, as '75'."""
    said = subprocess.run([nvcc_path, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    return re.findall(r"compute_(\d+)\b", said)


def build_cpu(target: Path) -> None:
    """Make the CPU library at ``target``. Raises BuildError."""
    cxx = _compiler_or_error()
    sets = _X86_SETS if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": []}
    jobs = [(source, [*OPTIMISE, *flags, "-std=c++17"], name) for source in _CPU_KERNELS for name, flags in sets.items()]
    jobs += [(source, [*OPTIMISE, "-std=c++17"], "once") for source in _CPU_ONCE]
    jobs += [(source, [*_torch_compile_flags(), *_openmp()], "torch") for source in _CPU_BINDINGS]
    _build(target, [(source, name, [cxx, *flags]) for source, flags, name in jobs], [cxx, "-shared", *_openmp()], ["torch_cpu", "c10"])


def build_cuda(target: Path, capabilities: list[str]) -> None:
    """Make the CUDA library at ``target`` for GPUs of these capabilities ('90'). Raises BuildError."""
    cxx = _compiler_or_error()
    nvcc_path = nvcc()
    if nvcc_path is None:
        raise BuildError("no nvcc found: neither in CUDA_HOME nor on the path")
    known = nvcc_capabilities(nvcc_path)
    chosen = [c for c in capabilities if c in known]
    if not chosen:
        raise BuildError(f"this nvcc does not compile for compute capability {', '.join(capabilities)}")
    codes = [flag for c in chosen for flag in ("-gencode", f"arch=compute_{c},code=sm_{c}")]
    newest = max(chosen, key=int)
    codes += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    # nvcc compiles and links all of it: it alone knows where its headers and libraries are.
    driver = [nvcc_path, "-ccbin", cxx, "-Xcompiler", "-fPIC"]
    jobs = [(source, "cuda", [*driver, "-O3", "-std=c++17", "--threads", "0", *codes]) for source in _CUDA_KERNELS]
    plain_flags = [flag for flag in _torch_compile_flags() if flag not in ("-fPIC", "-w")]
    jobs.append(("bindings_cuda.cpp", "torch", [*driver, "-x", "c++", "-w", *plain_flags]))
    _build(target, jobs, [*driver, "-shared", "-cudart", "static"], ["torch_cuda", "torch_cpu", "c10_cuda", "c10"])


def _compiler_or_error() -> str:
    if sys.platform == "win32":
        raise BuildError("the kernels are written for GCC and Clang, and are not built on Windows")
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler found: neither CXX nor c++, g++, clang++ on the path")
    return cxx


def _openmp() -> list[str]:
    # at::parallel_for runs in the threads of OpenMP; Apple's compiler comes without, and then it runs in one.
    return [] if sys.platform == "darwin" else ["-fopenmp"]


def _torch_compile_flags() -> list[str]:
    import torch

    root = Path(torch.__file__).parent / "include"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    standard = "-std=c++20" if version >= (2, 9) else "-std=c++17"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    return ["-O2", "-fPIC", "-w", standard, abi, f"-I{root}", f"-I{root / 'torch' / 'csrc' / 'api' / 'include'}"]


def _build(target: Path, jobs: list[tuple[str, str, list[str]]], link: list[str], libraries: list[str]) -> None:
    import torch

    folder = sources()
    target.parent.mkdir(parents=True, exist_ok=True)
    torch_lib = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory(prefix="eqmambair-build-") as scratch:

        def compile_one(job: tuple[str, str, list[str]]) -> str:
            source, name, command = job
            result = str(Path(scratch) / f"{source.replace('/', '-')}-{name}.o")
            _run([*command, "-c", str(folder / source), "-o", result], source)
            return result

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            # The longest jobs, those that include torch, stand last in the list: start them first.
            objects = list(pool.map(compile_one, reversed(jobs)))
        library = Path(scratch) / "library.so"
        runtime = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        _run(
            [*link, *objects, f"-L{torch_lib}", *(f"-l{name}" for name in libraries), *runtime, "-o", str(library)],
            "library",
        )
        # Into place by renaming within one folder: whoever looks sees the whole library or none.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as copy:
            copy.write(library.read_bytes())
        os.chmod(copy.name, 0o755)
        os.replace(copy.name, target)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed on {what}", " ".join(command) + "\n" + done.stdout + done.stderr)
