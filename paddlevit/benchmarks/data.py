"""How fast pictures become batches: ours beside paddle.vision.transforms and timm, in turn, in one run.

What runs in this process is measured in seconds of processor time, which other work on the machine hardly changes; the
loader with its processes in seconds of the clock.

The pictures are generated JPEGs of 500 x 375 pixels and about 40 KB; the transform is ImageNet's for training: random
resized crop to 224, bicubic, mirrored half of the time, normalised.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image

from paddlevit.config import AugmentConfig
from paddlevit.data import EpochSampler, ImageDataset, build_loader, load_image, train_transform
from paddlevit.data.sources import FileList, FileSource
from paddlevit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SIZE = 224
WIDTH, HEIGHT, QUALITY = 500, 375, 85
STAGES = ("decode", "augment", "collate", "together", "loader")
Results = dict[str, dict[str, float]]


def write_pictures(folder: Path, count: int) -> list[str]:
    """Write JPEGs that compress like photographs: noise of every scale, the coarser the stronger.

    Args:
        folder: Where.
        count: How many.

    Returns:
        Their paths.
    """
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        values = np.full((HEIGHT, WIDTH, 3), 128.0)
        for scale in (128, 32, 8, 2):
            noise = rng.integers(0, 256, (HEIGHT // scale + 1, WIDTH // scale + 1, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            values += (np.asarray(layer, np.float32) - 128.0) * scale**0.5 / 16
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(paths[-1], quality=QUALITY)
    return paths


def _ours(paths: list[str], batch_size: int, workers: int) -> dict[str, Callable[[], object]]:
    transform = train_transform(Preprocessing(), AugmentConfig())
    source = FileSource(FileList("", paths), np.zeros(len(paths), np.int64), ["only"])
    dataset = ImageDataset(source, transform)
    sampler = EpochSampler(len(dataset), batch_size, shuffle=True, drop_last=True)
    here, loader = build_loader(dataset, sampler, 0), build_loader(dataset, sampler, workers)
    images = [load_image(path) for path in paths]
    batch = np.empty((batch_size, *dataset.image_shape), np.float32)  # samples are written into their batch
    rng = np.random.default_rng(0)
    return {
        "decode": lambda: _each(load_image, paths),
        "augment": lambda: _each(lambda image: transform(image, rng, batch[0]), images),
        "collate": lambda: [paddle.to_tensor(batch) for _ in range(len(paths) // batch_size)],
        "together": lambda: [images for images, _ in here],
        "loader": lambda: [images for images, _ in loader],
    }


class _Transformed(paddle.io.Dataset):
    """What users write: open, convert, transform."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], Any]) -> None:
        super().__init__()
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(_open(self.paths[index])), 0


def _open(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _paddle(paths: list[str], batch_size: int, workers: int) -> dict[str, Callable[[], object]]:
    from paddle.vision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, interpolation="bicubic"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = [_open(path) for path in paths]
    samples = [transform(image) for image in images[:batch_size]]
    dataset = _Transformed(paths, transform)
    loader = paddle.io.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return {
        "decode": lambda: _each(_open, paths),
        "augment": lambda: _each(transform, images),
        "collate": lambda: [paddle.stack(samples) for _ in range(len(paths) // batch_size)],
        "together": lambda: [paddle.stack([dataset[k][0] for k in places]) for places in _places(paths, batch_size)],
        "loader": lambda: [images for images, _ in loader],
    }


def _timm(paths: list[str], batch_size: int, workers: int) -> dict[str, Callable[[], object]]:
    import torch
    from timm.data import create_transform

    torch.set_num_threads(1)
    transform = create_transform(SIZE, is_training=True, color_jitter=None, interpolation="bicubic")
    images = [_open(path) for path in paths]
    samples = [transform(image) for image in images[:batch_size]]

    class Pictures(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(_open(paths[index])), 0

    dataset = Pictures()
    loader = torch.utils.data.DataLoader(
        dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return {
        "decode": lambda: _each(_open, paths),
        "augment": lambda: _each(transform, images),
        "collate": lambda: [torch.stack(samples) for _ in range(len(paths) // batch_size)],
        "together": lambda: [torch.stack([dataset[k][0] for k in places]) for places in _places(paths, batch_size)],
        "loader": lambda: [images for images, _ in loader],
    }


def _each(function: Callable[[Any], object], items: list) -> None:
    """Call without keeping the results, whose memory would favour the side that comes later."""
    for item in items:
        function(item)


def _places(paths: list[str], batch_size: int) -> list[range]:
    return [range(first, first + batch_size) for first in range(0, len(paths), batch_size)]


def run(count: int = 64, rounds: int = 5, batch_size: int = 16, workers: int = 1) -> tuple[Results, Results]:
    """Images per second of each stage, of ours and of each peer that is installed.

    Args:
        count: Pictures; a multiple of batch_size.
        rounds: How often each side is measured, in turn; the median counts.
        batch_size: Pictures per batch.
        workers: Processes of the row `loader`; the other rows use this process.

    Returns:
        Side -> stage -> images per second (for `loader`, per worker), and side -> stage -> ratio of ours to it, each
        the median of the ratios of single rounds.

    Raises:
        ValueError: The batches do not fill the pictures.
    """
    if count % batch_size:
        raise ValueError(f"count is {count}; it must be a multiple of batch_size {batch_size}.")
    makers = {"ours": _ours, "paddle.vision.transforms": _paddle}
    if importlib.util.find_spec("timm") is not None:
        makers["timm"] = _timm
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), count)
        sides = {name: make(paths, batch_size, workers) for name, make in makers.items()}
        rates: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in sides}
        for stage in STAGES:
            for _ in range(rounds + 1):  # the first round warms up
                for name, stages in sides.items():
                    clock = time.perf_counter if stage == "loader" else time.process_time
                    start = clock()
                    stages[stage]()
                    seconds = clock() - start
                    rates[name][stage].append(count / seconds / (max(workers, 1) if stage == "loader" else 1))
    medians = {n: {s: statistics.median(v[1:]) for s, v in stages.items()} for n, stages in rates.items()}
    ratios = {
        name: {
            stage: statistics.median(ours / theirs for ours, theirs in zip(rates["ours"][stage][1:], values[1:]))
            for stage, values in stages.items()
        }
        for name, stages in rates.items()
    }
    return medians, ratios


def report(results: tuple[Results, Results]) -> str:
    """A table of images per second and core, with the ratio of ours to each peer."""
    medians, ratios = results
    head = f"{'images/s per core':28}" + "".join(f"{stage:>10}" for stage in STAGES)
    lines = [head]
    for name, stages in medians.items():
        lines.append(f"{name:28}" + "".join(f"{stages[stage]:10.0f}" for stage in STAGES))
    for name in list(medians)[1:]:
        lines.append(f"{'ours / ' + name:28}" + "".join(f"{ratios[name][stage]:10.2f}" for stage in STAGES))
    size = f"{WIDTH} x {HEIGHT} JPEG, random resized crop {SIZE} bicubic, flip, normalise; {os.cpu_count()} cores"
    return "\n".join([size, *lines])
