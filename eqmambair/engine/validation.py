"""Validation over all ranks: each measures its share, and every figure is of the whole set."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqmambair.engine.distributed import Ranks
from eqmambair.engine.loader import validation_batches
from eqmambair.engine.logs import progress_bar
from eqmambair.models import Model, Record, ValidationRequest

_log = logging.getLogger("eqmambair")


@dataclass
class ValidationSet:
    """A data set to validate on, and which of its samples are sound."""

    key: str
    name: str
    section: Any
    dataset: Any
    indices: Sequence[int]


@dataclass
class SetResult:
    """What was measured on one set."""

    name: str
    summary: dict[str, float]
    records: list[Record]
    seconds: float = 0.0
    classes: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Results:
    """What was measured on all sets; ``stopped`` if it was broken off."""

    sets: list[SetResult] = field(default_factory=list)
    stopped: bool = False

    def means(self) -> dict[str, float]:
        """Each figure averaged over the sets that have it."""
        keys = dict.fromkeys(key for each in self.sets for key in each.summary)
        columns = {key: [each.summary[key] for each in self.sets if key in each.summary] for key in keys}
        return {key: sum(values) / len(values) for key, values in columns.items()}


def validate(
    model: Model,
    network: nn.Module,
    sets: Sequence[ValidationSet],
    ranks: Ranks,
    *,
    seed: int,
    save_to: Path | None = None,
    suffix: str = "",
    pictures: int = 0,
    bar: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    most: int | None = None,
) -> Results:
    """Measure a network on every set.

    Args:
        network: what to measure; its mode is put back afterwards.
        save_to: folder for pictures, one sub-folder a set.
        suffix: ending of their file names.
        pictures: how many records of each set carry pictures.
        should_stop: asked between samples; once any rank says yes the rest is left.
        most: samples of each set at most.
    """
    was_training = network.training
    network.eval()
    results = Results()
    try:
        with torch.no_grad():
            for each in sets:
                result, stopped = _one_set(model, network, each, ranks, seed, save_to, suffix, pictures, bar, should_stop, most)
                if stopped:
                    results.stopped = True
                    break
                results.sets.append(result)
    finally:
        network.train(was_training)
    return results


def _one_set(
    model: Model,
    network: nn.Module,
    each: ValidationSet,
    ranks: Ranks,
    seed: int,
    save_to: Path | None,
    suffix: str,
    pictures: int,
    bar: bool,
    should_stop: Callable[[], bool],
    most: int | None,
) -> tuple[SetResult, bool]:
    indices = list(each.indices)[:most]
    size = each.section.batch_size_per_gpu if model.batched_validation else 1
    batches = validation_batches(each.dataset, indices, each.section, model.collate, ranks, seed=seed, size=size)
    mine: list[tuple[int, Record]] = []
    stopped = False
    start = time.monotonic()
    total = len(indices[ranks.rank :: ranks.world])
    with progress_bar(total, f"{each.name}", show=bar and ranks.is_main, leave=False) as progress:
        for batch in batches:
            wanted = sum(ranks.rank + (len(mine) + ahead) * ranks.world < pictures for ahead in range(size))
            request = ValidationRequest(each.name, save_to / each.name if save_to else None, suffix, wanted)
            records = model.validation_step(network, model.move(batch), request)
            mine += [(ranks.rank + number * ranks.world, record) for number, record in enumerate(records, len(mine))]
            progress.update(len(records))
            if should_stop():
                stopped = True
                break
    batches.close()
    gathered = [pair for part in ranks.gather(mine) for pair in part]
    stopped = bool(ranks.largest(float(stopped))[0])
    records = [record for _, record in sorted(gathered, key=lambda pair: pair[0])]
    seconds = time.monotonic() - start
    return SetResult(each.name, model.summarise(records), records, seconds, model.per_class(records)), stopped
