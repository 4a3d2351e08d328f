"""Prediction from an export: pictures in; names, and probabilities or numbers, out.

Shapes: B batch, C image channels, H W image height and width, D width, K classes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Optional, Union

import numpy as np
from PIL import Image

from paddlevit.errors import check_choice
from paddlevit.inference.engines import ENGINES, ONNX_FILE, FastestEngine, load_engines
from paddlevit.inference.folder import read_info

ImageLike = Union[str, "os.PathLike[str]", bytes, IO[bytes], Image.Image, np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, best first; of a regression, all its numbers in their order."""

    classes: tuple[int, ...]
    """Indices of the classes, or of the numbers."""
    names: tuple[str, ...]
    """Their names."""
    probabilities: tuple[float, ...]
    """Those of all classes sum to 1; where a picture has several labels, each is by itself; a regression has none."""
    values: tuple[float, ...] = ()
    """The numbers of a regression."""
    features: Optional[np.ndarray] = field(default=None, compare=False)
    """[D], what was classified, from an export with features."""
    attention: Optional[np.ndarray] = field(default=None, compare=False)
    """[rows, columns], where the network looked in the part of the picture that it saw, from an export with it."""


class Predictor:
    """Runs the export of a folder; several threads may share one.

    Args:
        folder: What `export_model` or tools/export.py wrote.
        threads: CPU threads; None is OMP_NUM_THREADS if that is set, else every core.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        engine: `paddle`, `onnxruntime`, `openvino`, or `auto`: the first batch is timed on each of those that are
            installed and have a file in the folder, and the fastest is kept. One that fails is left out.
        precision: `fp32`, `bf16` or `fp16`; None is what the export is meant for. int8 is a property of the file, and
            so is fp16 in ONNX.
        batch_size: How many pictures `predict` holds in memory and computes at a time.
        image_size: Height and width to which `predict` brings pictures, one number or two, for an export that takes any
            size; None is the network's own.

    Attributes:
        info: What the export says of itself.
        class_names: Names of the classes, or of a regression's numbers.
        task: What the outputs are: classes, multi_label or regression.
        preprocessing: What is done to a picture.

    Raises:
        ValueError: The folder is no export, or not a whole one; or what was asked for cannot run here.

    Example:
        >>> predictor = Predictor("exported")
        >>> predictor.predict(["cat.jpg", "dog.png"], topk=1)[0].names
        ('tabby',)
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        device: str = "auto",
        engine: str = "auto",
        precision: str | None = None,
        batch_size: int = 16,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        check_choice("engine", engine, ("auto", *ENGINES))
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1.")
        self.folder, self.batch_size = Path(folder), batch_size
        self.info = read_info(folder)
        self.class_names, self.task = self.info.class_names, self.info.task
        self.preprocessing = self.info.preprocessing
        if image_size is not None:
            height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
            size = (height, width)
            self._check_size(size)
            self.preprocessing = self.preprocessing.adapted(size)
        precision = self._choose_precision(precision)
        self._lock = threading.Lock()
        preprocesses = self.info.input.dtype == "uint8"
        self._engine = FastestEngine(load_engines(engine, self.folder, threads, device, precision, preprocesses))

    @property
    def engine(self) -> str:
        """What runs the export; several names joined by commas until the first batch has shown which is fastest."""
        return ",".join(self._engine.engines)

    def outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Everything that the export gives.

        Args:
            batch: [B, C, H, W], preprocessed, or bytes [B, H, W, C] for an export that preprocesses; any B from 1.

        Returns:
            `logits` or `probabilities` [B, K], and if exported `features` [B, D] and `attention` [B, rows, columns].

        Raises:
            ValueError: Another shape than the export takes.
        """
        batch = np.asarray(batch)
        if self.info.input.dtype == "uint8" and batch.dtype != np.uint8:
            raise ValueError(f"{self.folder} takes pictures as bytes [B, H, W, C], not {batch.dtype}.")
        batch = np.asarray(batch, self.info.input.dtype)
        wanted = self.info.input.shape
        if batch.ndim != len(wanted) or any(size not in (None, got) for size, got in zip(wanted[1:], batch.shape[1:])):
            shape = ", ".join("any" if size is None else str(size) for size in wanted[1:])
            raise ValueError(f"The batch has shape {list(batch.shape)}; this export takes [batch, {shape}].")
        if 0 in batch.shape:
            raise ValueError(f"The batch has shape {list(batch.shape)} and is empty; give at least one picture.")
        if self.info.size_multiple is not None:
            self._check_size(batch.shape[2:])
        with self._lock:
            arrays = self._engine.run(batch)
        return dict(zip(self.info.outputs, arrays))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """The network's answers, float32 [B, K]; `batch` and errors as for `outputs`."""
        if "logits" not in self.info.outputs:
            raise ValueError(
                f"{self.folder} gives probabilities, not logits; use outputs(), or export without softmax."
            )
        return self.outputs(batch)["logits"]

    def predict(self, images: ImageLike | Iterable[ImageLike], topk: int = 5) -> list[Prediction]:
        """The most probable classes of pictures, or the numbers of a regression.

        Args:
            images: One picture or any number of them, of any kinds: paths, bytes of files, files open for reading
                bytes, Pillow pictures, or arrays [H, W, C], [C, H, W] or grey [H, W] of bytes, 16-bit numbers or floats
                in 0..1.
            topk: How many classes; at most all of them are given. Of a regression, all numbers are.

        Returns:
            One Prediction per picture, in order.

        Raises:
            ValueError: A picture that cannot be read, with its number; a topk below 1; or an export without classes.
        """
        if topk < 1:
            raise ValueError(f"topk is {topk}; it must be at least 1.")
        if not self.info.predicts:
            raise ValueError(f"{self.folder} gives numbers, not classes; use outputs().")
        images = _as_list(images)
        results: list[Prediction] = []
        for start in range(0, len(images), self.batch_size):
            prepared = [
                self._prepare(image, start + i) for i, image in enumerate(images[start : start + self.batch_size])
            ]
            for batch in same_shapes(prepared):
                results += self.predictions(self.outputs(batch), topk)
        return results

    def preprocess(self, image: ImageLike) -> np.ndarray:
        """One picture of any kind -> what the graph takes: float32 [C, H, W], or bytes [H, W, C]."""
        from paddlevit.data.images import load_image
        from paddlevit.data.transforms import as_picture, eval_transform

        channels = self.preprocessing.channels
        if hasattr(image, "read"):
            image = _contents(image)
        if isinstance(image, (str, os.PathLike, bytes)):
            image = load_image(image, channels)
        elif isinstance(image, np.ndarray):
            image = _checked(image, channels)
        elif not isinstance(image, Image.Image):
            kinds = "a path, bytes, an open file, a Pillow picture or an array"
            raise ValueError(f"it is a {type(image).__name__}; it must be {kinds}")
        if self.info.input.dtype == "float32":
            return eval_transform(self.preprocessing)(image)
        picture = as_picture(image, channels)
        if not isinstance(picture, Image.Image):
            raise ValueError(f"{self.folder} takes 8-bit pictures; give paths, Pillow pictures or arrays of uint8.")
        return np.asarray(picture).reshape(picture.height, picture.width, channels)

    def predictions(self, outputs: dict[str, np.ndarray], topk: int) -> list[Prediction]:
        """One Prediction for each row of `outputs`."""
        return make_predictions(outputs, self.task, self.class_names, topk)

    def warm_up(self, batch_size: int = 1) -> None:
        """Run an empty batch, so that the first real one finds everything loaded and the engine chosen."""
        shape: list[Any] = [batch_size, *self.info.input.shape[1:]]
        sizes = (1, 2) if self.info.input.dtype == "uint8" else (2, 3)
        for axis, size in zip(sizes, self.preprocessing.image_size):
            shape[axis] = size
        self.outputs(np.zeros(shape, self.info.input.dtype))

    def _prepare(self, image: ImageLike, index: int) -> np.ndarray:
        """`preprocess` with the number of the picture in its errors."""
        try:
            return self.preprocess(image)
        except ValueError as error:
            raise ValueError(f"Picture {index}: {error}") from error

    def _choose_precision(self, precision: str | None) -> str:
        made_for = self.info.precision
        if precision is None:
            return made_for
        check_choice("precision", precision, ("fp32", "bf16", "fp16", "int8"))
        # What an ONNX file computes in is written in it, but for bf16; Paddle's graph can be computed in others.
        fixed = {"int8", "fp16"} if (self.folder / ONNX_FILE).is_file() else {"int8"}
        if precision != made_for and fixed & {precision, made_for}:
            raise ValueError(
                f"precision is {precision!r}, but {self.folder} was exported in {made_for}; export it again."
            )
        return precision

    def _check_size(self, size: Sequence[int]) -> None:
        """Paddle drops the checks that a network makes of sizes which are only known when it runs."""
        multiple = self.info.size_multiple
        if multiple is None:
            raise ValueError(
                f"image_size is {tuple(size)}, but {self.folder} takes one size, {self.info.input.shape[2:]};"
                " export with dynamic_size."
            )
        if any(side < step or side % step for side, step in zip(size, multiple)):
            raise ValueError(f"The size {tuple(size)} is no multiple of {multiple}, which this export needs.")


def make_predictions(
    outputs: dict[str, np.ndarray], task: str, class_names: Sequence[str], topk: int
) -> list[Prediction]:
    """One Prediction for each row of outputs.

    Args:
        outputs: `logits` or `probabilities` [B, K], and perhaps `features` and `attention`.
        task: classes, multi_label or regression.
        class_names: [K].
        topk: How many classes.
    """
    if "probabilities" in outputs:
        scores = outputs["probabilities"]
    elif task == "regression":
        scores = outputs["logits"]
    else:
        scores = sigmoid(outputs["logits"]) if task == "multi_label" else softmax(outputs["logits"])
    results = []
    for i, row in enumerate(scores):
        order = range(len(row)) if task == "regression" else np.argsort(-row, kind="stable")[:topk].tolist()
        names, numbers = tuple(class_names[index] for index in order), tuple(float(row[index]) for index in order)
        probabilities, values = ((), numbers) if task == "regression" else (numbers, ())
        extra = {name: outputs[name][i] for name in ("features", "attention") if name in outputs}
        results.append(Prediction(tuple(order), names, probabilities, values, **extra))
    return results


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """[B, K] -> [B, K], each value by itself between 0 and 1."""
    return np.exp(-np.logaddexp(0.0, -logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """[B, K] -> [B, K], each row positive with sum 1."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _as_list(images: Any) -> list[ImageLike]:
    single = isinstance(images, (str, os.PathLike, bytes, Image.Image)) or hasattr(images, "read")
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise ValueError(f"images is a {type(images).__name__}; it must be a picture or a list of pictures.")
    return list(images)


def _contents(file: Any) -> bytes:
    """The rest of an open file."""
    data = file.read()
    if not isinstance(data, bytes):
        raise ValueError('it is a file that gives no bytes; open it with mode "rb"')
    return data


def _checked(array: np.ndarray, channels: int) -> np.ndarray:
    """An array that cannot be mistaken: one grey channel three times where three are taken, no floats from 0 to 255."""
    if channels == 3 and array.ndim == 3 and 3 not in (array.shape[0], array.shape[2]):
        array = array[:, :, 0] if array.shape[2] == 1 else array[0] if array.shape[0] == 1 else array
    if channels == 3 and array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype.kind == "f" and channels in (1, 3) and array.size and (array.min() < -1.0 or array.max() > 2.0):
        raise ValueError(f"its values go from {array.min():.4g} to {array.max():.4g}; floats must be in 0..1")
    return array


def same_shapes(arrays: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
    """Neighbours of one shape as batches."""
    start = 0
    for end in range(1, len(arrays) + 1):
        if end == len(arrays) or arrays[end].shape != arrays[start].shape:
            yield np.stack(arrays[start:end])
            start = end
