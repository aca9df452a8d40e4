"""Packaging. The kernels in csrc/ are compiled here when torch and a C++ compiler are at hand, else at first use."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
VERSION = (ROOT / "eqmambair" / "version.py").read_text().split('"')[1]

DEPENDENCIES = [
    "torch>=2.4",
    "torchvision",
    "basicsr",
    "timm",
    "opencv-python",
    "lmdb",
    "scikit-image",
    "pyyaml",
    "tensorboard",
    "ninja",
    "torchmetrics",
    "safetensors",
    "tqdm",
    "pydantic>=2",
    "scipy",
    "matplotlib",
    "filelock",
]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"]
TEST = ["pytest>=8", "pytest-xdist", "hypothesis", "pycocotools", "spandrel>=0.4", "av>=17", *ONNX]
COMMANDS = {
    "train": "train",
    "test": "test",
    "infer": "inference",
    "classify": "classify",
    "segment": "segment",
    "detect": "detect",
    "rotated": "rotated_benchmark",
    "labels": "prepare_labels",
    "evaluate": "evaluate",
    "data": "prepare_datasets",
    "benchmark": "benchmark",
    "equivariance": "equivariance",
    "complexity": "complexity",
    "convert": "convert_weights",
    "onnx": "export_onnx",
    "zoo": "zoo",
    "demo": "demo",
    "lam": "lam",
    "erf": "erf",
}


def recipe():
    """eqmambair/ops/build.py by its path: importing the package would need everything it depends on."""
    spec = importlib.util.spec_from_file_location("eqmambair_build", ROOT / "eqmambair" / "ops" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildKernels(build_ext):
    """Compiles the libraries by the package's own recipe; what cannot be compiled is left to the first use."""

    def get_ext_filename(self, fullname):
        *package, name = fullname.split(".")
        return str(Path(*package, recipe().library_name(name.rsplit("_", 1)[1])))

    def build_extension(self, ext):
        build = recipe()
        device = ext.name.rsplit("_", 1)[1]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        try:
            if device == "cpu":
                build.build_cpu(target)
            else:
                build.build_cuda(target, build.CAPABILITIES)
        except build.BuildError as error:
            print(f"WARNING: eqmambair: the {device} kernels were not compiled ({error}); plain torch runs until they are", file=sys.stderr)
            print(error.log, file=sys.stderr)
            self.missing = getattr(self, "missing", set()) | {ext.name}

    def get_outputs(self):
        return [path for path in super().get_outputs() if Path(path).is_file()]

    def copy_extensions_to_source(self):
        missing = getattr(self, "missing", set())
        self.extensions = [ext for ext in self.extensions if ext.name not in missing]
        super().copy_extensions_to_source()


def extensions():
    try:
        import torch
    except ImportError:
        return []
    devices = ["cpu"]
    wanted = os.environ.get("EQMAMBAIR_CUDA", "auto")
    if wanted == "1" or (wanted == "auto" and torch.cuda.is_available() and recipe().nvcc()):
        devices.append("cuda")
    if sys.platform == "win32" or not (recipe().compiler() and shutil.which(recipe().compiler())):
        print("WARNING: eqmambair: no C++ compiler found; the selective scan will run in plain torch", file=sys.stderr)
        return []
    return [Extension(f"eqmambair.ops._scan_{device}", sources=[]) for device in devices]


setup(
    name="eqmambair",
    version=VERSION,
    description="Mamba-family networks for image restoration, equivariant ones among them",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["eqmambair", "eqmambair.*"]), "eqmambair._csrc"],
    package_dir={"eqmambair._csrc": "csrc"},
    package_data={
        "eqmambair._csrc": ["*.cpp", "*.h", "cpu/*", "cuda/*"],
        "eqmambair": ["py.typed", "weights/*.safetensors", "zoo/weights.yml", "demo/page.html"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernels},
    install_requires=DEPENDENCIES,
    extras_require={
        "detection": ["pycocotools"],
        "spandrel": ["spandrel>=0.4"],
        "video": ["av>=17"],
        "demo": [],  # the page needs nothing more
        "onnx": ONNX,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.17.5,<0.18", "mypy>=2.4,<2.5"],
    },
    entry_points={"console_scripts": [f"eqmambair-{name} = eqmambair.cli.{module}:cli" for name, module in COMMANDS.items()]},
    zip_safe=False,
)
