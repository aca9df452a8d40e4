"""What this installation runs on: ``python -m eqmambair.env``. Paste its output into a bug report."""

import importlib.metadata
import platform
import subprocess
import sys

import torch

from eqmambair.ops import backends, build
from eqmambair.version import __version__


def report() -> dict[str, str]:
    """Names and values: versions, compilers, and what runs the scan on each device, with the reason where it is not a kernel."""
    lines = {
        "eqmambair": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "basicsr": _version("basicsr"),
        "torchvision": _version("torchvision"),
        "cuda": _cuda(),
        "compiler": _first_line(build.compiler()),
        "nvcc": build.nvcc() or "none",
        "threads": str(torch.get_num_threads()),
    }
    for device in ("cpu", "cuda"):
        name = backends.backend(device)
        why = "" if name != "torch" else ": " + (backends.why_not_faster(device).splitlines() or [""])[0]
        lines[f"scan on {device}"] = {"torch": "plain torch", device: "compiled kernels"}[name] + why
    if backends.load("cpu"):
        lines["scan on cpu"] += f", {torch.ops.eqmambair.simd_level()}"
    return lines


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    if not torch.version.cuda:
        return "torch is built without"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda}, no device"
    return f"{torch.version.cuda}, {torch.cuda.get_device_name()}"


def _first_line(compiler: str | None) -> str:
    if compiler is None:
        return "none"
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return f"{compiler} ({said.splitlines()[0]})" if said else compiler


def main() -> int:
    """Print the report."""
    lines = report()
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
