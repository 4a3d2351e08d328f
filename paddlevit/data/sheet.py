"""A contact sheet: pictures as the network really sees them, with their labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
from PIL import Image, ImageDraw

from paddlevit.data.dataset import ImageDataset
from paddlevit.data.mixing import Mixing
from paddlevit.data.sampler import EpochSampler, SampleKey
from paddlevit.preprocessing import Preprocessing

COLUMNS = 8
TILE = 112
LINE = 12
LINES = 2
GAP = 4
SHOWN_SHARE = 0.05


def contact_sheet(dataset: ImageDataset, path: Path, mixing: Optional[Mixing] = None, count: int = 32) -> None:
    """Write the first pictures of an epoch, after augmentation and mixing, as one PNG.

    A picture that cannot be read leaves its tile empty.

    Args:
        dataset: Training or evaluation data.
        path: The file.
        mixing: What training does to batches; None does not mix.
        count: Number of pictures.
    """
    sampler = EpochSampler(len(dataset), min(count, len(dataset)), shuffle=True, seed=dataset.seed)
    keys = next(iter(sampler))
    images = np.stack([_sample(dataset, key) for key in keys])  # [B, C, H, W]
    labels = dataset.labels[[key.index for key in keys]]
    if mixing is not None:
        mixed = mixing(paddle.to_tensor(images), paddle.to_tensor(labels), np.random.default_rng(dataset.seed))
        images, labels = mixed[0].numpy(), mixed[1].numpy()
    rows, columns = math.ceil(len(keys) / COLUMNS), min(COLUMNS, len(keys))
    tiles = [_tile(image, dataset.transform.preprocessing) for image in images]
    width, height = tiles[0].width + GAP, tiles[0].height + LINES * LINE
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (tile, label) in enumerate(zip(tiles, labels)):
        left, top = place % columns * width, place // columns * height
        sheet.paste(tile, (left, top))
        for line, text in enumerate(_words(label, dataset.class_names)[:LINES]):
            while text and draw.textlength(text) > width - GAP:
                text = text[:-1]
            draw.text((left + 2, top + tile.height + line * LINE), text, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def pixels_of(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Undo the normalisation: float32 [C, H, W] -> uint8 [H, W, 3], of the first channels where there are others."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    values = np.clip((image * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)
    values = values[:3] if len(values) >= 3 else np.repeat(values[:1], 3, axis=0)
    return values.transpose(1, 2, 0)  # [H, W, 3]


def _sample(dataset: ImageDataset, key: SampleKey) -> np.ndarray:
    """[C, H, W]; of the mean's colour if it cannot be read."""
    try:
        return dataset[key][0]
    except ValueError:
        return np.zeros(dataset.image_shape, np.float32)


def _tile(image: np.ndarray, preprocessing: Preprocessing) -> Image.Image:
    tile = Image.fromarray(pixels_of(image, preprocessing))
    factor = max(1, TILE // min(tile.size))
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)


def _words(label: np.ndarray, class_names: list[str]) -> list[str]:
    """What stands under a picture: its class, or the largest parts of a mixed or multi-label target."""
    names = [name if name.isascii() else f"class {place}" for place, name in enumerate(class_names)]
    if label.ndim == 0:
        return [names[int(label)]]
    if len(names) == 1:
        return [f"{names[0]} {float(label[0]):g}"]
    largest = [place for place in np.argsort(-label, kind="stable") if label[place] > SHOWN_SHARE]
    return [f"{100 * label[place]:.0f}% {names[place]}" if label[place] < 1 else names[place] for place in largest]
