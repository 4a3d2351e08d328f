"""Small pictures and folders of them for the tests of the data part."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(height: int = 12, width: int = 16, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth random pixels, uint8 [H, W, C]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return coarse[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width] // 2 + rng.integers(
        0, 128, (height, width, channels), dtype=np.uint8
    )


def picture(height: int = 12, width: int = 16, seed: int = 0) -> Image.Image:
    """An RGB picture."""
    return Image.fromarray(pixels(height, width, seed))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def class_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 16)) -> Path:
    """PNG files in a folder for each class: `cat` -> cat/0.png, cat/1.png ..."""
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(*size, seed=1000 * place + number).save(root / name / f"{number}.png")
    return root


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    """A tar file of files: name -> content."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
