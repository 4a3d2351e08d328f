"""Reading pictures: every kind of file comes out upright, in 8 bits and with the right channels, or is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import DataConfig
from paddlevit.data import load_image
from paddlevit.data.images import MAX_PIXELS, ORIENTATION, array_picture, open_image
from tests.data.pictures import encoded, picture, pixels


def _read(image: Image.Image, kind: str = "PNG", channels: int = 3, **options: object) -> np.ndarray:
    return np.asarray(load_image(encoded(image, kind, **options), channels))


def test_plain_pictures_are_those_of_pillow():
    image = picture()
    assert np.array_equal(_read(image), np.asarray(image))
    assert np.array_equal(_read(image, channels=1), np.asarray(image.convert("L")))
    grey = image.convert("L")
    assert np.array_equal(_read(grey), np.asarray(grey.convert("RGB")))
    jpeg = encoded(image, "JPEG")
    assert np.array_equal(np.asarray(load_image(jpeg)), np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
    cmyk = image.convert("CMYK")
    assert np.array_equal(_read(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB")))


def test_reads_paths_bytes_and_open_files(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    with open(path, "rb") as file:
        from_file = np.asarray(load_image(file))
    assert np.array_equal(np.asarray(load_image(path)), from_file)
    assert np.array_equal(np.asarray(load_image(str(path))), from_file)
    assert np.array_equal(np.asarray(load_image(path.read_bytes())), from_file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_noted_rotation_is_carried_out(orientation):
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(_read(picture(), exif=exif), turns[orientation](pixels()))
    for compression in (None, "tiff_lzw"):
        result = _read(picture(), "TIFF", tiffinfo={ORIENTATION: orientation}, compression=compression)
        assert np.array_equal(result, turns[orientation](pixels()))


def test_damaged_exif_data_do_not_hide_sound_pixels():
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00not a TIFF header at all")
    assert load_image(data).size == (16, 12)


def test_transparency_is_laid_over_white():
    image = picture().convert("RGBA")
    alpha = Image.fromarray(np.where(np.arange(16) < 8, 255, 0).astype(np.uint8)[None].repeat(12, 0))
    image.putalpha(alpha)
    result = _read(image)
    assert np.array_equal(result[:, :8], pixels()[:, :8])
    assert (result[:, 8:] == 255).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert _read(palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert _read(palette, transparency=0).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert (_read(Image.new("LA", (2, 2), (0, 0))) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    for channels in (1, 3):
        assert _read(deep, channels=channels).reshape(4, -1)[:, 0].tolist() == [0, 1, 128, 255]
    assert _read(deep, "TIFF", channels=1).tolist() == [[0, 1, 128, 255]]


def test_one_bit_pictures_are_black_and_white():
    image = Image.fromarray(np.array([[False, True]]))
    assert image.mode == "1"
    assert _read(image).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_numbers_without_a_range_are_refused():
    with pytest.raises(ValueError, match=r"its pixels are F numbers without a known range; save it as 8 or 16 bits"):
        _read(Image.new("F", (2, 2)), "TIFF")


def test_a_large_jpeg_may_be_decoded_smaller():
    data = encoded(picture(400, 600), "JPEG")
    assert load_image(data).size == (600, 400)
    assert load_image(data, least_side=90).size == (150, 100)
    assert load_image(data, least_side=101).size == (300, 200)
    assert load_image(encoded(picture(400, 600)), least_side=90).size == (600, 400)  # PNG has no such way


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not a picture, or of a kind that Pillow does not know"),
        (b"this is text, whatever the name says", "it is not a picture"),
        (None, "there is no such file"),
        (encoded(picture(64, 64), "JPEG")[:700], "image file is truncated"),
        (encoded(picture(64, 64))[:900], "(truncated|broken|data stream)"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path, content, reason):
    path = tmp_path / "cat.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cat\.jpg cannot be read: .*{reason}") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_picture(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: is a directory"):
        load_image(tmp_path)


def test_decompression_bombs_are_refused_before_they_are_decoded():
    bomb = encoded(Image.new("1", (12_000, 12_000)))
    assert len(bomb) < 50_000
    with pytest.raises(ValueError, match="the picture cannot be read"):
        load_image(bomb)
    small = encoded(picture())
    with pytest.raises(ValueError, match=r"it has 16 x 12 pixels, and the limit is 100"):
        load_image(small, max_pixels=100)
    assert open_image(small).size == (16, 12)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS == DataConfig().max_pixels


def test_programs_are_not_pictures():
    """Pillow would start Ghostscript to show this."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match="the picture cannot be read: it is EPS; supported are JPEG, MPO, PNG"):
        load_image(postscript)


def test_arrays_of_any_channels(tmp_path):
    values = np.random.default_rng(0).random((12, 16, 5)).astype(np.float32)
    path = tmp_path / "a.npy"
    for array in (values, values.transpose(2, 0, 1), values.astype(np.float64)):
        np.save(path, array)
        assert np.allclose(load_image(path, 5), values)
        assert np.allclose(load_image(path.read_bytes(), 5), values)
    np.save(path, np.full((3, 4, 5), 255, np.uint8))
    assert (load_image(path, 5) == 1.0).all()
    np.save(path, np.full((3, 4), 65535, np.uint16))
    assert (load_image(path, 1) == 1.0).all()
    np.save(path, pixels())
    assert np.array_equal(np.asarray(load_image(path)), pixels())


@pytest.mark.parametrize(
    ("array", "channels", "reason"),
    [
        (np.zeros((4, 4, 2), np.uint8), 3, r"its shape is \(4, 4, 2\); it must be \[H, W, 3\] or \[3, H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), 3, "its shape is"),
        (np.zeros((4, 4, 3), np.int32), 3, "its type is int32; it must be uint8, uint16 or floats in 0..1"),
        (np.full((4, 4, 2), np.nan), 2, "it holds infinite or undefined values"),
    ],
)
def test_arrays_that_are_no_pictures(array, channels, reason):
    with pytest.raises(ValueError, match=reason):
        array_picture(array, channels)


def test_array_files_run_no_code_and_have_a_limit(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read: Array can't be memory-mapped: Python objects"):
        load_image(path)
    np.save(path, np.zeros((20, 20, 5), np.uint8))
    with pytest.raises(ValueError, match="it has 2000 values, and the limit is 100 pixels"):
        load_image(path, 5, max_pixels=100)


def test_other_channels_need_arrays(tmp_path):
    with pytest.raises(ValueError, match="a picture has 1 or 3 channels; for 4, save arrays as .npy"):
        load_image(encoded(picture()), 4)
