"""The order of an epoch: from seed and epoch alone, resumable, and shared out over processes without loss."""

from __future__ import annotations

import numpy as np
import pytest

from paddlevit.data import EpochSampler, SampleKey


def _indices(sampler: EpochSampler) -> list[list[int]]:
    return [[key.index for key in batch] for batch in sampler]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, batch_size=4):
        sampler = EpochSampler(20, batch_size, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return np.concatenate(_indices(sampler)).tolist()

    first = order(0, 0)
    np.random.seed(5)
    assert order(0, 0) == first
    assert order(0, 0, batch_size=7) == first
    assert sorted(first) == list(range(20))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_keys_carry_the_epoch():
    sampler = EpochSampler(3, 2)
    sampler.set_epoch(7)
    assert list(sampler) == [[SampleKey(7, 0, 0), SampleKey(7, 1, 0)], [SampleKey(7, 2, 0)]]


def test_last_batch_is_kept_or_dropped():
    assert _indices(EpochSampler(7, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(EpochSampler(7, 3)) == 3
    assert _indices(EpochSampler(7, 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert len(EpochSampler(7, 3, drop_last=True)) == 2


def test_a_resumed_epoch_continues_where_it_stopped():
    whole = EpochSampler(20, 3, shuffle=True, seed=1)
    resumed = EpochSampler(20, 3, shuffle=True, seed=1)
    for sampler in (whole, resumed):
        sampler.set_epoch(4)
    resumed.skip = 5
    assert list(resumed) == list(whole)[5:]
    assert len(resumed) == len(whole) == 7
    assert list(resumed) == list(whole)  # skips once


@pytest.mark.parametrize("length", [1, 5, 8, 11, 16, 17])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_step(length, world):
    """Rank r has the r-th part of each global batch, all have equally many, and only the very end is padded."""
    whole = np.concatenate(_indices(EpochSampler(length, 4 * world, shuffle=True, seed=3)))
    ranks = [EpochSampler(length, 4, shuffle=True, seed=3, rank=rank, world_size=world) for rank in range(world)]
    batches = [_indices(rank) for rank in ranks]
    assert len({len(rank) for rank in batches}) == 1
    assert len(batches[0]) == len(ranks[0])
    gathered = []
    for step in zip(*batches):
        assert len({len(part) for part in step}) == 1
        gathered += [index for part in step for index in part]
    padding = ranks[0].padding
    assert padding == -length % world
    assert gathered[:length] == whole.tolist()
    assert len(gathered) == length + padding


def test_no_padding_where_the_last_step_is_dropped():
    sampler = EpochSampler(11, 2, drop_last=True, rank=1, world_size=2)
    assert sampler.padding == 0
    assert _indices(sampler) == [[2, 3], [6, 7]]


def test_repeated_augmentation():
    sampler = EpochSampler(9, 3, shuffle=True, seed=0, repeats=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3  # as many samples as pictures, of a third of them
    for batch in batches:
        assert len({key.index for key in batch}) == 1
        assert [key.repeat for key in batch] == [0, 1, 2]
    assert len({batch[0].index for batch in batches}) == 3


def test_shards_are_read_nearly_in_sequence():
    shards = [100, 50, 150]
    sampler = EpochSampler(300, 10, shuffle=True, seed=2, shards=shards, window=20)
    order = np.concatenate(_indices(sampler))
    assert sorted(order) == list(range(300))
    shard = np.searchsorted(np.cumsum(shards), order, side="right")
    assert len(np.unique(shard[:40])) <= 2  # the beginning reads one file, or ends in a second one
    starts = np.sort(order.reshape(15, 20), axis=1)
    assert (starts[:, -1] - starts[:, 0]).min() == 19  # windows hold neighbours
    assert not np.array_equal(order, np.sort(order))
    first = order.copy()
    sampler.set_epoch(1)
    assert not np.array_equal(np.concatenate(_indices(sampler)), first)


def test_errors():
    with pytest.raises(ValueError, match=r"The dataset is empty\."):
        EpochSampler(0, 4)
    with pytest.raises(
        ValueError, match=r"3 pictures do not fill one batch of 4 on each of 1 processes.* smaller data"
    ):
        EpochSampler(3, 4, drop_last=True)
