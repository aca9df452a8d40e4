"""Which sample comes when: a function of (seed, number of samples, position) alone.

All samples of all epochs stand in one endless row, each epoch a new permutation. Step by step, the row is cut into batches, and each
batch into equal parts for the ranks; so the row is the same for any batch size, number of ranks or loader processes, a batch may reach
into the next epoch, and a run can go on from any position.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

Key = tuple[int, int]  # (epoch, index)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the samples in an epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, 0x0EDE]))).permutation(count)


class EndlessSampler(torch.utils.data.Sampler[list[Key]]):
    """Batches of (epoch, index) keys for one rank, from one forward pass to another.

    Args:
        indices: samples that may be drawn.
        batch: samples in a batch of one rank.
        seed: of the order.
        shuffle: a new order every epoch; otherwise the given one.
        first: forward pass to begin with, from 0.
        last: forward pass to end before.
    """

    def __init__(
        self, indices: Sequence[int], batch: int, *, seed: int, first: int, last: int, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        if not indices:
            raise ValueError("no samples to draw from")
        self.indices, self.batch, self.seed, self.shuffle = list(indices), batch, seed, shuffle
        self.first, self.last, self.rank, self.world = first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        count = len(self.indices)
        order, epoch = np.arange(count), -1
        for forward in range(self.first, self.last):
            start = (forward * self.world + self.rank) * self.batch
            keys = []
            for position in range(start, start + self.batch):
                if position // count != epoch:
                    epoch = position // count
                    order = permutation(self.seed, epoch, count) if self.shuffle else order
                keys.append((epoch, self.indices[int(order[position % count])]))
            yield keys
