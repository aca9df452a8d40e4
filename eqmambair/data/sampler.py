"""Which sample comes when: a function of (seed, number of samples, position) alone.

All samples of all epochs stand in one endless row, each epoch a new permutation. Step by step, the row is cut into batches, and each
batch into equal parts for the ranks; so the row is the same for any batch size, number of ranks or loader processes, a batch may reach
into the next epoch, and a run can go on from any position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class Key(NamedTuple):
    """A draw of a sample: its random numbers follow from seed, epoch and sample. ``size`` asks for crops of another size than usual."""

    epoch: int
    sample: int
    size: int | None = None


@dataclass(frozen=True)
class Stage:
    """A part of training with its own batch and crop size.

    Args:
        forwards: forward passes of the part; None = all that come.
        batch: samples in a batch of one rank.
        size: side of the crops, or None for the data set's own.
    """

    forwards: int | None
    batch: int
    size: int | None = None


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the samples in an epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, 0x0EDE]))).permutation(count)


class EndlessSampler(torch.utils.data.Sampler[list[Key]]):
    """Batches of keys for one rank, from one forward pass to another.

    Args:
        indices: samples that may be drawn.
        stages: parts of training in their order; the last goes on for ever.
        seed: of the order.
        shuffle: a new order every epoch; otherwise the given one.
        first: forward pass to begin with, from 0.
        last: forward pass to end before.
    """

    def __init__(
        self,
        indices: Sequence[int],
        stages: Sequence[Stage],
        *,
        seed: int,
        first: int,
        last: int,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not indices:
            raise ValueError("no samples to draw from")
        self.indices, self.stages, self.seed, self.shuffle = list(indices), list(stages), seed, shuffle
        self.first, self.last, self.rank, self.world = first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        count = len(self.indices)
        order, epoch = np.arange(count), -1
        for forward in range(self.first, self.last):
            before, stage = self._place(forward)
            start = before * self.world + self.rank * stage.batch
            keys = []
            for position in range(start, start + stage.batch):
                if position // count != epoch:
                    epoch = position // count
                    order = permutation(self.seed, epoch, count) if self.shuffle else order
                keys.append(Key(epoch, self.indices[int(order[position % count])], stage.size))
            yield keys

    def _place(self, forward: int) -> tuple[int, Stage]:
        """How many samples one rank has drawn before a forward pass, and the stage that it belongs to."""
        drawn = 0
        for stage in self.stages[:-1]:
            if stage.forwards is None or forward < stage.forwards:
                return drawn + forward * stage.batch, stage
            drawn += stage.forwards * stage.batch
            forward -= stage.forwards
        return drawn + forward * self.stages[-1].batch, self.stages[-1]
