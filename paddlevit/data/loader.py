"""Feeding a network: batches in the order of a sampler, made by worker processes or in this one."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Optional, Union

import numpy as np
import paddle

from paddlevit.data.dataset import ImageDataset
from paddlevit.data.sampler import EpochSampler, SampleKey
from paddlevit.data.workers import WorkerPool


class IndexedDataset(paddle.io.Dataset):
    """Any dataset of a user, as the loader wants it.

    Randomness that it takes from the global generators of Python and NumPy is seeded per sample, so that it does not
    depend on the number of workers; the generators are left as they were.

    Args:
        dataset: Answers to whole numbers with a list or tuple of arrays, tensors and numbers, alike in every sample.
        seed: Of its randomness.
    """

    def __init__(self, dataset: paddle.io.Dataset, seed: int) -> None:
        super().__init__()
        self.dataset, self.seed = dataset, seed
        self._types = [(part.dtype, part.shape) for part in self[SampleKey(0, 0, 0)]]
        self.names = [f"part {i}" for i in range(len(self._types))]
        self.row_type = np.dtype([(name, *kind) for name, kind in zip(self.names, self._types)], align=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> list[np.ndarray]:
        """The parts of a sample.

        Raises:
            ValueError: They are no list of arrays.
            RuntimeError: The user's code raised a ValueError, which would pass for a bad picture.
        """
        before = random.getstate(), np.random.get_state()
        seeds = np.random.SeedSequence([self.seed, *key]).generate_state(2)
        np.random.seed(seeds[0])
        random.seed(int(seeds[1]))
        try:
            sample = self.dataset[key.index]
        except ValueError as error:
            raise RuntimeError(f"{self.describe(key.index)} could not be made: {error}") from error
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        parts = [np.asarray(part) for part in sample] if isinstance(sample, (list, tuple)) else []
        if not parts or any(part.dtype.kind not in "biuf" for part in parts):
            raise ValueError(
                f"{self.describe(key.index)} is {type(sample).__name__} and cannot be put in a batch; the dataset must"
                " give a list or tuple of arrays, tensors and numbers."
            )
        return parts

    def write(self, key: SampleKey, out: np.ndarray) -> None:
        """Make a sample in place.

        Args:
            key: From an EpochSampler.
            out: A record of `row_type`, overwritten.

        Raises:
            ValueError: The sample is unlike the first one.
        """
        parts = self[key]
        types = [(part.dtype, part.shape) for part in parts]
        if types != self._types:
            found, wanted = (
                ", ".join(f"{dtype} {list(shape)}" for dtype, shape in kind) for kind in (types, self._types)
            )
            raise ValueError(f"{self.describe(key.index)} is {found}, but sample 0 is {wanted}.")
        for name, part in zip(self.names, parts):
            out[name] = part

    def describe(self, index: int) -> str:
        """What to call a sample in a message."""
        return f"sample {index} of {type(self.dataset).__name__}"


class Loader(paddle.io.DataLoader):
    """Batches of a dataset.

    Paddle's own workers lose the message of an error (it is printed by a thread, and the training sees "blocking queue
    is killed"), wait for ever on a file system that hangs, hang by themselves about once in a hundred starts, and need
    room in /dev/shm. Ours raise the error at the batch that it belongs to, name the file, and write samples straight
    into memory that they share with this process.

    Workers are started at the first iteration and serve every epoch; they keep the dataset as it was then.

    Args:
        dataset: What makes the samples.
        sampler: Their order.
        num_workers: Worker processes; 0 does the work in this process.
        timeout: Seconds to wait for a batch; 0 waits for ever.
    """

    def __init__(
        self, dataset: Union[ImageDataset, IndexedDataset], sampler: EpochSampler, num_workers: int, timeout: float
    ) -> None:
        super().__init__(dataset, batch_sampler=sampler, num_workers=0)
        self.samples, self.sampler = dataset, sampler
        self.processes = num_workers if sys.platform == "linux" else 0  # elsewhere, no process can be forked safely
        self.seconds = timeout
        self.pool: Optional[WorkerPool] = None

    def __iter__(self) -> Iterator[list[paddle.Tensor]]:
        """Yields [images [B, C, H, W] float32, labels [B] int64 or [B, K] float32], or the parts of users' samples."""
        if self.processes and (self.pool is None or self.pool.closed):
            start = None if isinstance(self.samples, ImageDataset) else _use_cpu
            self.pool = WorkerPool(self.samples, self.sampler.batch_size, self.processes, self.seconds, start)
        batches = self.pool.batches(iter(self.sampler)) if self.pool is not None else self._here()
        for keys, rows in batches:
            if isinstance(self.samples, ImageDataset):
                parts = [rows, self.samples.labels[[key.index for key in keys]]]
            else:
                parts = [np.ascontiguousarray(rows[name]) for name in self.samples.names]
            yield [paddle.to_tensor(part) for part in parts]

    def close(self) -> None:
        """End the workers now rather than with the loader."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    def _here(self) -> Iterator[tuple[list[SampleKey], np.ndarray]]:
        # One buffer for all batches: fresh memory costs more, page by page, than writing the pixels.
        rows = np.empty(self.sampler.batch_size, self.samples.row_type)  # [B, ...]
        for keys in self.sampler:
            for key, row in zip(keys, rows):
                self.samples.write(key, row)
            yield keys, rows[: len(keys)]


def build_loader(
    dataset: paddle.io.Dataset, sampler: EpochSampler, num_workers: int = 0, timeout: float = 300.0
) -> Loader:
    """A loader of batches.

    Args:
        dataset: An ImageDataset, or any dataset that answers to whole numbers with arrays, tensors and numbers.
        sampler: The order.
        num_workers: Processes that read and transform; 0 does it in this one.
        timeout: Seconds that a batch may take before the samples being made are named and an error ends the run; 0
            waits for ever.

    Returns:
        For an ImageDataset, batches of [B, C, H, W] float32 and [B] int64 (or [B, K] float32) tensors.

    Raises:
        ValueError: The first sample of a user's dataset cannot be put in a batch.
    """
    samples = dataset if isinstance(dataset, ImageDataset) else IndexedDataset(dataset, sampler.seed)
    return Loader(samples, sampler, num_workers, timeout)


def _use_cpu() -> None:
    """For a worker process whose dataset makes tensors: a GPU cannot be used after a fork."""
    paddle.set_device("cpu")
