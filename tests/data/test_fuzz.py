"""Damaged pictures of every supported format: each is read or refused in one line, and nothing crashes.

The usual run damages 1,000 files, the slow one 1,000 of every format.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from paddlevit.data import eval_transform, load_image
from paddlevit.data.check import check_sources, format_report
from paddlevit.data.images import ORIENTATION
from paddlevit.data.sources import FileList, FileSource
from paddlevit.inference import export_model
from paddlevit.preprocessing import Preprocessing
from tests.data.pictures import encoded, picture, pixels
from tests.inference.conftest import build
from tests.tools import call

COUNT = 1000
RECIPE = Preprocessing(image_size=(32, 32))


def _good() -> dict[str, bytes]:
    """A sound file of every format, by the ending of its name."""
    image = picture(40, 52)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    array = io.BytesIO()
    np.save(array, pixels())
    cuts = [picture(40, 52, seed) for seed in (1, 2)]
    files = {
        "jpg": encoded(image, "JPEG", exif=exif),
        "progressive.jpg": encoded(image, "JPEG", progressive=True, optimize=True),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image),
        "palette.png": encoded(image.convert("P"), transparency=3),
        "deep.png": encoded(Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30)),
        "alpha.png": encoded(image.convert("RGBA"), exif=exif),
        "bmp": encoded(image, "BMP"),
        "gif": encoded(image.convert("P"), "GIF", save_all=True, append_images=[c.convert("P") for c in cuts]),
        "webp": encoded(image, "WEBP"),
        "tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "tiff": encoded(image, "TIFF", exif=exif),
        "ppm": encoded(image, "PPM"),
        "pgm": encoded(image.convert("L"), "PPM"),
        "pbm": encoded(image.convert("1"), "PPM"),
        "npy": array.getvalue(),
        # Pillow knows these by their content, whatever they are called.
        "mpo.jpg": encoded(image, "MPO", save_all=True, append_images=cuts[:1]),
        "dib.bmp": encoded(image, "DIB"),
    }
    for feature, kind in (("jpg_2000", "JPEG2000"), ("avif", "AVIF")):
        if feature in features.get_supported():
            files[f"{feature}.jpg"] = encoded(image, kind)
    return files


def _damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, overwrite, flip, insert or leave out bytes, most often in the header."""
    values = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = int(len(values) * rng.random() ** 3)
        kind, length = rng.integers(5), int(rng.integers(1, 24))
        if kind == 0:
            del values[place:]
        elif kind == 1:
            values[place : place + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 2 and values:
            values[min(place, len(values) - 1)] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            values[place:place] = bytes(rng.choice([0, 255], length).astype(np.uint8))
        else:
            del values[place : place + length]
    return bytes(values)


def _write(root: Path, count: int) -> list[str]:
    """Damaged files of all formats in turn; their names."""
    rng, good = np.random.default_rng(0), _good()
    names = []
    for number in range(count):
        kind = list(good)[number % len(good)]
        names.append(f"{number}.{kind}")
        (root / names[-1]).write_bytes(_damage(good[kind], rng))
    return names


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    return root, _write(root, COUNT)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A small export."""
    path = tmp_path_factory.mktemp("export")
    export_model(build("vit"), path)
    return path


def _through_the_tools(folder: Path, count: int, export: Path) -> None:
    """predict answers or refuses every file, check_data lists every bad one; neither says anything else."""
    done = call("predict", export, folder, "--format", "json", "--topk", 1)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len({row["path"] for row in rows}) == len(rows) == count
    refused = {row["path"]: row["error"] for row in rows if "error" in row}
    assert min(len(refused), count - len(refused)) > count / 10
    assert all(path in message and "\n" not in message for path, message in refused.items())
    assert (done.code, done.err) == (1, f"{len(refused)} of {count} pictures could not be classified.\n")
    config = folder.parent / "fuzz.yaml"
    config.write_text(f"data: {{dataset: folder, root: '{folder.parent}', train: ., val: .}}\n")
    done = call("check_data", "-c", config, "--sheet", folder.parent / "sheet.png")
    assert (done.code, done.err) == (1, "")
    said = [line.split() for line in done.out.splitlines() if line.startswith("problem: train: ")]
    assert sum(int(words[2]) for words in said) == len(refused)


def test_damaged_files_go_through_the_tools(damaged, export, tmp_path):
    root, names = damaged
    (tmp_path / "only").symlink_to(root)
    _through_the_tools(tmp_path / "only", len(names), export)


@pytest.mark.slow
def test_a_thousand_damaged_files_of_every_format_go_through_the_tools(export, tmp_path):
    (tmp_path / "only").mkdir()
    names = _write(tmp_path / "only", COUNT * len(_good()))
    _through_the_tools(tmp_path / "only", len(names), export)


def test_a_picture_beyond_the_limit_is_refused_in_one_line(export, tmp_path):
    """Without Pillow's warning of a decompression bomb beside it."""
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    done = call("predict", export, tmp_path, "--format", "csv")
    assert "large.png cannot be read: it has 10000 x 9000 pixels, and the limit is 89478485" in done.out
    assert done.err == "1 of 1 pictures could not be classified.\n"


def test_sound_files_of_every_format_are_read():
    for kind, content in _good().items():
        assert eval_transform(RECIPE)(load_image(content)).shape == (3, 32, 32), kind


@pytest.mark.parametrize("channels", [1, 3])
def test_damaged_files_are_read_or_refused(damaged, channels):
    root, names = damaged
    recipe = RECIPE.adapted(channels=channels)
    shapes, refused = [], []
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of some damage that it can read past
            try:
                values = eval_transform(recipe)(load_image(root / name, channels))
            except ValueError as error:
                refused.append((str(root / name), str(error)))
                continue
        shapes.append(values.shape if np.isfinite(values).all() else None)
    assert set(shapes) == {(channels, 32, 32)}
    assert all(path in message and "\n" not in message for path, message in refused)
    assert min(len(shapes), len(refused)) > 100


def test_damaged_files_are_listed_by_the_check(damaged):
    root, names = damaged
    source = FileSource(FileList(root, names), np.zeros(COUNT, np.int64), ["only"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check_sources(source, source)
    bad = sum(len(messages) for messages in report.parts[0].bad.values())
    assert COUNT / 4 < bad < COUNT
    assert "unreadable" in format_report(report)
