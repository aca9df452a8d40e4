"""The memory of a forward pass, from the tensors that are alive while it runs; on the meta device too, where nothing is held."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten


class PeakMemory(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts, inside its ``with`` block, the bytes of tensors that operators make, until the last tensor on them is gone.

    Not counted are what was there before, such as weights, and the workspaces inside an operator.

    Attributes:
        peak: the largest sum so far, bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in tree_flatten((args, kwargs or {}))[0]:
            if isinstance(each, Tensor):  # a view, or a result written in place, is no new memory
                self._watch(each, 0)
        result = func(*args, **(kwargs or {}))
        for each in tree_flatten(result)[0]:
            if isinstance(each, Tensor):
                self._watch(each, each.untyped_storage().nbytes())
        self.peak = max(self.peak, self._alive)
        return result

    def _watch(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        mark = id(storage)
        if mark not in self._seen:
            self._seen[mark] = size
            self._alive += size
            weakref.finalize(storage, self._release, mark)

    def _release(self, mark: int) -> None:
        self._alive -= self._seen.pop(mark)
