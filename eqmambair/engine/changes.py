"""Options that differ from those a run was started with: which may, which may on request, which may not."""

import fnmatch
from typing import Any

SAFE = (
    "name",
    "num_gpu",
    "path.*",
    "val",
    "val.*",
    "logger",
    "logger.*",
    "dist_params.*",
    "find_unused_parameters",
    "datasets.val*",
    "datasets.test*",
    "datasets.train.name",
    "datasets.train.num_worker_per_gpu",
    "datasets.train.check",
    "train.total_iter",
    "train.nonfinite_limit",
)
NEVER = ("model_type", "scale", "network_g.*", "train.optim_g.type", "train.optim_g.amsgrad", "train.optim_g.centered")


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys (a.b.c) whose values differ, with both values."""
    old, new = _flat(before), _flat(now)
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def kind(key: str) -> str:
    """``safe`` (applied), ``never``, or ``asked`` (applied only on request)."""
    if any(fnmatch.fnmatchcase(key, pattern) for pattern in SAFE):
        return "safe"
    return "never" if any(fnmatch.fnmatchcase(key, pattern) for pattern in NEVER) else "asked"


def listed(found: dict[str, tuple[Any, Any]]) -> str:
    """``a.b: old -> new`` for each."""
    return "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in found.items())


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
