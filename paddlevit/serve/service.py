"""From pictures to answers: decoding in a pool of threads, computing in batches.

Shapes: C image channels, H W image height and width.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException

from paddlevit.inference.predictor import Prediction, Predictor
from paddlevit.runtime import cpu_count
from paddlevit.serve.batcher import Batcher
from paddlevit.serve.limits import Limits
from paddlevit.serve.metrics import Metrics
from paddlevit.serve.reading import Upload, decode, region


@dataclass(frozen=True)
class Answer:
    """What is said of one picture."""

    name: str
    """Of the file."""
    prediction: Prediction
    """All classes, best first, or all numbers, and the attention map if the export gives one."""
    region: list[float]
    """The part of the picture that the network saw: left, top, width and height as shares of the picture's."""


class Service:
    """Answers requests with one predictor.

    Args:
        predictor: What answers.
        limits: How much at a time.

    Raises:
        ValueError: The export has nothing to predict.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        if not predictor.info.predicts:
            raise ValueError(f"{predictor.folder} gives numbers, not classes; export a network with a classifier.")
        self.predictor, self.limits = predictor, limits
        self.metrics = Metrics(lambda: self._batcher.waiting)
        self._pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="paddlevit-decode")
        self._batcher = Batcher(self._run, limits.max_batch, limits.max_wait_ms / 1e3, observe=self.metrics.computed)

    @property
    def has_attention(self) -> bool:
        """Whether the export gives attention maps."""
        return "attention" in self.predictor.info.outputs

    @property
    def retry_after(self) -> int:
        """Whole seconds after which a client that found no room may try again."""
        return max(1, round(self._batcher.seconds_left))

    def describe(self) -> dict[str, Any]:
        """What runs here, for people and monitors."""
        info = self.predictor.info
        return {
            "status": "ok",
            "model": info.model_name,
            "task": info.task,
            "classes": len(info.class_names),
            "attention": self.has_attention,
            "engine": self.predictor.engine,
        }

    async def answer(self, uploads: Sequence[Upload]) -> list[Answer]:
        """Decode pictures and compute their answers.

        Raises:
            HTTPException: A picture cannot be used.
            BusyError: There is no room.
        """
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._pool, lambda: [self._prepare(upload) for upload in uploads])
        # Who stops waiting cancels what has not been computed yet.
        predictions = await asyncio.gather(*(asyncio.wrap_future(self._batcher.submit(array)) for array, _ in prepared))
        return [
            Answer(upload.name, prediction, seen)
            for upload, prediction, (_, seen) in zip(uploads, predictions, prepared)
        ]

    def close(self) -> None:
        """Answer what waits, and end all threads."""
        self._pool.shutdown()
        self._batcher.close()

    def _prepare(self, upload: Upload) -> tuple[np.ndarray, list[float]]:
        preprocessing = self.predictor.preprocessing
        picture = decode(upload, preprocessing, self.limits.max_pixels)
        try:
            return self.predictor.preprocess(picture), region(picture, preprocessing)
        except ValueError as error:
            raise HTTPException(422, f"{upload.name} cannot be used: {error}") from error

    def _run(self, arrays: Sequence[np.ndarray]) -> list[Prediction]:
        """One prediction per array; those of one shape are computed together."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, array in enumerate(arrays):
            shapes.setdefault(array.shape, []).append(index)
        found: dict[int, Prediction] = {}
        for indices in shapes.values():
            outputs = self.predictor.outputs(np.stack([arrays[index] for index in indices]))
            found.update(zip(indices, self.predictor.predictions(outputs, len(self.predictor.class_names))))
        return [found[index] for index in range(len(arrays))]
