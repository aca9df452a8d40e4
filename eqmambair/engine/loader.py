"""Batches for the loop: prepared by other processes, taken in order, errors with the name of the file."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from eqmambair.data.sampler import EndlessSampler, Key, Stage
from eqmambair.data.seeded import CollateLoaded, Loaded, SeededDataset
from eqmambair.engine.distributed import Ranks
from eqmambair.engine.interrupts import ignore_in_worker
from eqmambair.engine.schema import DatasetOptions
from eqmambair.errors import UserError

_log = logging.getLogger("eqmambair")
Collate = Callable[[list[Any]], Any]


def _worker(_: int) -> None:
    ignore_in_worker()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)


class Batches:
    """An iterator over the batches of a sampler.

    Args:
        dataset: map-style.
        keys: batches of keys.
        collate: joins samples to a batch.
        seed: of the run.
        workers: loader processes; 0 loads here.
        pin: whether batches go to a GPU.
        skip: leave out samples that cannot be read.
    """

    def __init__(self, dataset: Any, keys: Any, collate: Collate, *, seed: int, workers: int, pin: bool, skip: bool = False) -> None:
        self.skipped = 0
        generator = torch.Generator()
        generator.manual_seed(seed)  # of the loader's own, so that it takes no number from the training's generator
        self._loader = torch.utils.data.DataLoader(
            SeededDataset(dataset, seed, skip),
            batch_sampler=keys,
            collate_fn=CollateLoaded(collate),
            num_workers=workers,
            worker_init_fn=_worker,
            pin_memory=False,
            generator=generator,
        )
        self._pin = pin
        self._iterator: Iterator[Loaded] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            UserError: a sample cannot be read, or a loader process has died.
        """
        if self._iterator is None:
            self._iterator = iter(self._loader)
        try:
            loaded = next(self._iterator)
        except (RuntimeError, ConnectionError, EOFError) as error:
            raise UserError(f"loading data failed: {' '.join(str(error).split())[:300]}") from error
        for message in loaded.skipped:
            self.skipped += 1
            _log.warning("left out: %s", message)
        if loaded.error is not None:
            raise UserError(loaded.error)
        return _pinned(loaded.batch) if self._pin else loaded.batch

    def close(self) -> None:
        """End the loader processes."""
        iterator, self._iterator = self._iterator, None
        shutdown = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def _pinned(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.pin_memory()
    if isinstance(batch, dict):
        return {key: _pinned(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(_pinned(value) for value in batch)
    return batch


def training_batches(
    dataset: Any,
    section: DatasetOptions,
    collate: Collate,
    ranks: Ranks,
    *,
    seed: int,
    first: int,
    last: int,
    accumulate: int = 1,
    indices: Sequence[int] | None = None,
) -> Batches:
    """Batches of this rank for the forward passes ``first`` to ``last``, ``accumulate`` of them a step."""
    sampler = EndlessSampler(
        range(len(dataset)) if indices is None else indices,
        stages(section, accumulate),
        seed=seed,
        first=first,
        last=last,
        shuffle=section.use_shuffle,
        rank=ranks.rank,
        world=ranks.world,
    )
    skip = section.on_bad_file == "skip"
    pin = ranks.device.type == "cuda"
    return Batches(dataset, sampler, collate, seed=seed, workers=section.num_worker_per_gpu, pin=pin, skip=skip)


def stages(section: DatasetOptions, accumulate: int) -> list[Stage]:
    """Parts of training with their batch and crop sizes: one, or those of ``iters``, ``mini_batch_sizes`` and ``gt_sizes``."""
    if section.iters is None:
        return [Stage(None, section.batch_size_per_gpu)]
    batches = section.mini_batch_sizes or [section.batch_size_per_gpu] * len(section.iters)
    sizes: Sequence[int | None] = section.gt_sizes or [None] * len(section.iters)
    return [Stage(steps * accumulate, batch, size) for steps, batch, size in zip(section.iters, batches, sizes, strict=True)]


def validation_batches(
    dataset: Any, indices: Sequence[int], section: DatasetOptions, collate: Collate, ranks: Ranks, *, seed: int, size: int = 1
) -> Batches:
    """Batches of ``size`` samples: those of this rank, in order, with the random numbers of epoch 0."""
    mine = [Key(0, index) for index in indices[ranks.rank :: ranks.world]]
    keys = [mine[start : start + size] for start in range(0, len(mine), size)]
    workers = min(section.num_worker_per_gpu, len(keys))
    return Batches(dataset, keys, collate, seed=seed, workers=workers, pin=False)
