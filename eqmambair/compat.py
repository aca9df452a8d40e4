"""The only file that patches another package: lets the installed basicsr import beside current torchvision and Python.

basicsr 1.4.2 imports ``torchvision.transforms.functional_tensor`` (removed in torchvision 0.17) and ``distutils.version`` (removed in
Python 3.12). Both are put into ``sys.modules`` before its first import; nothing is written to disk.
"""

import importlib.util
import sys
import types


def _alias_functional_tensor() -> None:
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = types.ModuleType(name, "Stand-in: what basicsr takes from here lives in torchvision.transforms.functional today.")
    module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module


def _alias_distutils_version() -> None:
    if importlib.util.find_spec("distutils") is not None:
        return
    from packaging.version import Version

    module = types.ModuleType("distutils.version", "Stand-in: basicsr compares torch versions with LooseVersion.")
    module.LooseVersion = Version  # type: ignore[attr-defined]
    parent = types.ModuleType("distutils")
    parent.version = module  # type: ignore[attr-defined]
    sys.modules["distutils"] = parent
    sys.modules["distutils.version"] = module


def make_basicsr_importable() -> None:
    """Put the missing modules in place; calling it again does nothing."""
    _alias_functional_tensor()
    _alias_distutils_version()
