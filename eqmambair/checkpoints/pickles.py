"""Weight files that hold more than tensors: training frameworks store their configuration and their logs as objects beside the weights.

Nothing of such an object is built: an inert stand-in takes its place, whose content nobody reads. Only the rebuilding of tensors runs.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

#: Packages whose objects published files carry beside the weights: frameworks, and what their configurations and logs are made of.
_FRAMEWORKS = ("yacs", "mmengine", "mmcv", "mmseg", "mmdet", "numpy", "argparse", "timm", "addict", "datetime", "pathlib")

#: Functions and types by which such objects are pickled; a stand-in of theirs does nothing either. Old protocols use Python 2's names.
_PARTS = {
    "builtins": ("getattr", "set", "frozenset", "slice", "complex", "bytearray", "object", "dict", "list", "tuple"),
    "copyreg": ("_reconstructor",),
    "_codecs": ("encode",),
    "collections": ("defaultdict", "deque"),
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

#: What rebuilds tensors and plain values.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
}


class Inert(dict):
    """Stands for an object of another package; takes whatever a pickle gives it and does nothing with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Where the object was a list."""

    def extend(self, items: Any) -> None:
        """Where the object was a list."""


class ForbiddenName(pickle.UnpicklingError):
    """A pickle names what is neither a tensor, nor a plain value, nor an object of a training framework."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in _FRAMEWORKS or name in _PARTS.get(_PYTHON_2.get(module, module), ()):
            return Inert
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise ForbiddenName(f"{module}.{name}")


def load_beside_frameworks(path: Path) -> Any:
    """The content of a .pth file, with `Inert` for the objects of the training frameworks.

    Raises:
        ForbiddenName: if it holds anything else that is no tensor and no plain value; other errors if the file is damaged.
    """
    reader = SimpleNamespace(Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load(), __name__="pickles")
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
