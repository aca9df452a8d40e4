"""Samples whose random numbers depend on (seed, epoch, index) alone, and whose failures name the file."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eqmambair.data.sampler import Key
from eqmambair.errors import UserError

_MOST_SUBSTITUTES = 100


@dataclass
class Loaded:
    """What a loader process hands over: a batch, or why there is none; and what was left out on the way."""

    batch: Any = None
    error: str | None = None
    skipped: list[str] = field(default_factory=list)


class SeededDataset(torch.utils.data.Dataset[Loaded]):
    """Wraps any map-style data set; takes keys.

    Python's, numpy's and torch's global generators are seeded for each sample and put back afterwards, so it matters neither which process
    loads a sample nor what was drawn before, and transforms of any library are reproducible.

    Args:
        dataset: with ``__getitem__(index)``; ``describe(index)`` gives names for messages if it is there, ``draw(index, size)`` crops of
            another size than usual.
        seed: of the run.
        skip: take the next sample where one cannot be read, instead of failing.
    """

    def __init__(self, dataset: Any, seed: int, skip: bool = False) -> None:
        self.dataset, self.seed, self.skip = dataset, seed, skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Loaded:
        epoch, index, size = key
        skipped: list[str] = []
        for attempt in range(min(len(self.dataset), _MOST_SUBSTITUTES) if self.skip else 1):
            at = (index + attempt) % len(self.dataset)
            try:
                return Loaded(self._draw(epoch, at, size), skipped=skipped)
            except UserError as error:
                skipped.append(str(error))
            except (OSError, ValueError, RuntimeError, MemoryError, AssertionError, KeyError, TypeError) as error:
                name = self.dataset.describe(at) if hasattr(self.dataset, "describe") else f"sample {at}"
                skipped.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
        return Loaded(error=skipped[0] if len(skipped) == 1 else f"{len(skipped)} samples in a row cannot be read, the first: {skipped[0]}")

    def _draw(self, epoch: int, index: int, size: int | None) -> Any:
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(4, np.uint32)
        random.seed(int(state[0]) << 32 | int(state[1]))
        np.random.seed(state[2:])
        torch.default_generator.manual_seed(int(state[3]) << 32 | int(state[0]))
        try:
            return self.dataset[index] if size is None else self.dataset.draw(index, size)
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.set_rng_state(kept[2])


@dataclass
class CollateLoaded:
    """Joins samples to a batch; the first error takes the place of the batch."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: Sequence[Loaded]) -> Loaded:
        skipped = [message for sample in samples for message in sample.skipped]
        for sample in samples:
            if sample.error is not None:
                return Loaded(error=sample.error, skipped=skipped)
        try:
            return Loaded(self.collate([sample.batch for sample in samples]), skipped=skipped)
        except (RuntimeError, TypeError, KeyError) as error:
            return Loaded(error=f"samples do not fit into one batch: {' '.join(str(error).split())[:300]}")
