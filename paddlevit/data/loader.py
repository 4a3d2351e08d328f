"""Feeding a network: batches in the order of a sampler, made by worker processes or in this one."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import paddle

from paddlevit.data.dataset import ImageDataset
from paddlevit.data.sampler import EpochSampler, SampleKey
from paddlevit.data.workers import WorkerPool

LOGGER = logging.getLogger("paddlevit")
SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2  # batches that each of Paddle's workers makes ahead


class Loader(paddle.io.DataLoader):
    """Batches of an ImageDataset.

    Paddle's own workers lose the message of an error (it is printed by a thread, and the training sees "blocking queue
    is killed"), wait for ever on a file system that hangs, and need room in /dev/shm. Ours raise the error at the batch
    that it belongs to, name the file, and write pixels straight into memory that they share with this process.

    Workers are started at the first iteration and serve every epoch; they keep the dataset as it was then.

    Args:
        dataset: The pictures.
        sampler: Their order.
        num_workers: Worker processes; 0 does the work in this process.
        timeout: Seconds to wait for a batch; 0 waits for ever.
    """

    def __init__(self, dataset: ImageDataset, sampler: EpochSampler, num_workers: int, timeout: float) -> None:
        super().__init__(dataset, batch_sampler=sampler, num_workers=0)
        self.pictures, self.sampler = dataset, sampler
        self.processes = num_workers if sys.platform == "linux" else 0  # elsewhere, no process can be forked safely
        self.seconds = timeout
        self.pool: Optional[WorkerPool] = None

    def __iter__(self) -> Iterator[list[paddle.Tensor]]:
        """Yields [images [B, C, H, W] float32, labels [B] int64 or [B, K] float32]."""
        if self.processes and (self.pool is None or self.pool.closed):
            self.pool = WorkerPool(self.pictures, self.sampler.batch_size, self.processes, self.seconds)
        batches = self.pool.batches(iter(self.sampler)) if self.pool is not None else self._here()
        for keys, images in batches:
            labels = self.pictures.labels[[key.index for key in keys]]
            yield [paddle.to_tensor(images), paddle.to_tensor(labels)]

    def close(self) -> None:
        """End the workers now rather than with the loader."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _here(self) -> Iterator[tuple[list[SampleKey], np.ndarray]]:
        # One buffer for all batches: fresh memory costs more, page by page, than writing the pixels.
        images = np.empty((self.sampler.batch_size, *self.pictures.image_shape), np.float32)  # [B, C, H, W]
        for keys in self.sampler:
            for key, image in zip(keys, images):
                self.pictures.write(key, image)
            yield keys, images[: len(keys)]


class IndexedDataset(paddle.io.Dataset):
    """Any dataset of a user, asked by SampleKey.

    Randomness that it takes from the global generators of Python and NumPy is seeded per sample, so that it does not
    depend on the number of workers.

    Args:
        dataset: Answers to whole numbers.
        seed: Of its randomness.
    """

    def __init__(self, dataset: paddle.io.Dataset, seed: int) -> None:
        super().__init__()
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Any:
        import random

        state = np.random.SeedSequence([self.seed, *key]).generate_state(2)
        np.random.seed(state[0])
        random.seed(int(state[1]))
        return self.dataset[key.index]


def build_loader(
    dataset: paddle.io.Dataset, sampler: EpochSampler, num_workers: int = 0, timeout: float = 300.0
) -> paddle.io.DataLoader:
    """A loader of batches.

    Args:
        dataset: An ImageDataset, or any dataset that answers to whole numbers.
        sampler: The order.
        num_workers: Processes that read and transform; 0 does it in this one.
        timeout: Seconds that a batch may take before the files being read are named and an error ends the run; 0 waits
            for ever. It does not apply to other datasets than ImageDataset.

    Returns:
        For an ImageDataset, batches of [B, C, H, W] float32 and [B] int64 (or [B, K] float32) tensors.
    """
    if isinstance(dataset, ImageDataset):
        return Loader(dataset, sampler, num_workers, timeout)
    indexed = IndexedDataset(dataset, sampler.seed)
    shared = not num_workers or _fits_shared_memory(indexed, sampler, num_workers)
    return paddle.io.DataLoader(indexed, batch_sampler=sampler, num_workers=num_workers, use_shared_memory=shared)


def _fits_shared_memory(dataset: IndexedDataset, sampler: EpochSampler, num_workers: int) -> bool:
    """Whether /dev/shm has room for the batches that Paddle's workers keep there; pipes are slower, but work."""
    if not os.path.isdir(SHARED_MEMORY):
        return True
    parts = dataset[SampleKey(0, 0, 0)]
    sample = sum(np.asarray(part).nbytes for part in (parts if isinstance(parts, (list, tuple)) else [parts]))
    needed = sample * sampler.batch_size * num_workers * (PREFETCHED + 1)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        LOGGER.warning(
            "%s has %d MB free and batches need %d: they go through pipes, which is slower. In Docker, --shm-size makes"
            " it larger.",
            SHARED_MEMORY,
            free >> 20,
            needed >> 20,
        )
    return needed <= free
