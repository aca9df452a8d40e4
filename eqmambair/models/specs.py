"""Mappings of an option file that stand for an object: a ``type`` and the arguments of what it names.

The registries are basicsr's. A class of ours that bears the name of one of basicsr's (``PairedImageDataset``, ``SRModel``) is registered
with the suffix ``eqmambair`` and found first, so official option files get ours and basicsr keeps its own.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, Registry

from eqmambair.errors import UserError

SUFFIX = "eqmambair"
REGISTRIES: dict[str, Registry] = {
    "network": ARCH_REGISTRY,
    "dataset": DATASET_REGISTRY,
    "loss": LOSS_REGISTRY,
    "metric": METRIC_REGISTRY,
    "model": MODEL_REGISTRY,
}


@dataclass(frozen=True)
class Registered:
    """Marks a schema field: a mapping whose ``type`` is looked up in the registry of this kind.

    Args:
        kind: a key of ``REGISTRIES``.
        hidden: arguments that only the caller gives.
        own: keys of the mapping that are the caller's, not arguments.
    """

    kind: str
    hidden: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


NetworkSpec = Annotated[dict[str, Any], Registered("network")]
LossSpec = Annotated[dict[str, Any], Registered("loss")]
MetricSpec = Annotated[dict[str, Any], Registered("metric", hidden=("img", "img2"), own=("better",))]


def nearest(word: str, words: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no word is near."""
    words = list(words)
    lower = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    if not found and len(word) > 3:
        found = [each for each in lower if each.startswith(word.lower()) or (len(each) > 3 and word.lower().startswith(each))][:1]
    return f"; did you mean {lower[found[0]]!r}?" if found else ""


def names(kind: str) -> list[str]:
    """Names that can stand as ``type``, sorted."""
    return sorted({name.removesuffix(f"_{SUFFIX}").removesuffix("_basicsr") for name in REGISTRIES[kind].keys()})  # noqa: SIM118 (no mapping)


def lookup(kind: str, name: str) -> Any:
    """The class or function that ``name`` stands for.

    Raises:
        UserError: nothing of that name is registered; the nearest name is told.
    """
    registered = REGISTRIES[kind]
    for candidate in (f"{name}_{SUFFIX}", name, f"{name}_basicsr"):
        if candidate in registered:
            return registered.get(candidate)
    raise UserError(f"unknown {kind} {name!r}{nearest(name, names(kind))}")


def build(kind: str, spec: dict[str, Any], **given: Any) -> Any:
    """Build what a checked mapping stands for; ``given`` are arguments of the caller."""
    arguments = {key: value for key, value in spec.items() if key != "type"}
    return lookup(kind, spec["type"])(**arguments, **given)
