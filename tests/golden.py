"""Reading the golden cases that lie beside the project (see `shared_dir`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor


class GoldenCase:
    """One case: tensors by name, metadata, and the state dict under official keys."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        self.kwargs: dict[str, Any] = json.loads(self.metadata["kwargs"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below ``prefix/``, without it."""
        return {key.removeprefix(f"{prefix}/"): value for key, value in self.tensors.items() if key.startswith(f"{prefix}/")}

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights, under official keys."""
        if self.metadata.get("weights") == "formula":
            return {key: formula_weight(key, shape, n) for n, (key, shape) in enumerate(json.loads(self.metadata["param_keys"]))}
        return self.part("state")


def formula_weight(key: str, shape: list[int], n: int) -> Tensor:
    """A parameter of a case whose weights follow the integer hash of the golden cases' README."""
    q = np.arange(np.prod(shape), dtype=np.uint32)
    h = q * np.uint32(0x9E3779B1) + np.uint32((n + 1) * 0x85EBCA6B & 0xFFFFFFFF)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    u = h / 2.0**32 - 0.5
    name = key.rsplit(".", 1)[-1]
    if name == "A_logs":
        value = np.log(1 + q % shape[-1]) + 0.4 * u
    elif name in ("Ds", "skip_scale", "skip_scale2") or (name == "weight" and len(shape) == 1):
        value = 1 + 0.4 * u
    elif name == "dt_projs_bias":
        value = -3 + 2 * u
    elif len(shape) >= 2:
        fan = shape[-1] if name in ("x_proj_weight", "dt_projs_weight") else np.prod(shape[1:])
        value = 3 * u / np.sqrt(fan)
    else:
        value = 0.2 * u
    return torch.from_numpy(value.astype(np.float32)).view(shape)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest entry of the reference."""
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()
