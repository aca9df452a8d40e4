"""The row of samples: every sample once an epoch, the same for any cut into batches and ranks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from eqmambair.data.sampler import EndlessSampler, Stage

counts = st.integers(1, 13)


def row(count: int, batch: int, forwards: int, *, seed: int = 5, first: int = 0, world: int = 1) -> list[tuple[int, int]]:
    """The keys in the order in which all ranks together use them."""
    samplers = [
        list(EndlessSampler(range(count), [Stage(None, batch)], seed=seed, first=first, last=first + forwards, rank=rank, world=world))
        for rank in range(world)
    ]
    return [key[:2] for forward in range(forwards) for rank in range(world) for key in samplers[rank][forward]]


@settings(max_examples=50, deadline=None)
@given(counts, counts, st.integers(1, 4))
def test_every_sample_comes_once_an_epoch(count: int, batch: int, epochs: int) -> None:
    keys = row(count, batch, -(-epochs * count // batch))[: epochs * count]
    for epoch in range(epochs):
        assert sorted(index for e, index in keys if e == epoch) == list(range(count))


@settings(max_examples=50, deadline=None)
@given(counts, st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_ranks_and_batches_cut_one_row(count: int, batch: int, world: int, first: int) -> None:
    assert row(count, batch, 4, world=world) == row(count, batch * world, 4)
    assert row(count, batch, 9)[first * batch :] == row(count, batch, 9 - first, first=first)


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = [[index for _, index in row(20, 20, 3)[start : start + 20]] for start in (0, 20, 40)]
    assert orders[0] != orders[1] != orders[2]
    assert row(20, 20, 1, seed=6) != row(20, 20, 1, seed=5)


def test_unshuffled_row_is_in_order() -> None:
    keys = [key[:2] for batch in EndlessSampler(range(3), [Stage(None, 2)], seed=1, first=0, last=3, shuffle=False) for key in batch]
    assert keys == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_stages_change_batch_and_size_and_keep_the_row() -> None:
    stages = [Stage(2, 3, 8), Stage(2, 2, 16), Stage(5, 1, 32)]
    batches = list(EndlessSampler(range(7), stages, seed=1, first=0, last=7))
    assert [len(batch) for batch in batches] == [3, 3, 2, 2, 1, 1, 1]
    assert [batch[0].size for batch in batches] == [8, 8, 16, 16, 32, 32, 32]
    assert [key[:2] for batch in batches for key in batch] == row(7, 1, 13, seed=1)
    assert list(EndlessSampler(range(7), stages, seed=1, first=3, last=7)) == batches[3:]
