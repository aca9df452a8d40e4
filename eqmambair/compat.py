"""The only file that patches another package: lets the installed basicsr import beside current torchvision and Python.

basicsr 1.4.2 imports ``torchvision.transforms.functional_tensor`` (removed in torchvision 0.17) and ``distutils.version`` (removed in
Python 3.12). Both are put into ``sys.modules`` before its first import; nothing is written to disk. And torchvision's first import is
kept from importing torch's compiler, which takes as long as all the rest.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any


def _import_torchvision_without_the_compiler() -> None:
    """Import torchvision with a stand-in for ``torch._dynamo``, of which it takes one function for later use (in RoI align)."""
    names = ("torch._dynamo", "torch._dynamo.utils")
    if "torchvision" in sys.modules or any(name in sys.modules for name in names):
        return

    def remove() -> None:
        for name in names:
            if getattr(sys.modules.get(name), "is_stand_in", False):
                del sys.modules[name]

    def is_compile_supported(device_type: str) -> bool:
        return importlib.import_module(names[1]).is_compile_supported(device_type)

    for name in names:
        module = types.ModuleType(name, "Stand-in while torchvision is imported; anything else asked of it imports the real one.")

        def other(attribute: str, name: str = name) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            remove()
            return getattr(importlib.import_module(name), attribute)

        vars(module).update(is_stand_in=True, is_compile_supported=is_compile_supported, __getattr__=other, __path__=[])
        sys.modules[name] = module
    try:
        importlib.import_module("torchvision")
    finally:
        remove()


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
    _import_torchvision_without_the_compiler()
    _alias_functional_tensor()
    _alias_distutils_version()
