"""The order of an epoch: a function of seed and epoch alone, whatever the machine, the workers or an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import numpy as np
import paddle


class SampleKey(NamedTuple):
    """What a dataset is asked for: with the seed, it decides every pixel of the answer."""

    epoch: int
    """Counted from 0."""
    index: int  # type: ignore[assignment]
    """Place of the picture in the dataset."""
    repeat: int
    """Which of its repeated augmentations."""


class EpochSampler(paddle.io.BatchSampler):
    """Batches of SampleKeys, sharded over processes.

    Step k takes the same pictures whether one process has the whole batch or several share it: process r of W takes
    the r-th part. Samples that even out the last step repeat the first ones and stand at its very end, where
    `paddle.Model.evaluate` cuts them off after gathering; `padding` tells how many they are.

    Repeated augmentation (Augment your batch, Hoffer et al. 2020; as in DeiT) takes each picture `repeats` times in a
    row with different augmentation, and ends the epoch after `dataset_length` samples all the same.

    Args:
        dataset_length: Number of pictures.
        batch_size: Pictures per step and process.
        shuffle: Another order every epoch; otherwise the dataset's own.
        drop_last: Leave out the last, smaller step.
        seed: Of the order.
        repeats: Times that a picture is taken in a row.
        shards: Lengths of the consecutive parts of the dataset that lie in one file each; the parts are then shuffled
            whole, and pictures within windows of `window`, so that files are read nearly in sequence.
        window: Pictures shuffled together when there are shards.
        rank: Number of this process; None asks Paddle.
        world_size: Number of processes; None asks Paddle.

    Raises:
        ValueError: There is nothing to iterate over.
    """

    def __init__(
        self,
        dataset_length: int,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        repeats: int = 1,
        shards: Optional[Sequence[int]] = None,
        window: int = 8192,
        rank: Optional[int] = None,
        world_size: Optional[int] = None,
    ) -> None:
        environment = paddle.distributed.ParallelEnv()
        self.world_size = environment.nranks if world_size is None else world_size
        self.rank = environment.rank if rank is None else rank
        self.dataset_length, self.batch_size, self.seed, self.repeats = dataset_length, batch_size, seed, repeats
        self.shuffle, self.drop_last, self.shards, self.window = shuffle, drop_last, shards, window
        self.epoch = 0
        self.skip = 0
        """Steps to leave out at the next start of an iteration: where a resumed run stood in mid-epoch."""
        if dataset_length < 1:
            raise ValueError("The dataset is empty.")
        if not len(self):
            raise ValueError(
                f"{dataset_length} pictures do not fill one batch of {batch_size} on each of {self.world_size} "
                "processes, and the last, smaller batch is left out; use a smaller data.batch_size."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    @property
    def padding(self) -> int:
        """Samples at the end of the last step that repeat others so that every process has as many."""
        return 0 if self.drop_last else -self.dataset_length % self.world_size

    def __len__(self) -> int:
        """Steps of a full epoch."""
        step = self.batch_size * self.world_size
        return self.dataset_length // step if self.drop_last else -(-self.dataset_length // step)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        start, self.skip = self.skip, 0
        epoch, order = self.epoch, self._order()
        step = self.batch_size * self.world_size
        for first in range(start * step, len(self) * step, step):
            picks = order[first : first + step]
            share = len(picks) // self.world_size
            mine = range(first + self.rank * share, first + (self.rank + 1) * share)
            yield [SampleKey(epoch, int(order[place]), place % self.repeats) for place in mine]

    def _order(self) -> np.ndarray:
        """Index of the picture at each place of the epoch."""
        rng = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        if not self.shuffle:
            order = np.arange(self.dataset_length)
        elif self.shards is None:
            order = rng.permutation(self.dataset_length)
        else:
            starts = np.cumsum([0, *self.shards])
            order = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in rng.permutation(len(self.shards))])
            for first in range(0, len(order), self.window):
                rng.shuffle(order[first : first + self.window])
        order = np.repeat(order, self.repeats)[: self.dataset_length]
        return np.resize(order, self.dataset_length + self.padding)  # np.resize starts again at the end
